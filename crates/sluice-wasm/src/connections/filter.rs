//! The filter: functions of a guest for connections and for their bytes.
//!
//! Owns: what becomes of a connection when it begins and ends. Refuses to know: what guests do. Keeps: what is kept of a connection is
//! forgotten when it ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use sluice_core::{ConnInfo, Verdict};
use sluice_io::{Admit, ByteFilter, ConnectionFilter, WorkerCx};
use sluice_l7::reasons;

use super::bytes::GuestBytes;
use super::open::{GuestConnVerdict, OpenGuest};
use crate::in_use::{GuestUse, OnGuestError};
use crate::running::RunningGuest;
use crate::values;

/// The connections that are open, by their numbers.
type OpenGuests = RefCell<HashMap<u64, Rc<OpenGuest>>>;

/// The filter of one worker.
#[derive(Debug)]
pub(crate) struct ConnWasmFilter {
    running: Rc<RunningGuest>,
    worker: Rc<WorkerCx>,
    /// Whether a relay moves bytes through it.
    sees_bytes: bool,
    open: Rc<OpenGuests>,
}

impl ConnWasmFilter {
    /// Begins the instance, so that it is there before the first connection.
    pub(crate) fn new(plan: GuestUse, sees_bytes: bool, worker: &Rc<WorkerCx>) -> Self {
        let running = Rc::new(RunningGuest::new(plan, worker));
        if let Err(failure) = running.current(worker) {
            running.note(&failure, 0);
        }
        Self { running, worker: Rc::clone(worker), sees_bytes, open: Rc::default() }
    }
}

impl ConnectionFilter for ConnWasmFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let open = match OpenGuest::begin(&self.running, &self.worker, conn) {
            Ok(open) => open,
            Err(failure) => {
                self.running.note(&failure, conn.id);
                let said = self.running.said(&failure);
                return Admit::Now(match self.running.plan.on_error {
                    OnGuestError::Fail => {
                        conn.note(said);
                        Verdict::Reject(failure.reason())
                    }
                    OnGuestError::Continue => {
                        conn.values.set(&values::ERROR, said);
                        Verdict::Continue
                    }
                });
            }
        };
        let all = Rc::clone(&self.open);
        match open.opened() {
            GuestConnVerdict::Pause => Admit::wait(async move {
                let verdict = open.opens().await;
                move |conn: &ConnInfo| admitted(&all, open, conn, &verdict)
            }),
            verdict => Admit::Now(admitted(&all, open, conn, &verdict)),
        }
    }

    fn ended(&self, conn: &ConnInfo) {
        let open = self.open.borrow_mut().remove(&conn.id);
        if let Some(open) = open {
            open.end(conn);
        }
    }

    fn byte_filter(&self, conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        let open = self.open.borrow().get(&conn.id).filter(|_| self.sees_bytes).map(Rc::clone)?;
        Some(Box::new(GuestBytes(open)))
    }
}

/// What becomes of a connection after the function for new ones.
fn admitted(
    all: &OpenGuests,
    open: Rc<OpenGuest>,
    conn: &ConnInfo,
    verdict: &GuestConnVerdict,
) -> Verdict {
    let reason = match verdict {
        GuestConnVerdict::Continue | GuestConnVerdict::Pause => {
            open.publish(conn);
            all.borrow_mut().insert(conn.id, open);
            return Verdict::Continue;
        }
        GuestConnVerdict::Close => reasons::WASM_CLOSED,
        GuestConnVerdict::Cut(reason) => *reason,
    };
    open.end(conn);
    Verdict::Reject(reason)
}
