//! Dispatches requests to pages and formats the responses.
//!
//! Owns: paths, methods, content types. Refuses to know: where the values come from.
//! Keeps: a GET never changes anything; each page of items has the same envelope.

use std::fmt::Write as _;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use sluice_core::clock::rfc3339;

use crate::guard::Refusal;
use crate::{
    AdminChange, AdminPlan, AdminSource, Page, StandInPage, StandInRequest, guard, query, table,
};

type PageResponse = Response<Full<Bytes>>;

/// The pages: path, parameters, and description.
const INDEX: &[(&str, &str, &str)] = &[
    ("/ready", "", "200 while connections are served, 503 while starting or draining"),
    ("/metrics", "", "metrics as Prometheus text"),
    ("/clusters", "", "clusters and their endpoints: health, its cause and since when"),
    (
        "/listeners",
        "",
        "listeners and their addresses; POST ?listener=NAME&action=pause|resume stops accepting or goes on",
    ),
    ("/config", "", "the current configuration, without secrets"),
    (
        "/connections",
        "?listener=&limit=",
        "open connections and flows; POST ?id=NUMBER&action=kill ends one",
    ),
    ("/routes", "", "routes: hosts and rules in order"),
    (
        "/runtime",
        "",
        "runtime values; POST ?key=NAME&value=VALUE overrides one, without value removes the override",
    ),
    (
        "/overrides",
        "",
        "what operators decided about endpoints, listeners and the process log; POST ?cluster=NAME&address=ADDRESS&action=drain|maintenance|ready|weight decides, with &weight=N for a weight and &for=10m for a time",
    ),
    (
        "/log",
        "",
        "the level of the process log; POST ?level=LEVEL sets it, with &for=10m for a time, and level=default removes it",
    ),
    ("/resources", "", "resources, whose they are, and newer ones that are not in force"),
    ("/xds", "", "control planes: their streams, and the state of each resource"),
    (
        "/filters",
        "",
        "scripts and loaded libraries that filters run: what they have a part in, runs, time, memory and errors",
    ),
    ("/fetches", "", "content that is fetched for filters: its age, and why it is not newer"),
    (
        "/try",
        "?listener=&host=&path=&method=&header=NAME:VALUE&source=&sni=&tls=&version=&value=NAME:VALUE",
        "which rule a request would match, and why the others do not; how its cluster would choose an endpoint",
    ),
];

const FORMS: &str =
    "Pages of items are text; use ?format=json or the header `accept: application/json` for JSON.";

/// Where Sluice's own pages are, too, while it stands in for another program.
const OWN: &str = "/sluice";

/// The format of a page of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

pub(crate) async fn answer(
    request: &Request<Incoming>,
    source: &dyn AdminSource,
    plan: &AdminPlan,
    whole: bool,
) -> PageResponse {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let stands_in = !plan.stand_in_public.is_empty();
    if stands_in && let Some(response) = stand_in(request, source, plan, whole).await {
        return response;
    }
    let path =
        path.strip_prefix(OWN).filter(|path| stands_in && path.starts_with('/')).unwrap_or(path);
    // Probes may use any host name, and learn nothing else.
    if path == "/ready" && reads {
        let (ready, word) = source.ready();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return text(status, format!("{word}\n"));
    }
    if !whole {
        let help = "`limits.admin_connections` clients are connected already; try again later";
        return error(StatusCode::SERVICE_UNAVAILABLE, "busy", help);
    }
    // Scrapers use the name of a service, and metrics contain no secrets.
    let public = path == "/metrics" && reads;
    if !public && let Err(refusal) = guard::host(request, plan) {
        return refused(refusal);
    }
    if *request.method() == Method::POST
        && let Some(change) = query::change(path, query)
    {
        return match guard::change(request, plan) {
            Ok(()) => make(change, source).await,
            Err(refusal) => refused(refusal),
        };
    }
    if !reads {
        return wrong_method(path);
    }
    page(path, query, request, source).await
}

/// Responds to requests for pages of the program that Sluice stands in for.
async fn stand_in(
    request: &Request<Incoming>,
    source: &dyn AdminSource,
    plan: &AdminPlan,
    whole: bool,
) -> Option<PageResponse> {
    let is_post = match *request.method() {
        Method::POST => true,
        Method::GET | Method::HEAD => false,
        _ => return None,
    };
    // Some clients put two slashes.
    let path = format!("/{}", request.uri().path().trim_start_matches('/'));
    let query = request.uri().query().unwrap_or_default();
    let page = source.stand_in(StandInRequest { is_post, path: &path, query })?;
    let is_public = !is_post && plan.stand_in_public.contains(&&*path);
    let may_respond = whole || (is_public && path == "/ready");
    if !may_respond {
        return None;
    }
    if !is_public && let Err(refusal) = guard::host(request, plan) {
        return Some(refused(refusal));
    }
    if is_post && let Err(refusal) = guard::change(request, plan) {
        return Some(refused(refusal));
    }
    let StandInPage { status, kind, text } = page.await;
    Some(respond(status, kind, text))
}

async fn page(
    path: &str,
    query: &str,
    request: &Request<Incoming>,
    source: &dyn AdminSource,
) -> PageResponse {
    let accepts = |kind: &str| {
        let accept =
            request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        accept.flat_map(|accept| accept.split(',')).any(|one| {
            one.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(kind))
        })
    };
    let form = |asked: Option<bool>| match asked {
        Some(false) => Form::Text,
        None if !accepts("application/json") => Form::Text,
        _ => Form::Json,
    };
    let page = match path {
        "/try" => {
            let asked = query::question(query).and_then(|(question, json)| {
                source.try_request(&question).map(|items| (items, json))
            });
            return match asked {
                Ok((items, json)) => framed(form(json), &items, source),
                Err(help) => error(StatusCode::BAD_REQUEST, "bad_request", &help),
            };
        }
        "/" if accepts("text/html") => {
            return respond(StatusCode::OK, "text/html; charset=utf-8", index_html());
        }
        "/" => return text(StatusCode::OK, index_text()),
        "/metrics" => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            return respond(StatusCode::OK, kind, source.metrics());
        }
        "/clusters" => Page::Clusters,
        "/listeners" => Page::Listeners,
        "/config" => Page::Config,
        "/connections" => Page::Connections,
        "/routes" => Page::Routes,
        "/runtime" => Page::Runtime,
        "/overrides" => Page::Overrides,
        "/resources" => Page::Resources,
        "/xds" => Page::Xds,
        "/fetches" => Page::Fetches,
        "/filters" => Page::Filters,
        "/log" => Page::Log,
        _ => return error(StatusCode::NOT_FOUND, "not_found", "GET / lists the pages"),
    };
    let query = match query::of_page(query, page == Page::Connections) {
        Ok(query) => query,
        Err(help) => return error(StatusCode::BAD_REQUEST, "bad_request", &help),
    };
    match source.items(page, query.selection).await {
        Ok(items) => framed(form(query.json), &items, source),
        Err(help) => error(StatusCode::BAD_REQUEST, "bad_request", &help),
    }
}

fn wrong_method(path: &str) -> PageResponse {
    let (help, allowed) = match query::how_to_change(path) {
        Some(how) => (format!("GET shows the page; {how}"), "GET, HEAD, POST"),
        None => ("this page is read-only; use GET".to_owned(), "GET, HEAD"),
    };
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &help);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Renders items as a page.
fn framed(form: Form, items: &[Value], source: &dyn AdminSource) -> PageResponse {
    if form == Form::Text {
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

async fn make(change: Result<AdminChange, String>, source: &dyn AdminSource) -> PageResponse {
    let change = match change {
        Ok(change) => change,
        Err(help) => return error(StatusCode::BAD_REQUEST, "bad_request", &help),
    };
    match source.change(change).await {
        Ok(done) => text(StatusCode::OK, format!("{done}\n")),
        Err(help) => error(StatusCode::FORBIDDEN, "refused", &help),
    }
}

fn index_text() -> String {
    let mut out = String::new();
    for (path, parameters, what) in INDEX {
        let _ = writeln!(out, "{path:<14} {what}");
        if !parameters.is_empty() {
            let _ = writeln!(out, "{:<14} {parameters}", "");
        }
    }
    let _ = writeln!(out, "{FORMS}");
    out
}

fn index_html() -> String {
    let mut rows = String::new();
    for (path, parameters, what) in INDEX {
        let json = match *path {
            "/ready" | "/metrics" | "/try" => String::new(),
            path => format!("<a href=\"{path}?format=json\">JSON</a>"),
        };
        let parameters = parameters.replace('&', "&amp;");
        let what = what.replace('&', "&amp;");
        let _ = writeln!(
            rows,
            "<tr><td><a href=\"{path}\">{path}</a></td><td>{json}</td><td>{what} <code>{parameters}</code></td></tr>"
        );
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice</title></head>\n\
         <body><h1>Sluice</h1>\n<table>\n{rows}</table>\n<p>{FORMS}</p></body></html>\n"
    )
}

fn text(status: StatusCode, body: String) -> PageResponse {
    respond(status, "text/plain; charset=utf-8", body)
}

fn refused(refusal: Refusal) -> PageResponse {
    error(refusal.status, refusal.code, refusal.help)
}

fn error(status: StatusCode, code: &str, help: &str) -> PageResponse {
    let message = status.canonical_reason().unwrap_or_default();
    let body = json!({ "error": { "code": code, "message": message, "help": help } });
    respond(status, "application/json", format!("{body}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> PageResponse {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
