//! The requests in flight on one worker, for the connections page.
//!
//! Owns: what an operator needs to know of each request while it lasts. Refuses to know: the exchange itself. Keeps: an
//! entry exists as long as its request; entries are overwritten and reused, so none is allocated per request, and long
//! paths are truncated.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Moment, Name};

/// The bytes kept of a method, and of a host or path.
const METHOD: usize = 16;
const SHOWN: usize = 96;

/// The requests in flight.
#[derive(Debug, Default)]
pub struct InFlight(RefCell<RequestTable>);

#[derive(Debug, Default)]
struct RequestTable {
    /// Includes entries of ended requests, which new ones overwrite.
    entries: Vec<Request>,
    free: Vec<usize>,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub struct Request {
    /// The connection that it arrived on.
    pub connection: u64,
    /// When its headers were complete.
    pub began: Moment,
    /// The HTTP version of the client.
    pub version: &'static str,
    /// The cluster and endpoint that it was sent to.
    pub at: Option<(Name, Arc<str>)>,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    method: Shown<METHOD>,
    host: Shown<SHOWN>,
    path: Shown<SHOWN>,
    /// Whether it is still in flight.
    open: bool,
}

/// The beginning of a text.
#[derive(Clone, Debug)]
struct Shown<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Default for Shown<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Shown<N> {
    fn set(&mut self, text: &str) {
        let len = text.len().min(N);
        self.bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len = u8::try_from(len).unwrap_or(u8::MAX);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..usize::from(self.len)]).into_owned()
    }
}

impl Default for Request {
    fn default() -> Self {
        Self {
            connection: 0,
            began: Moment::NEVER,
            version: "",
            at: None,
            received: 0,
            sent: 0,
            method: Shown::default(),
            host: Shown::default(),
            path: Shown::default(),
            open: false,
        }
    }
}

impl Request {
    /// The method.
    pub fn method(&self) -> String {
        self.method.text()
    }

    /// The host, truncated if it is long.
    pub fn host(&self) -> String {
        self.host.text()
    }

    /// The path without its query, truncated if it is long.
    pub fn path(&self) -> String {
        self.path.text()
    }
}

/// The entry of a request; removed on drop.
#[derive(Debug)]
pub(crate) struct InFlightEntry {
    of: Rc<InFlight>,
    place: usize,
}

impl InFlight {
    /// Adds a request.
    pub(crate) fn enter(
        self: &Rc<Self>,
        connection: u64,
        head: &Head,
        now: Moment,
    ) -> InFlightEntry {
        let mut table = self.0.borrow_mut();
        let place = table.free.pop().unwrap_or_else(|| {
            table.entries.push(Request::default());
            table.entries.len() - 1
        });
        let request = &mut table.entries[place];
        (request.connection, request.began, request.open) = (connection, now, true);
        request.version = head.version().word();
        (request.received, request.sent) = (0, 0);
        request.method.set(head.method_text());
        request.host.set(head.authority());
        request.path.set(head.path_only());
        InFlightEntry { place, of: Rc::clone(self) }
    }

    /// Returns all requests in flight, in the order in which they began.
    pub fn list(&self) -> Vec<Request> {
        let table = self.0.borrow();
        let mut all: Vec<Request> = table.entries.iter().filter(|one| one.open).cloned().collect();
        all.sort_by_key(|one| one.began);
        all
    }
}

impl InFlightEntry {
    /// Records where the request is sent.
    pub(crate) fn reach(&self, cluster: &Name, endpoint: &Arc<str>) {
        let at = Some((Arc::clone(cluster), Arc::clone(endpoint)));
        self.of.0.borrow_mut().entries[self.place].at = at;
    }

    /// Records how many body bytes were transferred.
    pub(crate) fn count(&self, received: u64, sent: u64) {
        let request = &mut self.of.0.borrow_mut().entries[self.place];
        (request.received, request.sent) = (received, sent);
    }
}

impl Drop for InFlightEntry {
    fn drop(&mut self) {
        let mut table = self.of.0.borrow_mut();
        let request = &mut table.entries[self.place];
        (request.open, request.at) = (false, None);
        table.free.push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_used_again() {
        let all = Rc::<InFlight>::default();
        let enter = |connection, path: &str| {
            let head = Head::request("GET", "http", "a.test", path);
            all.enter(connection, &head, Moment::from_micros(connection))
        };
        let first = enter(1, "/first?x");
        first.count(1, 2);
        let second = enter(2, &format!("/{}", "p".repeat(200)));
        drop(first);
        let third = enter(3, "/third");
        let shown: Vec<_> = all.list().iter().map(|r| (r.connection, r.path(), r.sent)).collect();
        assert_eq!(shown, [(2, format!("/{}", "p".repeat(95)), 0), (3, "/third".into(), 0)]);
        assert_eq!(all.0.borrow().entries.len(), 2);
        drop((second, third));
        assert!(all.list().is_empty());
    }
}
