//! The datagrams of a flow, as they pass a library.
//!
//! Owns: the way from the seam to the hooks. Refuses to know: what the library does with them. Keeps: each datagram is one call.

use std::cell::RefCell;
use std::rc::Rc;

use sluice_io::{DatagramFilter, DatagramStep};
use sluice_sys::module::DatagramHook;

use super::instance::ConnectionInstance;

/// The datagram filter of one flow.
#[derive(Clone, Debug)]
pub(super) struct ModuleDatagrams(pub(super) Rc<RefCell<ConnectionInstance>>);

impl DatagramFilter for ModuleDatagrams {
    fn received(&mut self, datagram: &mut Vec<u8>) -> DatagramStep {
        self.0.borrow_mut().datagram(DatagramHook::Received, datagram)
    }

    fn sent(&mut self, datagram: &mut Vec<u8>) -> DatagramStep {
        self.0.borrow_mut().datagram(DatagramHook::Sent, datagram)
    }
}
