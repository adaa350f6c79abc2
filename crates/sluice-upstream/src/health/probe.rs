//! The probe of every check but HTTP requests.
//!
//! Owns: which conversation belongs to which kind of check, and the checks that are none. Refuses to know: the
//! conversations. Keeps: a connection per check, opened and secured like those of clients.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::LocalFuture;
use sluice_io::WorkerCx;

use super::dialogue::{CheckConnection, Dialogue, Encryption};
use super::mysql::MysqlDialogue;
use super::postgres::{PostgresDialogue, SSL_REQUEST};
use super::redis::RedisDialogue;
use super::send_expect::Steps;
use super::{CheckError, CheckPassed, CheckResult, HealthProbe, datagram, dns};
use crate::connector::{self, Preface};
use crate::endpoint::{EndpointState, Target};
use crate::plan::{CheckKind, ClusterPlan};

/// Checks an endpoint by a connection of its own.
#[derive(Debug)]
pub struct ConnectionProbe {
    /// How endpoints are reached and what is checked.
    pub plan: Arc<ClusterPlan>,
    /// Where the check goes.
    pub endpoint: Arc<EndpointState>,
    /// The worker on which the checks run.
    pub worker: Rc<WorkerCx>,
}

impl HealthProbe for ConnectionProbe {
    fn probe(&self) -> LocalFuture<CheckResult> {
        let (plan, endpoint, worker) =
            (Arc::clone(&self.plan), Arc::clone(&self.endpoint), Rc::clone(&self.worker));
        Box::pin(async move {
            let line = CheckConnection { plan: &plan, endpoint: &endpoint, worker: &worker };
            let kind = plan.health.as_ref().map(|health| &health.kind);
            check(&line, kind).await.map(|()| CheckPassed::default())
        })
    }
}

/// The dialogue of a check, and when it is encrypted; `None` if the check is no dialogue over a connection. `tls` is
/// whether the cluster has TLS, `local` whether the endpoint is a unix socket.
pub fn dialogue_of(
    kind: &CheckKind,
    tls: bool,
    local: bool,
) -> Option<(Encryption, Box<dyn Dialogue>)> {
    let first = |starttls| Encryption::First(Preface { starttls, ..Preface::default() });
    Some(match kind {
        CheckKind::Tcp(all) if !all.is_empty() => (first(None), Box::new(Steps::new(all.clone()))),
        CheckKind::Redis(check) => (first(None), Box::new(RedisDialogue::new(check.clone()))),
        CheckKind::Postgres(check) => {
            let dialogue = PostgresDialogue::new(check.clone(), tls || local);
            (first(tls.then_some(SSL_REQUEST)), Box::new(dialogue))
        }
        CheckKind::Mysql(check) => {
            (Encryption::Later, Box::new(MysqlDialogue::new(check.clone(), tls, local)))
        }
        CheckKind::Tcp(_)
        | CheckKind::Udp(_)
        | CheckKind::Tls
        | CheckKind::Http(_)
        | CheckKind::Grpc { .. }
        | CheckKind::Dns(_) => return None,
    })
}

async fn check(line: &CheckConnection<'_>, kind: Option<&CheckKind>) -> Result<(), CheckError> {
    let CheckConnection { plan, endpoint, worker } = line;
    let (tls, local) = (plan.tls.is_some(), matches!(endpoint.target, Target::Unix(_)));
    if let Some((encryption, mut dialogue)) = kind.and_then(|kind| dialogue_of(kind, tls, local)) {
        return line.converse(&encryption, &mut *dialogue).await;
    }
    match kind {
        Some(CheckKind::Udp(check)) => datagram::check(plan, line.datagram_target()?, check).await,
        Some(CheckKind::Dns(check)) => dns::check(plan, line.datagram_target()?, check).await,
        Some(CheckKind::Tls) => {
            connector::reach(plan, endpoint, worker, &Preface::default()).await?;
            Ok(())
        }
        _ => {
            // A reset leaves no TIME_WAIT behind, here or there.
            line.open().await?.reset_on_drop();
            Ok(())
        }
    }
}
