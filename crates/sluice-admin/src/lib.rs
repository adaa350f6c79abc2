//! The admin pages: what Sluice is doing, in text and JSON.
//!
//! Owns: paths, content types, the tables. Refuses to know: where the values come from.
//! Keeps: a GET never changes anything, and a POST only runtime values, where the configuration says so;
//! every JSON page has the same frame, so that a program needs to learn it once.
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

    /// What would become of a request, chain by chain.
    ///
    /// # Errors
    /// What is wrong with the question.
    fn try_request(&self, question: &Question) -> Result<Vec<Value>, String>;

    /// Overrides a runtime value, or takes the override back.
    ///
    /// # Errors
    /// The pages may not change anything.
    fn set_runtime(&self, key: &str, value: Option<String>) -> Result<(), &'static str>;
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
/routes        routes: hosts and rules in order
/runtime       runtime values and where they come from; POST ?key=NAME&value=VALUE overrides one
/try           ?host=&path=&method=&header=NAME:VALUE: which rule a request would take, and why not others
Pages of items are text; ?format=json makes them JSON.
";

async fn answer(request: &Request<Incoming>, source: &dyn Source) -> Answer {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    if *request.method() == Method::POST && path == "/runtime" {
        return set_runtime(query, source);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let help = "this page is read-only; use GET";
        return error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", help);
    }
    let wants_json =
        request.uri().query().is_some_and(|query| query.split('&').any(|p| p == "format=json"));
    let page = match path {
        "/try" => {
            return match question(query).and_then(|question| source.try_request(&question)) {
                Ok(items) => framed(wants_json, &items, source),
                Err(help) => error(StatusCode::BAD_REQUEST, "bad_request", &help),
            };
        }
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
        "/routes" => Page::Routes,
        "/runtime" => Page::Runtime,
        _ => return error(StatusCode::NOT_FOUND, "not_found", "GET / lists the pages"),
    };
    let items = source.items(page).await;
    framed(wants_json, &items, source)
}

/// Items as a page.
fn framed(wants_json: bool, items: &[Value], source: &dyn Source) -> Answer {
    if !wants_json {
        return text(StatusCode::OK, table::render(items));
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

fn set_runtime(query: &str, source: &dyn Source) -> Answer {
    let (mut key, mut value) = (None, None);
    for (name, text) in pairs(query) {
        match name.as_str() {
            "key" => key = Some(text),
            "value" => value = Some(text),
            _ => {}
        }
    }
    let Some(key) = key.filter(|key| !key.is_empty()) else {
        let help = "POST /runtime?key=NAME&value=VALUE sets a value, without `value` takes it back";
        return error(StatusCode::BAD_REQUEST, "bad_request", help);
    };
    match source.set_runtime(&key, value) {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        Err(help) => error(StatusCode::FORBIDDEN, "read_only", help),
    }
}

fn question(query: &str) -> Result<Question, String> {
    let mut question = Question::default();
    for (name, text) in pairs(query) {
        match name.as_str() {
            "listener" => question.listener = Some(text),
            "method" => question.method = Some(text),
            "host" => question.host = Some(text),
            "path" => question.path = Some(text),
            "header" => question.headers.push(text),
            "source" => question.source = Some(text),
            "format" => {}
            _ => {
                return Err(format!(
                    "`{name}` is none of listener, method, host, path, header, source"
                ));
            }
        }
    }
    Ok(question)
}

/// The parameters of a query, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// Takes percent-encoding off; what is broken stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_from_the_query() {
        let asked = question("host=a.test&path=%2Fa%3Fb&header=X-A%3A+1&header=x&format=json");
        let expected = Question {
            host: Some("a.test".into()),
            path: Some("/a?b".into()),
            headers: vec!["X-A: 1".into(), "x".into()],
            ..Question::default()
        };
        assert_eq!(asked, Ok(expected));
        assert!(question("hots=a").unwrap_err().contains("none of"));
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
