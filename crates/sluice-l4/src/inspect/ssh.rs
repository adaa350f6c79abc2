//! SSH by its identification string. Source: RFC 4253 §4.2.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use sluice_core::{Facts, Protocol};
use sluice_io::{Inspection, Inspector};

use super::need;

const BEGINNING: &[u8] = b"SSH-";

/// Recognises SSH. Clients that wait for the server's string first are `silent`.
#[derive(Debug)]
pub struct SshInspector;

impl Inspector for SshInspector {
    fn name(&self) -> &'static str {
        Protocol::Ssh.word()
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        let common = prefix.iter().zip(BEGINNING).take_while(|(a, b)| a == b).count();
        if common == BEGINNING.len() {
            Inspection::Match(Facts::of(Protocol::Ssh))
        } else if common == prefix.len() {
            need(1)
        } else {
            Inspection::No
        }
    }
}
