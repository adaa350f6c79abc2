//! Contexts of guests: requests, connections, and uses of the filter.
//!
//! Owns: what happened for a context while its message waits, and the waits themselves. Refuses to know: how guests run, and what
//! a message is. Keeps: what happened is seen by the hook that waits for it, or by nobody once the context has ended.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use sluice_l7::{Reply, SideCallError, SideResponse};

use crate::conn_facts::GuestConnFacts;
use crate::limits::ARRIVALS;
use crate::pairs::FieldPair;
use crate::plugin::PluginFacts;

/// How a call of a guest ended.
pub(crate) type GuestCallEnd = Result<SideResponse, SideCallError>;

/// Something of a call that has arrived.
#[derive(Debug)]
pub(crate) struct ArrivedCall {
    pub(crate) token: u32,
    pub(crate) what: Arrival,
}

/// What has arrived.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The end of a call over HTTP.
    Http(Box<GuestCallEnd>),
    GrpcHeaders(Vec<FieldPair>),
    GrpcMessage(Bytes),
    GrpcTrailers(Vec<FieldPair>),
    /// The end of a gRPC call: its status and a text.
    GrpcEnd(u32, String),
}

/// A context: of a request, of a connection, or of a use of the filter.
#[derive(Debug)]
pub(crate) struct StreamCell {
    pub(crate) id: u32,
    /// The use that it belongs to.
    pub(crate) root: u32,
    plugin: RefCell<Arc<PluginFacts>>,
    /// The connection, if it is the context of one. Its directions take the places of request and response.
    pub(crate) connection: Option<Rc<GuestConnFacts>>,
    inner: RefCell<GuestStreamState>,
    /// Calls in flight.
    pub(crate) calls: Cell<usize>,
}

#[derive(Debug, Default)]
struct GuestStreamState {
    ended: bool,
    /// Whether the guest closed the connection.
    closed: bool,
    /// Whether request and response wait for the guest.
    waits: [bool; 2],
    /// Whether they were told to go on.
    goes: [bool; 2],
    reply: Option<Box<Reply>>,
    arrived: VecDeque<ArrivedCall>,
    wakers: [Option<Waker>; 2],
    /// Of calls that are to be dropped with the context.
    calling: Vec<Waker>,
}

impl StreamCell {
    pub(crate) fn new(
        id: u32,
        root: u32,
        plugin: Arc<PluginFacts>,
        connection: Option<Rc<GuestConnFacts>>,
    ) -> Rc<Self> {
        let (plugin, inner) = (RefCell::new(plugin), RefCell::default());
        Rc::new(Self { id, root, plugin, connection, inner, calls: Cell::new(0) })
    }

    pub(crate) fn plugin(&self) -> Arc<PluginFacts> {
        Arc::clone(&self.plugin.borrow())
    }

    /// Another configuration has the same use.
    pub(crate) fn adopt(&self, plugin: &Arc<PluginFacts>) {
        *self.plugin.borrow_mut() = Arc::clone(plugin);
    }

    /// Ends the context: nothing is delivered to it any more.
    pub(crate) fn end(&self) {
        let calling = {
            let mut inner = self.inner.borrow_mut();
            inner.ended = true;
            inner.arrived.clear();
            std::mem::take(&mut inner.calling)
        };
        calling.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.inner.borrow().ended
    }

    /// Has a call that is in flight woken when the context ends.
    pub(crate) fn wake_at_end(&self, waker: &Waker) {
        let mut inner = self.inner.borrow_mut();
        if !inner.calling.iter().any(|known| known.will_wake(waker)) {
            inner.calling.push(waker.clone());
        }
    }

    /// A hook begins: what was said about this direction before is over.
    pub(crate) fn begin(&self, response: bool) {
        self.inner.borrow_mut().goes[usize::from(response)] = false;
    }

    /// A guest has the message go on.
    pub(crate) fn go_on(&self, response: bool) {
        self.inner.borrow_mut().goes[usize::from(response)] = true;
        self.wake();
    }

    /// A guest closes the connection.
    pub(crate) fn close(&self) {
        self.inner.borrow_mut().closed = true;
        self.wake();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.borrow().closed
    }

    pub(crate) fn goes_on(&self, response: bool) -> bool {
        self.inner.borrow().goes[usize::from(response)]
    }

    /// A guest responds, in whatever direction waits.
    pub(crate) fn respond(&self, reply: Box<Reply>) {
        self.inner.borrow_mut().reply = Some(reply);
        self.wake();
    }

    pub(crate) fn take_reply(&self) -> Option<Box<Reply>> {
        self.inner.borrow_mut().reply.take()
    }

    /// Whether a message waits, which may get a reply.
    pub(crate) fn is_waiting(&self) -> bool {
        self.inner.borrow().waits.contains(&true)
    }

    /// Hands a call that has ended to the hook that waits; gives it back if none does.
    pub(crate) fn arrive(&self, call: ArrivedCall) -> Option<ArrivedCall> {
        let mut inner = self.inner.borrow_mut();
        if !inner.waits.contains(&true) {
            return Some(call);
        }
        inner.arrived.push_back(call);
        drop(inner);
        self.wake();
        None
    }

    pub(crate) fn take_arrived(&self) -> Option<ArrivedCall> {
        let mut inner = self.inner.borrow_mut();
        let had_room = inner.arrived.len() < ARRIVALS;
        let arrived = inner.arrived.pop_front();
        let calling = if had_room { Vec::new() } else { std::mem::take(&mut inner.calling) };
        drop(inner);
        calling.into_iter().for_each(Waker::wake);
        arrived
    }

    /// Whether more may arrive; if not, `waker` is woken once it may.
    pub(crate) fn has_room(&self, waker: &Waker) -> bool {
        let has_room = self.inner.borrow().arrived.len() < ARRIVALS;
        if !has_room {
            self.wake_at_end(waker);
        }
        has_room
    }

    /// Has a direction of a connection polled again when something happens.
    pub(crate) fn wake_with(&self, sent: bool, waker: &Waker) {
        self.inner.borrow_mut().wakers[usize::from(sent)] = Some(waker.clone());
    }

    /// Has both directions look at what happened.
    fn wake(&self) {
        let wakers = std::mem::take(&mut self.inner.borrow_mut().wakers);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A message that waits for its guest.
#[derive(Debug)]
pub(crate) struct StreamWait {
    cell: Rc<StreamCell>,
    response: bool,
}

impl StreamWait {
    pub(crate) fn new(cell: &Rc<StreamCell>, response: bool) -> Self {
        cell.inner.borrow_mut().waits[usize::from(response)] = true;
        Self { cell: Rc::clone(cell), response }
    }
}

impl Future for StreamWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.cell.inner.borrow_mut();
        let side = usize::from(self.response);
        let happened = inner.goes[side] || inner.reply.is_some() || inner.closed;
        if happened || !inner.arrived.is_empty() {
            return Poll::Ready(());
        }
        inner.wakers[side] = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for StreamWait {
    fn drop(&mut self) {
        let mut inner = self.cell.inner.borrow_mut();
        let side = usize::from(self.response);
        inner.waits[side] = false;
        inner.wakers[side] = None;
    }
}
