//! `health_check`: responds to the probes of a load balancer in front.
//!
//! Keeps: a probe is not a request to any service; the response depends only on what Sluice knows.

use sluice_codec::Head;

use super::{Cx, HeadStep, HttpFilter, OfSettings};
use crate::reasons;
use crate::reply::Reply;

sluice_core::section! {
    /// Responds to requests for a path with 200, or with 503 while the runtime value that `fail` names is true.
    pub struct HealthCheck {
        /// The path, without a query.
        pub path: String = "/healthz",
        /// The name of the runtime value that makes the check fail.
        pub fail: String = "health_check.fail",
    }
}

impl OfSettings for HealthCheck {
    const NAME: &'static str = "health_check";
    const HELP: &'static str = "Responds to the probes of a load balancer in front of Sluice.";

    fn runtime_keys(&self) -> Vec<&str> {
        vec![&self.fail]
    }
}

impl HttpFilter for HealthCheck {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if head.path_only() != self.path {
            return HeadStep::Continue;
        }
        let fails = cx.runtime.flag(&self.fail) == Some(true);
        let (status, body) = if fails { (503, "failing\n") } else { (200, "ok\n") };
        HeadStep::reply(Reply::new(status, reasons::LOCAL, "health_check", body))
    }
}
