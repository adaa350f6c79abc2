//! Scripted connections for tests, in place of real ones.
//!
//! Owns: the script of a pool. Refuses to know: what a test is about. Keeps: an attempt that the script does not cover
//! fails the test.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use sluice_codec::scripted::ScriptedStream;
use sluice_core::Reason;
use sluice_io::WorkerCx;
use sluice_upstream::EndpointState;
use sluice_upstream::connector::ConnectFailure;

use super::{ClusterPool, PooledConn};

/// The outcomes of the next attempts to connect.
pub(crate) type ScriptedConnects = RefCell<VecDeque<ScriptedConnect>>;

/// The scripted outcome of an attempt to connect.
#[derive(Debug)]
pub(crate) enum ScriptedConnect {
    /// It gets a connection; `true` if the connection carried requests before.
    Stream(ScriptedStream, bool),
    /// It fails, and the endpoint is to blame.
    Fails(Reason),
    /// It never ends.
    Never,
    /// What the pool itself does.
    Real,
}

impl ClusterPool {
    pub(super) fn take_scripted(&self) -> Option<PooledConn> {
        let mut scripted = self.scripted.borrow_mut();
        match scripted.pop_front()? {
            ScriptedConnect::Stream(stream, reused) => Some(PooledConn::Scripted(stream, reused)),
            failure => {
                scripted.push_front(failure);
                None
            }
        }
    }

    pub(super) async fn fail_as_scripted(
        &self,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<(), ConnectFailure> {
        let next = self.scripted.borrow_mut().pop_front();
        match next {
            Some(ScriptedConnect::Fails(why)) => {
                self.handle.note_failure(worker, endpoint, why);
                Err(ConnectFailure { why, errno: None, detail: None })
            }
            Some(ScriptedConnect::Never) => std::future::pending().await,
            Some(ScriptedConnect::Real) => Ok(()),
            Some(ScriptedConnect::Stream(..)) | None => panic!("nothing is scripted to fail here"),
        }
    }
}
