//! Asks a cluster for the role of a user, while the request waits.
//!
//! ```sh
//! cargo build --release -p sluice-sdk --example role    # target/release/examples/librole.so
//! ```
//!
//! ```yaml
//! filters:
//!   - module: { library: ./librole.so, config: users, clusters: [users] }    # the cluster that knows them
//! ```
#![forbid(unsafe_code)]

use std::time::Duration;

use sluice_sdk::{Call, Config, Filter, Hook, Part, Refusal, Request, Response, Step};

/// The cluster.
struct Role(String);

impl Filter for Role {
    type State = ();

    fn new(_: &mut Config<'_>, _: &str, cluster: &str) -> Result<Self, String> {
        if cluster.is_empty() {
            return Err("the name of a cluster is needed".into());
        }
        Ok(Self(cluster.into()))
    }

    fn begin(&self, _: &mut Request<'_>) {}

    fn request_headers(&self, (): &mut (), request: &mut Request<'_>, _: bool) -> Step {
        let named = request.get(Part::RequestHeaders, "x-user").ok().flatten().unwrap_or_default();
        let user = String::from_utf8_lossy(named).into_owned();
        let call = Call {
            cluster: &self.0,
            headers: &[(":method", "GET"), (":path", "/role"), ("x-user", &user)],
            timeout: Some(Duration::from_secs(1)),
            ..Call::default()
        };
        request.call(&call).unwrap_or(Step::Fail)
    }

    fn resumed(&self, (): &mut (), request: &mut Request<'_>, _: Hook) -> Step {
        match role(request) {
            Ok(Some(role)) => match request.set(Part::RequestHeaders, "x-role", &role) {
                Ok(()) => Step::Continue,
                Err(_) => Step::Fail,
            },
            Ok(None) => request.respond(&Response {
                status: 403,
                body: b"who are you?\n",
                details: "no such user",
                ..Response::default()
            }),
            Err(_) => Step::Fail,
        }
    }
}

/// What the service says; an error if it says nothing.
fn role(request: &Request<'_>) -> Result<Option<String>, Refusal> {
    let answer = request.answer()?.ok_or(Refusal::Internal)?;
    match answer.status {
        200 => {
            let role = request.answer_header("x-role", 0)?.unwrap_or(b"none");
            Ok(Some(String::from_utf8_lossy(role).into_owned()))
        }
        404 => Ok(None),
        _ => Err(Refusal::Internal),
    }
}

sluice_sdk::module!("role 1.0", Role);
