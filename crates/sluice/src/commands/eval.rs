//! `sluice eval`: what an expression or a text with operators makes of a request.
//!
//! Owns: the request, as the command line describes it, and what is printed. Refuses to know: operators and attributes. Keeps:
//! nothing is sent, and no configuration is read.

use std::borrow::Cow;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_core::{ConnInfo, ConnValues, Moment, SharedValues};
use sluice_l7::record::{ConnFacts, Summary, View};
use sluice_l7::template::HttpTemplate;

use super::print;
use crate::cli::EvalCommand;

pub(crate) fn run(options: &EvalCommand) -> anyhow::Result<ExitCode> {
    let template = template(&options.text)?;
    let (request, response) = (request(options)?, response(options)?);
    let mut values = SharedValues::default();
    for value in &options.values {
        let (name, text) = pair(value)?;
        values.set_named(name, text).map_err(|problem| anyhow!(problem))?;
    }
    let peer = match &options.source {
        None => Peer::Unknown,
        Some(text) => {
            let ip: IpAddr = text.parse().map_err(|_| anyhow!("`{text}` is not an IP address"))?;
            Peer::Ip((ip, 0).into())
        }
    };
    let conn = ConnInfo::new(0, "eval".into(), peer, Peer::Unknown, Moment::default());
    let summary = summary(&request, response.as_ref(), peer);
    let view = View {
        conn: &ConnFacts::of(&conn),
        request: &request,
        response: response.as_ref(),
        summary: &summary,
        values: &values,
        conn_values: &ConnValues::default(),
    };
    print(&format!("{}\n", template.fill(&view)));
    Ok(ExitCode::SUCCESS)
}

/// The text; one without an operator is an expression.
fn template(text: &str) -> anyhow::Result<HttpTemplate> {
    let whole = if text.contains('%') { text.to_owned() } else { format!("%CEL({text})%") };
    HttpTemplate::parse(&whole).map_err(|problem| anyhow!("`{text}`: {problem}"))
}

fn request(options: &EvalCommand) -> anyhow::Result<Head> {
    let words: Vec<&str> = options.request.split_whitespace().collect();
    let [method, path] = words[..] else {
        let given = &options.request;
        bail!("expected a method and a path, such as `GET /shop?item=1`, not `{given}`");
    };
    let headers = options.headers.iter().map(|header| pair(header));
    let headers = headers.collect::<anyhow::Result<Vec<_>>>()?;
    let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map_or("example.com", |(_, host)| host);
    let mut head = Head::request(method, "http", host, path);
    if (head.method_text(), head.authority(), head.path()) != (method, host, path) {
        bail!("no request is `{method} {path}` for the host `{host}`");
    }
    let others = headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    add(&mut head, others)?;
    Ok(head)
}

/// The response, if the command line says anything of it.
fn response(options: &EvalCommand) -> anyhow::Result<Option<Head>> {
    let headers = options.response_headers.iter().map(|header| pair(header));
    let headers = headers.collect::<anyhow::Result<Vec<_>>>()?;
    if options.status.is_none() && headers.is_empty() {
        return Ok(None);
    }
    let mut head = Head::response(options.status.unwrap_or(200));
    add(&mut head, headers.into_iter())?;
    Ok(Some(head))
}

fn add<'t>(
    head: &mut Head,
    headers: impl Iterator<Item = (&'t str, &'t str)>,
) -> anyhow::Result<()> {
    for (name, value) in headers {
        head.append(name.as_bytes(), value.as_bytes());
        if !head.is_sound() {
            bail!("`{name}: {value}` is not a valid header");
        }
    }
    Ok(())
}

fn pair(text: &str) -> anyhow::Result<(&str, &str)> {
    let pair = text.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
    pair.ok_or_else(|| anyhow!("expected NAME:VALUE, not `{text}`"))
}

fn summary(request: &Head, response: Option<&Head>, source: Peer) -> Summary {
    Summary {
        id: 0,
        started: Duration::ZERO,
        lasted: Duration::ZERO,
        request_end: None,
        response_start: None,
        version: request.version(),
        upstream_version: None,
        original_path: String::new(),
        source,
        route: None,
        destination: None,
        cluster: None,
        attempts: Default::default(),
        side_calls: Vec::new(),
        filter: None,
        received: 0,
        sent: 0,
        status: response.map_or(0, Head::status),
        grpc_status: None,
        reason: None,
        details: Cow::Borrowed(""),
        detail: None,
        local_text: None,
    }
}
