//! What the filter keeps of a request between its hooks.
//!
//! Owns: the context of a request, and what is held of its bodies. Refuses to know: when something is held. Keeps: what is held
//! goes on in the order in which it came.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use sluice_codec::Head;
use sluice_l7::filters::Cx;

use crate::metrics::GuestInstance;
use crate::stream::StreamCell;
use crate::vm::Vm;

/// What the filter keeps of a request.
#[derive(Debug)]
pub(crate) struct GuestRequest {
    pub(crate) vm: Rc<Vm>,
    pub(crate) cell: Rc<StreamCell>,
    pub(crate) failed: bool,
    /// Of request and response: what the guest holds of the body.
    pub(crate) held: [Bytes; 2],
    /// Trailers that it has seen with the last piece.
    pub(crate) trailers: [Option<Box<Head>>; 2],
    _instance: GuestInstance,
}

/// Stands for the context of a request that found no instance: its response does not look for one again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WithoutGuest;

/// A piece of a body that the guest has.
#[derive(Debug, Default)]
pub(crate) struct HeldPiece {
    /// What the guest has let go on; it goes before the rest.
    pub(crate) sent: Bytes,
    pub(crate) body: Bytes,
    /// The trailers, if the guest sees them with the last piece.
    pub(crate) trailers: Option<Box<Head>>,
}

impl GuestRequest {
    pub(crate) fn new(vm: Rc<Vm>, cell: Rc<StreamCell>, instance: GuestInstance) -> Self {
        let (held, trailers) = Default::default();
        Self { vm, cell, failed: false, held, trailers, _instance: instance }
    }

    /// What is held of a body; it has been let go on if the guest said so since.
    pub(crate) fn take_held(&mut self, response: bool) -> HeldPiece {
        let held = std::mem::take(&mut self.held[usize::from(response)]);
        if self.cell.goes_on(response) {
            HeldPiece { sent: held, ..HeldPiece::default() }
        } else {
            HeldPiece { body: held, ..HeldPiece::default() }
        }
    }
}

/// What the filter keeps of the request.
pub(crate) fn of_request<'c>(cx: &'c Cx<'_>) -> Option<&'c GuestRequest> {
    cx.state.as_ref()?.downcast_ref()
}

/// Takes it, to put it back.
pub(crate) fn take(cx: &mut Cx<'_>) -> Option<Box<GuestRequest>> {
    if !cx.state.as_ref()?.is::<GuestRequest>() {
        return None;
    }
    cx.state.take()?.downcast().ok()
}

/// Two pieces as one; neither is copied if the other is empty.
pub(crate) fn joined(first: &Bytes, second: &Bytes) -> Bytes {
    if first.is_empty() || second.is_empty() {
        return if first.is_empty() { second.clone() } else { first.clone() };
    }
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(first);
    all.extend_from_slice(second);
    all.freeze()
}
