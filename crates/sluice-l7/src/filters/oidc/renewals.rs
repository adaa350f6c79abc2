//! Sessions whose tokens are being renewed.
//!
//! Owns: that a refresh token is sent once by a worker, and what came of it for the requests that come with the same one.
//! Refuses to know: how tokens are renewed. Keeps: what is remembered is bounded in number and time; a client that leaves
//! does not end what others wait for.
//!
//! A browser sends several requests at once, all with the session of before. A provider that rotates refresh tokens takes
//! the second use of one for a theft (RFC 9700 §4.14), so that those that are late get what the first got.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, Moment};
use sluice_io::WorkerCx;
use sluice_l4::metrics::count_limit;
use tokio::sync::watch;

use super::provider::LoginProvider;
use super::refusal::LoginRefusal;
use super::session::LoginSession;
use crate::side_calls::SideCalls;

/// How long what came of a renewal is kept for requests that are late.
const KEPT: Duration = Duration::from_secs(60);

/// How long after a provider did not answer it is asked again for the same session.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What came of a renewal.
pub(super) type Renewed = Result<Arc<LoginSession>, LoginRefusal>;

/// A renewal, and until when it is remembered once it has ended.
#[derive(Debug)]
struct Renewal {
    ended: watch::Receiver<Option<(Renewed, Moment)>>,
}

impl Renewal {
    fn is_over(&self, now: Moment) -> bool {
        self.ended.borrow().as_ref().is_some_and(|(_, until)| *until <= now)
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }
}

/// The renewals of a worker, by the hash of the refresh token.
#[derive(Debug, Default)]
pub(super) struct Renewals(RefCell<HashMap<[u8; 32], Renewal>>);

impl Renewals {
    /// Renews the tokens of a session, or waits for who does already.
    pub(super) fn renewed(
        &self,
        provider: &Arc<LoginProvider>,
        session: &LoginSession,
        calls: SideCalls,
        worker: &Rc<WorkerCx>,
    ) -> LocalFuture<Renewed> {
        let key = key(provider.id, session);
        let now = worker.now();
        let mut all = self.0.borrow_mut();
        let known = all.get(&key).filter(|own| !own.is_over(now)).map(|own| own.ended.clone());
        let ended = known.or_else(|| {
            make_room(&mut all, worker, now)?;
            let ended = begin(Arc::clone(provider), session.clone(), calls, worker);
            all.insert(key, Renewal { ended: ended.clone() });
            Some(ended)
        });
        Box::pin(async move {
            let mut ended = ended.ok_or(LoginRefusal::Busy)?;
            let ended = ended.wait_for(Option::is_some).await;
            let ended = ended.ok().and_then(|ended| ended.clone());
            ended.map_or(Err(LoginRefusal::Unavailable), |(renewed, _)| renewed)
        })
    }
}

/// The refresh token is not kept itself.
fn key(provider: u64, session: &LoginSession) -> [u8; 32] {
    let mut context = digest::Context::new(&SHA256);
    context.update(&provider.to_be_bytes());
    context.update(session.refresh_token.as_deref().unwrap_or_default().as_bytes());
    *context.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// Forgets what is over and, at the bound, what has ended; `None` if all of them are in flight.
fn make_room(all: &mut HashMap<[u8; 32], Renewal>, worker: &WorkerCx, now: Moment) -> Option<()> {
    let max = worker.limits.size(Limit::OidcRenewals);
    if all.len() < max {
        return Some(());
    }
    all.retain(|_, own| !own.is_over(now));
    if all.len() >= max {
        count_limit(worker, Limit::OidcRenewals);
        all.retain(|_, own| !own.has_ended());
    }
    (all.len() < max).then_some(())
}

/// Renews on a task of its own.
fn begin(
    provider: Arc<LoginProvider>,
    session: LoginSession,
    calls: SideCalls,
    worker: &Rc<WorkerCx>,
) -> watch::Receiver<Option<(Renewed, Moment)>> {
    let (sender, receiver) = watch::channel(None);
    let weak = Rc::downgrade(worker);
    worker.spawn(async move {
        let Some(worker) = weak.upgrade() else { return };
        let renewed = provider.renew(&calls, &worker, &session).await.map(Arc::new);
        let kept = match renewed {
            Ok(_) | Err(LoginRefusal::Code) => KEPT,
            Err(_) => RETRY_AFTER,
        };
        let _ = sender.send(Some((renewed, worker.now().after(kept))));
    });
    receiver
}
