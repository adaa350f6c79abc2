//! The admin pages: the state of Sluice, in text and JSON.
//!
//! Owns: paths, content types, the tables. Refuses to know: where the values come from.
//! Keeps: a GET never changes anything, and a POST only if the configuration allows it and never from a page of another
//! site; every JSON page has the same envelope, so that a program needs to learn it once.
#![forbid(unsafe_code)]

use std::time::Duration;

pub use hyper::StatusCode;
use serde_json::Value;
use sluice_core::LocalFuture;
use tokio::net::{TcpListener, UnixListener};

mod guard;
mod pages;
mod query;
mod serve;
mod table;

pub use serve::serve;

/// The data behind the pages. Lives on the control thread.
pub trait AdminSource {
    /// Whether connections are served, and the state as a word: `ready`, `draining`, `starting`.
    fn ready(&self) -> (bool, &'static str);

    /// Notes that a connection may request only `/ready`, because as many as the plan allows are open.
    fn limit_reached(&self);

    /// The metrics as Prometheus text.
    fn metrics(&self) -> String;

    /// The number of the snapshot in force, and the wall-clock time since the Unix epoch.
    fn frame(&self) -> (u64, Duration);

    /// The items of a page: objects, sorted by name.
    ///
    /// Fails with what is wrong with the selection.
    fn items(&self, page: Page, selection: Selection) -> LocalFuture<Result<Vec<Value>, String>>;

    /// Returns how each chain would handle a request.
    ///
    /// # Errors
    /// What is wrong with the question.
    fn try_request(&self, question: &Question) -> Result<Vec<Value>, String>;

    /// Makes a change; returns what was done, as a sentence.
    ///
    /// Fails with what to do if the pages are read-only, or the change names something that does not exist.
    fn change(&self, change: AdminChange) -> LocalFuture<Result<String, String>>;

    /// Responds on a page of the program that Sluice stands in for; `None` if it stands in for none, or the page is one of
    /// Sluice's own.
    fn stand_in(&self, _request: StandInRequest<'_>) -> Option<LocalFuture<StandInPage>> {
        None
    }
}

/// A request for a page of another program.
#[derive(Clone, Copy, Debug)]
pub struct StandInRequest<'a> {
    /// Whether it is a POST, which may change something. Otherwise it is a GET.
    pub is_post: bool,
    /// The path, with one slash at the beginning.
    pub path: &'a str,
    /// The query as the client sent it.
    pub query: &'a str,
}

/// A page of another program.
#[derive(Clone, Debug)]
pub struct StandInPage {
    /// The status.
    pub status: StatusCode,
    /// The `content-type`.
    pub kind: &'static str,
    /// The text.
    pub text: String,
}

/// How the pages are served.
#[derive(Clone, Debug)]
pub struct AdminPlan {
    /// Maximum number of connections that may request any page. `/ready` is served beyond that too.
    pub connections: usize,
    /// Host names that requests may carry, besides IP addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Whether requests may carry any host name: on a socket that browsers cannot reach.
    pub any_host: bool,
    /// How long a client may take to read a response.
    pub answer_timeout: Duration,
    /// Whether a change needs a header that a page of another site cannot send.
    pub guard_changes: bool,
    /// Pages of the program that Sluice stands in for that any host name may be used for, as they contain no secrets. If
    /// there are any, Sluice's own pages are also below `/sluice`.
    pub stand_in_public: &'static [&'static str],
}

/// Which items of a page to return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only those of this listener.
    pub listener: Option<String>,
    /// At most this many.
    pub limit: Option<usize>,
}

/// A hypothetical request, for `/try`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Only chains of this listener; if omitted, all.
    pub listener: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Headers, as `name: value`.
    pub headers: Vec<String>,
    /// The address of the other end of the connection: the client's, or that of a proxy in front.
    pub source: Option<String>,
    /// The server name of the TLS handshake.
    pub sni: Option<String>,
    /// Whether the connection uses TLS: `true` or `false`. If omitted, it does if there is an `sni`.
    pub tls: Option<String>,
    /// The subject of the client's certificate.
    pub client_certificate: Option<String>,
    /// The HTTP version: `http1`, `http2` or `http3`.
    pub version: Option<String>,
    /// Values that filters shared, as `name: value`.
    pub values: Vec<String>,
    /// Who makes the request, such as `jwt:corp/ann`.
    pub identity: Option<String>,
}

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminChange {
    /// Override a runtime value, or remove the override.
    Runtime {
        /// The name of the value.
        key: String,
        /// The value; `None` removes the override.
        value: Option<String>,
    },
    /// Pause a listener, or have it go on.
    Listener {
        /// Its name.
        listener: String,
        /// `pause` or `resume`.
        action: String,
    },
    /// End a connection or flow.
    Connection {
        /// Its number on `/connections`.
        id: String,
        /// `kill`.
        action: String,
    },
    /// Log more or less than at the start, or remove the override.
    Log {
        /// A level, or levels of targets; `default` removes the override.
        level: String,
        /// For how long, as a duration.
        lasts: Option<String>,
    },
    /// Override an endpoint, or remove the override.
    Endpoint {
        /// The cluster.
        cluster: String,
        /// The address of the endpoint.
        address: String,
        /// `drain`, `maintenance`, `ready` or `weight`.
        action: String,
        /// The weight, for the action `weight`.
        weight: Option<String>,
        /// For how long, as a duration.
        lasts: Option<String>,
    },
}

/// A page of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Clusters and their endpoints.
    Clusters,
    /// Listeners and their addresses.
    Listeners,
    /// The configuration in force.
    Config,
    /// Open connections and flows.
    Connections,
    /// Routes: hosts and rules in order.
    Routes,
    /// Runtime values and their origin.
    Runtime,
    /// What operators decided about endpoints, listeners and the process log.
    Overrides,
    /// Resources: whose they are, and which newer ones are not in force.
    Resources,
    /// Streams of control planes, and their resources.
    Xds,
    /// Content that is fetched for filters.
    Fetches,
    /// Scripts and loaded libraries that filters run.
    Filters,
    /// The level of the process log.
    Log,
}

/// The socket that the pages are served on.
#[derive(Debug)]
pub enum AdminSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}
