//! The probe of every check but HTTP requests.
//!
//! Owns: which conversation belongs to which kind of check. Refuses to know: the conversations. Keeps: a connection per
//! check, opened and secured like those of clients.

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

async fn check(line: &CheckConnection<'_>, kind: Option<&CheckKind>) -> Result<(), CheckError> {
    let CheckConnection { plan, endpoint, worker } = line;
    let (tls, local) = (plan.tls.is_some(), matches!(endpoint.target, Target::Unix(_)));
    let (mut steps, mut redis, mut postgres, mut mysql);
    let mut encryption = Encryption::First(Preface::default());
    let dialogue: &mut dyn Dialogue = match kind {
        Some(CheckKind::Tcp(all)) if !all.is_empty() => {
            steps = Steps::new(all.clone());
            &mut steps
        }
        Some(CheckKind::Redis(check)) => {
            redis = RedisDialogue::new(check.clone());
            &mut redis
        }
        Some(CheckKind::Postgres(check)) => {
            let starttls = tls.then_some(SSL_REQUEST);
            encryption = Encryption::First(Preface { starttls, ..Preface::default() });
            postgres = PostgresDialogue::new(check.clone(), tls || local);
            &mut postgres
        }
        Some(CheckKind::Mysql(check)) => {
            encryption = Encryption::Later;
            mysql = MysqlDialogue::new(check.clone(), tls, local);
            &mut mysql
        }
        Some(CheckKind::Udp(check)) => {
            return datagram::check(plan, line.datagram_target()?, check).await;
        }
        Some(CheckKind::Dns(check)) => {
            return dns::check(plan, line.datagram_target()?, check).await;
        }
        Some(CheckKind::Tls) => {
            connector::reach(plan, endpoint, worker, &Preface::default()).await?;
            return Ok(());
        }
        _ => {
            // A reset leaves no TIME_WAIT behind, here or there.
            line.open().await?.reset_on_drop();
            return Ok(());
        }
    };
    line.converse(&encryption, dialogue).await
}
