//! SSH by its identification string. Source: RFC 4253 §4.2.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::rc::Rc;

use sluice_core::{Facts, Protocol};
use sluice_io::{Inspection, Inspector};

use super::{InspectorDef, need};

/// SSH, where the client speaks first.
pub const SSH: Protocol = Protocol::new("ssh");

pub(super) static DEF: InspectorDef =
    InspectorDef { protocol: SSH, make: |_| Rc::new(SshInspector), upgrade: None, words: &[] };

const BEGINNING: &[u8] = b"SSH-";

/// Recognises SSH. Clients that wait for the server's string first are `silent`.
#[derive(Debug)]
pub struct SshInspector;

impl Inspector for SshInspector {
    fn protocol(&self) -> Protocol {
        SSH
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        let common = prefix.iter().zip(BEGINNING).take_while(|(a, b)| a == b).count();
        if common == BEGINNING.len() {
            Inspection::Match(Facts::of(SSH))
        } else if common == prefix.len() {
            need(1)
        } else {
            Inspection::No
        }
    }
}
