//! `ext_authz`: asks a service whether a connection may be served.
//!
//! Owns: the settings, and what becomes of a connection that the service does not decide about. Refuses to know: how the
//! service decides. Keeps: without a decision in time nobody is served, unless the configuration says so.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{ConnInfo, Name, Node, Plain, Setting, Shape, Spanned, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::filters::{CheckContext, FilterFactory, long_form_of};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l4::reasons;
use sluice_upstream::Cluster;

use crate::filters::ext_authz::messages::{CHECK, CheckResponse};
use crate::filters::ext_authz::question;
use crate::filters::ext_authz::settings::ContextTexts;
use crate::side_calls::SideCalls;

sluice_core::section! {
    /// Asks a service whether connections may be served, over gRPC (`envoy.service.auth.v3.Authorization/Check`).
    pub struct ConnectionAuthz {
        /// The cluster of the service.
        pub cluster: Spanned<Name>,
        /// The time for its answer.
        pub timeout: Duration = "200ms",
        /// Whether connections are served that the service does not decide about: it cannot be reached, is late, or fails.
        pub allow_on_error: bool = "false",
        /// Whether the service is sent the client's certificate (`source.certificate`), in PEM and percent-encoded.
        pub client_certificate: bool = "false",
        /// What the service is told besides (context extensions).
        pub context: ContextTexts,
    }
}

/// The factory.
#[derive(Debug)]
pub struct ConnectionAuthzFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionAuthzFactory {
    fn name(&self) -> &'static str {
        "ext_authz"
    }

    fn help(&self) -> &'static str {
        "Asks a service whether connections may be served."
    }

    fn shape(&self) -> Shape {
        ConnectionAuthz::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionAuthz>(settings)
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let settings = context.bind::<ConnectionAuthz>(settings)?;
        let cluster = context.cluster(&settings.cluster, "cluster")?;
        Some(Arc::new(ConnectionAuthzPlan { settings, cluster }))
    }
}

#[derive(Clone, Debug)]
struct ConnectionAuthzPlan {
    settings: ConnectionAuthz,
    cluster: Arc<Cluster>,
}

impl ConnectionFilterPlan for ConnectionAuthzPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, _: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(ConnectionAuthzFilter { plan: self.clone(), worker: Rc::clone(worker) })
    }
}

#[derive(Debug)]
struct ConnectionAuthzFilter {
    plan: ConnectionAuthzPlan,
    worker: Rc<WorkerCx>,
}

impl ConnectionFilter for ConnectionAuthzFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let ConnectionAuthz { timeout, allow_on_error, context, .. } = &self.plan.settings;
        let (subject, certificate) = (ConnSubject::of(conn), self.plan.settings.client_certificate);
        let question = question::of_connection(&subject, certificate, context.texts());
        let by = self.worker.now().after(*timeout);
        let calls = SideCalls::of_worker(&self.worker);
        let called = calls.call_grpc(&self.plan.cluster, CHECK, &question, by);
        let allow_on_error = *allow_on_error;
        Admit::wait(async move {
            let answer = called.await;
            move |conn: &ConnInfo| match answer {
                Ok(CheckResponse { status: Some(status), .. }) if status.code == 0 => {
                    Verdict::Continue
                }
                // An answer without a status allows nothing.
                Ok(_) => {
                    conn.note("ext_authz: the service refused it");
                    Verdict::Reject(reasons::DENIED)
                }
                Err(_) if allow_on_error => Verdict::Continue,
                Err(error) => {
                    conn.note(format_args!("ext_authz: {error}"));
                    Verdict::Reject(error.why())
                }
            }
        })
    }
}
