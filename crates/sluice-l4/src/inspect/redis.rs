//! Redis by its first command: an array of bulk strings, or an inline word.
//!
//! Source: the Redis serialization protocol specification.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::rc::Rc;

use sluice_core::{Facts, Protocol};
use sluice_io::{Inspection, Inspector};

use super::{InspectorDef, need};

/// Redis (RESP).
pub const REDIS: Protocol = Protocol::new("redis");

pub(super) static DEF: InspectorDef =
    InspectorDef { protocol: REDIS, make: |_| Rc::new(RedisInspector), upgrade: None, words: &[] };

/// Commands that people type, or probes send, without the framing.
const INLINE: &[&[u8]] =
    &[b"PING", b"QUIT", b"INFO", b"ECHO", b"AUTH", b"HELLO", b"SELECT", b"COMMAND"];

/// The most digits in an array's count.
const DIGITS_MAX: usize = 7;

/// How many bytes after the word of an inline command are awaited for its end.
const INLINE_MAX: usize = 1024;

/// Recognises Redis.
#[derive(Debug)]
pub struct RedisInspector;

impl Inspector for RedisInspector {
    fn protocol(&self) -> Protocol {
        REDIS
    }

    fn inspect(&self, prefix: &[u8]) -> Inspection {
        match prefix.split_first() {
            None => need(1),
            Some((b'*', rest)) => array(rest),
            Some(_) => inline(prefix),
        }
    }
}

/// `*<count>\r\n$`: the client sends arrays of bulk strings.
fn array(rest: &[u8]) -> Inspection {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let tail = rest.get(digits..).unwrap_or_default();
    if digits > DIGITS_MAX || (digits == 0 && !tail.is_empty()) {
        return Inspection::No;
    }
    let expected = b"\r\n$";
    let common = tail.iter().zip(expected).take_while(|(a, b)| a == b).count();
    if common == expected.len() {
        Inspection::Match(Facts::of(REDIS))
    } else if common == tail.len() {
        need(1)
    } else {
        Inspection::No
    }
}

fn inline(prefix: &[u8]) -> Inspection {
    let word = prefix.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (name, tail) = prefix.split_at_checked(word).unwrap_or_default();
    let begins = |command: &&&[u8]| {
        command.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    let Some(command) = INLINE.iter().find(begins) else { return Inspection::No };
    match tail.first() {
        None => need(1),
        Some(b'\r' | b'\n' | b' ') if command.len() == name.len() => {
            // An HTTP request line could begin like this, but it ends differently.
            match tail.iter().take(INLINE_MAX).position(|byte| *byte == b'\n') {
                None if tail.len() >= INLINE_MAX => Inspection::No,
                None => need(1),
                Some(end) if tail.get(..end).is_some_and(|line| contains(line, b" HTTP/")) => {
                    Inspection::No
                }
                Some(_) => Inspection::Match(Facts::of(REDIS)),
            }
        }
        Some(_) => Inspection::No,
    }
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|window| window == word)
}
