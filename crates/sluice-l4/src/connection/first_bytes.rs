//! Phase 2: what the first bytes of a client say.
//!
//! Owns: how many bytes and how much time inspection gets, and what follows if that was not enough. Refuses to know:
//! protocols; the inspectors judge. Keeps: the handler gets every byte that no inspector replied to.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sluice_core::limits::Limit;
use sluice_core::{Facts, Protocol, Reason};
use sluice_io::{Conn, Inspector, Stream};

use super::prefix::{Grown, Prefix, early_error};
use crate::inspect::{Look, Panel};
use crate::listener::{InspectPlan, OnTimeout};
use crate::metrics;
use crate::reasons;

/// Asks the inspectors until they agree, the client ends, the bound is reached or the time is over.
pub(super) async fn inspect(
    plan: &InspectPlan,
    inspectors: &[Rc<dyn Inspector>],
    conn: &Conn,
    stream: &mut Stream,
) -> Result<Facts, Reason> {
    let by = conn.worker.now().after(plan.timeout);
    let mut prefix = Prefix::new(plan.bytes);
    let mut start = 0;
    let mut full = false;
    let mut panel = Panel::new(inspectors);
    let looking = async {
        loop {
            match panel.look(&prefix.bytes[start..]) {
                Look::Decided(facts) => return Ok(Some(facts)),
                Look::Malformed => return Err(reasons::INSPECT_MALFORMED),
                Look::Reply { bytes, consumed } => {
                    start += consumed;
                    poll_fn(|cx| Poll::Ready(stream.send(cx, &conn.worker, bytes)))
                        .await
                        .map_err(|error| early_error(conn, &error))?;
                    continue;
                }
                Look::More => {}
            }
            match prefix.grow(stream, conn).await? {
                Grown::Bytes => {}
                Grown::End if prefix.bytes.len() == start => return Err(reasons::INSPECT_CLOSED),
                // No more bytes will come; the decision is made with what is there.
                Grown::End => return Ok(None),
                Grown::Full => {
                    full = true;
                    return Ok(None);
                }
            }
        }
    };
    let late = match conn.until(by, looking).await {
        Ok(Err(reason)) => return Err(reason),
        Ok(Ok(Some(facts))) => {
            prefix.give_back(stream, conn, start)?;
            return Ok(facts);
        }
        Ok(Ok(None)) => false,
        Err(_) => true,
    };
    if let Some(facts) = panel.give_up(&prefix.bytes[start..]) {
        prefix.give_back(stream, conn, start)?;
        return Ok(facts);
    }
    if full {
        metrics::count_limit(&conn.worker, Limit::InspectBytes);
    }
    if plan.on_timeout == OnTimeout::Close && (late || full) {
        return Err(if full { reasons::INSPECT_TOO_LARGE } else { reasons::INSPECT_TIMEOUT });
    }
    prefix.give_back(stream, conn, start)?;
    let silent = prefix.bytes.len() == start;
    Ok(Facts::of(if silent { Protocol::SILENT } else { Protocol::UNKNOWN }))
}
