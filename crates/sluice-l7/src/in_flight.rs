//! The requests under way on one worker, for the page of connections.
//!
//! Owns: what an operator wants to know of each while it lasts. Refuses to know: the exchange itself.
//! Keeps: an entry is there as long as its request; nothing is allocated for one, so a long path is cut short.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;
use sluice_codec::Head;
use sluice_core::{Moment, Name};
use smallvec::SmallVec;

/// Bytes of a host and of a path that are shown.
const SHOWN: usize = 96;

type Shown = SmallVec<[u8; SHOWN]>;

/// The requests under way.
#[derive(Debug, Default)]
pub struct InFlight(RefCell<Slab<Request>>);

/// A request under way.
#[derive(Clone, Debug)]
pub struct Request {
    /// The connection that it came on.
    pub connection: u64,
    /// When its head had come.
    pub began: Moment,
    /// The version that the client speaks.
    pub version: &'static str,
    /// The cluster that it is sent to, and the endpoint that has it.
    pub at: Option<(Name, Arc<str>)>,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    method: SmallVec<[u8; 16]>,
    host: Shown,
    path: Shown,
}

impl Request {
    /// The method.
    pub fn method(&self) -> String {
        String::from_utf8_lossy(&self.method).into_owned()
    }

    /// The host, cut where it is long.
    pub fn host(&self) -> String {
        String::from_utf8_lossy(&self.host).into_owned()
    }

    /// The path without its query, cut where it is long.
    pub fn path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// A request's entry; it leaves on drop.
#[derive(Debug)]
pub(crate) struct Entry {
    of: Rc<InFlight>,
    place: usize,
}

impl InFlight {
    /// Enters a request.
    pub(crate) fn enter(self: &Rc<Self>, connection: u64, head: &Head, now: Moment) -> Entry {
        fn cut<const N: usize>(text: &str) -> SmallVec<[u8; N]>
        where
            [u8; N]: smallvec::Array<Item = u8>,
        {
            SmallVec::from_slice(&text.as_bytes()[..text.len().min(N)])
        }
        let request = Request {
            connection,
            began: now,
            version: head.version().word(),
            at: None,
            received: 0,
            sent: 0,
            method: cut(head.method_text()),
            host: cut(head.authority()),
            path: cut(head.path_only()),
        };
        Entry { place: self.0.borrow_mut().insert(request), of: Rc::clone(self) }
    }

    /// All of them now, in the order in which they began.
    pub fn list(&self) -> Vec<Request> {
        let mut all: Vec<Request> = self.0.borrow().iter().map(|(_, one)| one.clone()).collect();
        all.sort_by_key(|one| one.began);
        all
    }
}

impl Entry {
    /// Notes where it is sent.
    pub(crate) fn reach(&self, cluster: &Name, endpoint: &Arc<str>) {
        self.of.0.borrow_mut()[self.place].at = Some((Arc::clone(cluster), Arc::clone(endpoint)));
    }

    /// Notes how much has moved.
    pub(crate) fn count(&self, received: u64, sent: u64) {
        let mut all = self.of.0.borrow_mut();
        let request = &mut all[self.place];
        (request.received, request.sent) = (received, sent);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.of.0.borrow_mut().remove(self.place);
    }
}
