//! The admin pages: what Sluice is doing, in text and JSON.
//!
//! Owns: paths, content types, the tables. Refuses to know: where the values come from.
//! Keeps: a GET never changes anything, and a POST only runtime values, where the configuration says so, and
//! never for a page of another site; every JSON page has the same frame, so that a program needs to learn it once.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::Value;
use sluice_core::LocalFuture;
use tokio::net::{TcpListener, UnixListener};

mod guard;
mod pages;
mod query;
mod serve;
mod table;

pub use serve::serve;

/// What the pages show. Lives on the control thread.
pub trait AdminSource {
    /// Whether connections are served, and a word on it: `ready`, `draining`, `starting`.
    fn ready(&self) -> (bool, &'static str);

    /// The metrics as Prometheus text.
    fn metrics(&self) -> String;

    /// The number of the snapshot in force, and wall time since the Unix epoch.
    fn frame(&self) -> (u64, Duration);

    /// The items of a page. Objects, sorted by name.
    ///
    /// Fails with what is wrong with the selection.
    fn items(&self, page: Page, selection: Selection) -> LocalFuture<Result<Vec<Value>, String>>;

    /// What would become of a request, chain by chain.
    ///
    /// # Errors
    /// What is wrong with the question.
    fn try_request(&self, question: &Question) -> Result<Vec<Value>, String>;

    /// Overrides a runtime value, or takes the override back.
    ///
    /// # Errors
    /// The pages may not change anything, or nothing reads the value.
    fn set_runtime(&self, key: &str, value: Option<String>) -> Result<(), String>;
}

/// How the pages are served.
#[derive(Clone, Debug)]
pub struct AdminPlan {
    /// Connections at once that may ask for any page. `/ready` is answered beyond that too.
    pub connections: usize,
    /// Names by which clients may ask, beside IP addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Whether clients may ask by any name: on a socket that browsers do not reach.
    pub any_host: bool,
    /// How long a client may take to read an answer.
    pub answer_timeout: Duration,
    /// Whether a change needs a header that a page of another site cannot send.
    pub guard_changes: bool,
}

/// Which items of a page are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only those of this listener.
    pub listener: Option<String>,
    /// No more than so many.
    pub limit: Option<usize>,
}

/// A request that somebody asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Only chains of this listener; all where it is left out.
    pub listener: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Fields, as `name: value`.
    pub headers: Vec<String>,
    /// The address that it comes from.
    pub source: Option<String>,
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
    /// Runtime values and where they come from.
    Runtime,
}

/// Where the pages are served.
#[derive(Debug)]
pub enum AdminSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}
