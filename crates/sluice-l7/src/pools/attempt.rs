//! An attempt to connect over HTTP/3 while TCP may be used as well.
//!
//! Owns: how far it is, and what it would say about the endpoint. Refuses to know: when it begins, and what follows.
//! Keeps: once it has ended, it stays as it is.

use std::cell::{Cell, RefCell};

use sluice_core::Moment;
use tokio::sync::Notify;

/// An attempt to connect to an endpoint over HTTP/3.
#[derive(Debug)]
pub(super) struct Http3Attempt {
    pub(super) began: Moment,
    pub(super) state: Cell<AttemptState>,
    /// Whether a connection over TCP has been there since the attempt began.
    pub(super) tcp_works: Cell<bool>,
    /// Why it failed, until that has been held against the endpoint.
    pub(super) failure: RefCell<Option<String>>,
    /// Notified when it has ended.
    pub(super) ended: Notify,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptState {
    Running,
    Established,
    Failed,
}

impl Http3Attempt {
    /// An attempt that begins now.
    pub(super) fn begun(began: Moment) -> Self {
        Self {
            began,
            state: Cell::new(AttemptState::Running),
            tcp_works: Cell::new(false),
            failure: RefCell::default(),
            ended: Notify::new(),
        }
    }

    /// Whether it is in this state.
    pub(super) fn is(&self, state: AttemptState) -> bool {
        self.state.get() == state
    }
}
