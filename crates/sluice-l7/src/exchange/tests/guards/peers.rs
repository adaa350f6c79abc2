//! The servers that guards ask over sockets: a provider of OpenID Connect, and Redis.
//!
//! Owns: their processes and clusters, and the logins of browsers. Refuses to know: the chain, and what a request ends as.
//! Keeps: a session is one that a login through the chain has made.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sluice_codec::Head;
use sluice_l4::filters::Fetches;
use sluice_l4::filters::fetch::FetchRunner;
use sluice_testkit::browser::parameter;
use sluice_testkit::identity_provider::IdentityProvider;
use sluice_testkit::tools;
use sluice_upstream::Cluster;

use super::super::kit::{Bench, cluster_at};
use super::model::Session;
use crate::pools::scripted::ScriptedConnect;

/// The servers.
pub(super) struct Peers {
    pub(super) provider: IdentityProvider,
    /// `None` where it is not installed.
    pub(super) redis: Option<(tools::Process, SocketAddr)>,
    id: Arc<Cluster>,
}

impl Peers {
    pub(super) fn start() -> Self {
        let provider = IdentityProvider::start();
        let redis = tools::have(&["redis-server"]).then(|| {
            let address = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
            let mut command = tools::command("redis-server");
            let port = address.port().to_string();
            command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
            (tools::serve(&mut command, address), address)
        });
        let id = cluster_at("id", provider.addr());
        Self { provider, redis, id }
    }

    /// Their clusters, by name.
    pub(super) fn clusters(&self) -> Vec<(&'static str, Arc<Cluster>)> {
        let redis = self.redis.as_ref().map(|(_, at)| ("redis", cluster_at("redis", *at)));
        redis.into_iter().chain([("id", Arc::clone(&self.id))]).collect()
    }

    /// Has browsers log in.
    pub(super) async fn log_in(&self, bench: &Bench, fetches: &Fetches) -> CookieJar {
        let pool = bench.pool_of(&self.id);
        pool.scripted.borrow_mut().extend((0..20).map(|_| ScriptedConnect::Real));
        fetches.start(&FetchRunner::new(bench.worker.clone()));
        let mut sessions = HashMap::new();
        for (session, user, lasts) in [
            (Session::Of("ann"), "ann", 1_000_000),
            (Session::Of("bob"), "bob", 1_000_000),
            (Session::Brief, "cid", BRIEF.as_secs()),
        ] {
            sessions.insert(session, self.session(bench, user, lasts).await);
        }
        let whole = sessions[&Session::Of("ann")].clone();
        let mut forged = whole.clone();
        let at = forged.len() - 20;
        let other = if &forged[at..=at] == "A" { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        sessions.insert(Session::Forged, forged);
        sessions.insert(Session::Cut, whole[..whole.len() - 4].to_owned());
        // Times in a session are in seconds.
        let now = bench.worker.clock.wall(bench.worker.now());
        let brief_until = Duration::from_secs((now + BRIEF).as_secs());
        CookieJar { sessions, brief_until }
    }

    /// The cookie of the session of a login.
    async fn session(&self, bench: &Bench, user: &str, lasts: u64) -> String {
        let (location, flow) = visit(bench, "/oauth2/corp/login", None).await;
        let now = bench.worker.clock.wall(bench.worker.now()).as_secs();
        let nonce = parameter(&location, "nonce");
        let claims = json!({
            "iss": self.provider.issuer(), "aud": "shop", "sub": user, "nonce": nonce,
            "exp": now + 1_000_000, "iat": now,
        });
        self.provider.give(&claims, &json!({ "expires_in": lasts }));
        let back = self.provider.way_back(&location, "code=c");
        visit(bench, &back, Some(&flow)).await.1
    }
}

/// How long the brief session lasts.
const BRIEF: Duration = Duration::from_secs(300);

/// Asks for a path of a login; returns where it leads, and the first cookie that it sets.
async fn visit(bench: &Bench, path: &str, cookie: Option<&str>) -> (String, String) {
    let mut head = Head::request("GET", "http", "shop.test", path);
    head.append(b"accept", b"text/html");
    if let Some(cookie) = cookie {
        head.append(b"cookie", cookie.as_bytes());
    }
    let mut request = bench.serve(head, true);
    request.until(path, || false).await;
    let summary = request.ended();
    assert_eq!(summary.status, 303, "{path}: {summary:?}");
    let of = |name| request.header(name).unwrap_or_else(|| panic!("{path} has no {name}"));
    let cookie = of("set-cookie");
    (of("location"), cookie.split(';').next().unwrap().to_owned())
}

/// The cookies that browsers may send.
pub(super) struct CookieJar {
    sessions: HashMap<Session, String>,
    /// When the brief session ends, since the Unix epoch.
    pub(super) brief_until: Duration,
}

impl CookieJar {
    pub(super) fn of(&self, session: Session) -> Option<&str> {
        self.sessions.get(&session).map(String::as_str)
    }
}
