//! The admin pages: what Sluice is doing, in text and JSON, read-only.
//!
//! Owns: paths, content types, the tables. Refuses to know: where the values come from.
//! Keeps: a page never changes anything; every JSON page has the same frame, so that a program
//! needs to learn it once.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use sluice_core::clock::rfc3339;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

mod table;

/// What the pages show. Lives on the control thread.
pub trait Source {
    /// Whether connections are served, and a word on it: `ready`, `draining`, `starting`.
    fn ready(&self) -> (bool, &'static str);

    /// The metrics as Prometheus text.
    fn metrics(&self) -> String;

    /// The number of the snapshot in force, and wall time since the Unix epoch.
    fn frame(&self) -> (u64, Duration);

    /// The items of a page. Objects, sorted by name.
    fn items(&self, page: Page) -> LocalFuture<Vec<Value>>;
}

/// A future on the control thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

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
}

/// Where the pages are served.
#[derive(Debug)]
pub enum AdminSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the pages for ever; at most `connections` at once.
pub async fn serve(socket: AdminSocket, source: Rc<dyn Source>, connections: usize) {
    let room = Arc::new(Semaphore::new(connections));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let source = Rc::clone(&source);
        let serve_one = match &socket {
            AdminSocket::Tcp(tcp) => {
                tcp.accept().await.map(|(stream, _)| spawn(stream, source, permit))
            }
            AdminSocket::Unix(unix) => {
                unix.accept().await.map(|(stream, _)| spawn(stream, source, permit))
            }
        };
        if let Err(error) = serve_one {
            tracing::warn!(%error, "cannot accept on the admin address");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn spawn<S>(stream: S, source: Rc<dyn Source>, permit: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    tokio::task::spawn_local(async move {
        let _permit = permit;
        let service = service_fn(move |request| {
            let source = Rc::clone(&source);
            async move { Ok::<_, Infallible>(answer(&request, &*source).await) }
        });
        // A client that goes away in the middle is no event.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
}

type Answer = Response<Full<Bytes>>;

const INDEX: &str = "\
/ready         200 while connections are served, 503 while starting or draining
/metrics       Prometheus text
/clusters      clusters and their endpoints
/listeners     listeners and their addresses
/config        the configuration in force
/connections   open connections and flows
Pages of items are text; ?format=json makes them JSON.
";

async fn answer(request: &Request<Incoming>, source: &dyn Source) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let help = "these pages are read-only; use GET";
        return error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", help);
    }
    let wants_json =
        request.uri().query().is_some_and(|query| query.split('&').any(|p| p == "format=json"));
    let page = match request.uri().path() {
        "/" => return text(StatusCode::OK, INDEX.into()),
        "/ready" => {
            let (ready, word) = source.ready();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            return text(status, format!("{word}\n"));
        }
        "/metrics" => {
            return respond(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                source.metrics(),
            );
        }
        "/clusters" => Page::Clusters,
        "/listeners" => Page::Listeners,
        "/config" => Page::Config,
        "/connections" => Page::Connections,
        _ => return error(StatusCode::NOT_FOUND, "not_found", "GET / lists the pages"),
    };
    let items = source.items(page).await;
    if !wants_json {
        return text(StatusCode::OK, table::render(&items));
    }
    let (snapshot, taken_at) = source.frame();
    let frame = json!({
        "api": "v1",
        "taken_at": rfc3339(taken_at),
        "snapshot": snapshot,
        "items": items,
    });
    respond(StatusCode::OK, "application/json", format!("{frame}\n"))
}

fn text(status: StatusCode, body: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

fn error(status: StatusCode, code: &str, help: &str) -> Answer {
    let message = status.canonical_reason().unwrap_or_default();
    let body = json!({ "error": { "code": code, "message": message, "help": help } });
    respond(status, "application/json", format!("{body}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers
        .insert(hyper::header::CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    answer
}
