//! A host for the driver, which gives and takes anything.
//!
//! Owns: one request, one connection, one configuration and one list of endpoints. Refuses to know: who calls. Keeps: what it lends stays
//! until it is changed.

use sluice_abi::AbiTicket;
use sluice_sys::module::{
    BalancerCall, ConfigCall, ConnectionCall, EndpointFact, EndpointNumber, HeaderPart, HostAnswer,
    HostRefusal, ModuleCall, RequestFact,
};

/// A host whose headers, bodies and bytes are all the same.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) bytes: Vec<u8>,
}

impl Host {
    fn some(&self, index: usize) -> HostAnswer<Option<&[u8]>> {
        match index {
            0 => Ok(Some(&self.bytes)),
            1 => Ok(None),
            _ => Err(HostRefusal::NotNow),
        }
    }
}

impl ModuleCall for Host {
    fn header(&mut self, _: HeaderPart, _: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        self.some(index)
    }
    fn headers(&mut self, _: HeaderPart, tell: &mut dyn FnMut(&[u8], &[u8])) -> HostAnswer<()> {
        (0..5).for_each(|_| tell(&self.bytes, &self.bytes));
        Ok(())
    }
    fn add_header(&mut self, _: HeaderPart, name: &[u8], value: &[u8]) -> HostAnswer<()> {
        self.bytes = [name, value].concat();
        Ok(())
    }
    fn set_header(&mut self, _: HeaderPart, _: &[u8], value: &[u8]) -> HostAnswer<()> {
        self.bytes = value.to_vec();
        Ok(())
    }
    fn remove_header(&mut self, _: HeaderPart, name: &[u8]) -> HostAnswer<bool> {
        Ok(name.is_empty())
    }
    fn body(&mut self) -> HostAnswer<&[u8]> {
        Ok(&self.bytes)
    }
    fn set_body(&mut self, bytes: &[u8]) -> HostAnswer<()> {
        self.bytes = bytes.to_vec();
        Ok(())
    }
    fn respond(&mut self, _: u32, fields: &[(&[u8], &[u8])], _: &[u8], _: &[u8]) -> HostAnswer<()> {
        self.bytes =
            fields.iter().flat_map(|(name, value)| [*name, *value]).flatten().copied().collect();
        Ok(())
    }
    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>> {
        self.some(name.len())
    }
    fn set_value(&mut self, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Err(HostRefusal::TooLarge)
    }
    fn fact(&mut self, _: RequestFact) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(&self.bytes))
    }
    fn count(&mut self, _: u32, _: u64) -> HostAnswer<()> {
        Ok(())
    }
    fn reroute(&mut self) -> HostAnswer<()> {
        Ok(())
    }
    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        Ok(AbiTicket { id: 0, generation: 1 })
    }
    fn call(&mut self, _: &[u8], _: &[(&[u8], &[u8])], _: &[u8], _: u64) -> HostAnswer<()> {
        Err(HostRefusal::NotAllowed)
    }
    fn call_answer(&mut self) -> HostAnswer<Option<(u32, &[u8])>> {
        Ok(Some((200, &self.bytes)))
    }
    fn call_header(&mut self, _: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        self.some(index)
    }
    fn log(&mut self, _: i32, line: String) {
        assert!(!line.contains(char::is_control));
    }
}

impl ConnectionCall for Host {
    fn fact(&mut self, _: RequestFact) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(&self.bytes))
    }
    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>> {
        self.some(name.len())
    }
    fn set_value(&mut self, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Ok(())
    }
    fn count(&mut self, _: u32, _: u64) -> HostAnswer<()> {
        Ok(())
    }
    fn bytes(&mut self) -> HostAnswer<&[u8]> {
        Ok(&self.bytes)
    }
    fn set_bytes(&mut self, bytes: &[u8]) -> HostAnswer<()> {
        self.bytes = bytes.to_vec();
        Ok(())
    }
    fn note(&mut self, _: &[u8]) -> HostAnswer<()> {
        Ok(())
    }
    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        Err(HostRefusal::NotNow)
    }
    fn log(&mut self, _: i32, line: String) {
        assert!(!line.contains(char::is_control));
    }
}

#[derive(Debug)]
pub(super) struct Checked;

impl ConfigCall for Checked {
    fn refuse(&mut self, why: String) {
        assert!(!why.contains(char::is_control));
    }
    fn counter(&mut self, _: &[u8]) -> HostAnswer<u32> {
        Ok(0)
    }
    fn edits_target(&mut self) {}
}

impl BalancerCall for Host {
    fn fact(&mut self, index: usize, _: EndpointFact) -> HostAnswer<Option<&[u8]>> {
        self.some(index)
    }
    fn number(&mut self, index: usize, _: EndpointNumber) -> HostAnswer<u64> {
        if index < 2 { Ok(index as u64) } else { Err(HostRefusal::Invalid) }
    }
    fn is_open(&mut self, index: usize) -> HostAnswer<bool> {
        if index < 2 { Ok(index == 0) } else { Err(HostRefusal::NotNow) }
    }
    fn hash(&mut self) -> HostAnswer<Option<u64>> {
        Ok(self.bytes.first().map(|byte| u64::from(*byte)))
    }
    fn random(&mut self, bound: u64) -> HostAnswer<u64> {
        bound.checked_sub(1).ok_or(HostRefusal::Invalid)
    }
}
