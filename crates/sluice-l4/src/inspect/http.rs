//! HTTP by its first bytes: a request line, or the HTTP/2 preface.
//!
//! Source: RFC 9112 §3 (request line), RFC 9113 §3.4 (preface).
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::rc::Rc;

use sluice_core::{Facts, Protocol};
use sluice_io::{Inspection, Inspector};

use super::{InspectorDef, need};

/// HTTP/1.0 or HTTP/1.1.
pub const HTTP1: Protocol = Protocol::new("http1");

/// HTTP/2 with prior knowledge.
pub const HTTP2: Protocol = Protocol::new("http2");

pub(super) static HTTP1_DEF: InspectorDef =
    InspectorDef { protocol: HTTP1, make: |_| Rc::new(Http1Inspector), upgrade: None, words: &[] };

pub(super) static HTTP2_DEF: InspectorDef =
    InspectorDef { protocol: HTTP2, make: |_| Rc::new(Http2Inspector), upgrade: None, words: &[] };

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is accepted.
const METHOD_MAX: usize = 32;

/// The most bytes of empty lines that are skipped.
const EMPTY_MAX: usize = 32;

/// Recognises HTTP/1.0 and HTTP/1.1.
#[derive(Debug)]
pub struct Http1Inspector;

impl Inspector for Http1Inspector {
    fn protocol(&self) -> Protocol {
        HTTP1
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        // Empty lines before the request line are skipped, RFC 9112 §2.2.
        let skipped = prefix.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if skipped > EMPTY_MAX {
            return Inspection::No;
        }
        let line = prefix.get(skipped..).unwrap_or_default();
        let method = line.iter().take_while(|byte| is_token(**byte)).count();
        match line.get(method) {
            None if method <= METHOD_MAX => return need(1),
            Some(b' ') if (1..=METHOD_MAX).contains(&method) => {}
            _ => return Inspection::No,
        }
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else { return need(1) };
        let line = line.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        match version {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => {
                Inspection::Match(Facts::of(HTTP1))
            }
            _ => Inspection::No,
        }
    }
}

/// Characters of a token, RFC 9110 §5.6.2, as far as methods use them.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'!' | b'#' | b'+' | b'.')
}

/// Recognises HTTP/2 with prior knowledge.
#[derive(Debug)]
pub struct Http2Inspector;

impl Inspector for Http2Inspector {
    fn protocol(&self) -> Protocol {
        HTTP2
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        let common = prefix.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        if common == PREFACE.len() {
            Inspection::Match(Facts::of(HTTP2))
        } else if common == prefix.len() {
            need(1)
        } else {
            Inspection::No
        }
    }
}
