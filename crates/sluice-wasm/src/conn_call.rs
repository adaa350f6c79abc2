//! A connection, as far as a function of a guest has it.
//!
//! Owns: which bytes may be read and changed. Refuses to know: when a function runs. Keeps: only the bytes at hand are changed.

use bytes::Bytes;

use crate::abi::Status;
use crate::call::{CallResult, GuestCall};
use crate::conn_facts::GuestConnFacts;

/// A connection, while a function of its guest runs.
#[derive(Debug)]
pub(crate) struct GuestConnCall<'a> {
    facts: &'a GuestConnFacts,
    /// The bytes at hand, and whether they go to the client.
    bytes: Option<(bool, &'a mut Bytes)>,
}

impl<'a> GuestConnCall<'a> {
    /// Without bytes.
    pub(crate) const fn new(facts: &'a GuestConnFacts) -> Self {
        Self { facts, bytes: None }
    }

    pub(crate) const fn with(facts: &'a GuestConnFacts, sent: bool, bytes: &'a mut Bytes) -> Self {
        Self { facts, bytes: Some((sent, bytes)) }
    }
}

impl GuestCall for GuestConnCall<'_> {
    /// Those that are not at hand are empty, as in Envoy.
    fn bytes(&self, sent: bool) -> CallResult<Bytes> {
        match &self.bytes {
            Some((side, bytes)) if *side == sent => Ok(Bytes::clone(bytes)),
            _ => Ok(Bytes::new()),
        }
    }

    /// As bytes that are not at hand.
    fn body(&self, _response: bool) -> CallResult<Bytes> {
        Ok(Bytes::new())
    }

    fn set_bytes(&mut self, sent: bool, new: Bytes) -> CallResult<()> {
        match &mut self.bytes {
            Some((side, bytes)) if *side == sent => {
                **bytes = new;
                Ok(())
            }
            _ => Err(Status::NotFound),
        }
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.facts.property(path)
    }

    fn set_property(&mut self, path: &[&str], value: &[u8]) -> CallResult<()> {
        self.facts.share(path, value)
    }

    fn request(&self) -> u64 {
        self.facts.id
    }
}
