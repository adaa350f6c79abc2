//! The page, written from the observations.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::kit::{Fault, Seen};

const INTRODUCTION: &str = "\
# Faults

What Sluice says when something breaks: for each fault the response that the client got, the record, the metric
that counted it, and what to do. A test brings each of them about and compares (`cargo test -p sluice --test
faults`; `UPDATE=1` writes this page), so it is what the binary does. Ports, numbers and times are masked.

To find a fault: take `reason` and `detail` of the record and search this page, or ask the binary:
`sluice explain --reasons`. The client never hears of endpoints, certificates or system errors: its response has the
reason's code and the request's id (`x-request-id` where there is one, else `stream_id` of the record).
";

/// Fields of a record that the page shows, in this order.
const FIELDS: &[&str] = &[
    "kind",
    "side",
    "listener",
    "filter_chain_name",
    "requested_server_name",
    "method",
    "path",
    "response_code",
    "response_code_details",
    "grpc_status_number",
    "route_name",
    "upstream_cluster",
    "upstream_host",
    "upstream_hosts_attempted",
    "side_calls",
    "detail",
];

/// The page.
pub(crate) fn write(
    areas: &[(&str, &[Fault])],
    seen: &BTreeMap<&'static str, Seen>,
    reasons: &BTreeMap<String, String>,
) -> String {
    let mut out = INTRODUCTION.to_owned();
    for (area, cases) in areas {
        let shown = cases.iter().filter_map(|fault| Some((fault, seen.get(fault.name)?)));
        let shown: Vec<_> = shown.collect();
        if shown.is_empty() {
            continue;
        }
        let _ = write!(out, "\n## {area}\n");
        for (fault, of_it) in shown {
            entry(fault, of_it, reasons, &mut out);
        }
    }
    out
}

fn entry(fault: &Fault, seen: &Seen, reasons: &BTreeMap<String, String>, out: &mut String) {
    let _ = write!(out, "\n### {}\n\n", fault.name);
    if fault.reason.is_empty() {
        if !seen.help.is_empty() {
            let _ = write!(out, "{}\n\n", masked(&seen.help, seen));
        }
        let _ = write!(out, "```text\n{}\n```\n", masked(seen.text.trim_end(), seen));
        return;
    }
    let help = reasons.get(fault.reason).map_or("", String::as_str);
    let _ = write!(out, "`{}`: {help}\n\n```text\n", fault.reason);
    if !seen.heard.is_empty() {
        let _ = writeln!(out, "{:<24} {}", "client", masked(&seen.heard, seen));
    }
    for metric in &seen.metrics {
        let _ = writeln!(out, "{:<24} {metric}", "metric");
    }
    for field in FIELDS {
        let value = match &seen.record[*field] {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(items) if items.is_empty() => continue,
            serde_json::Value::Array(items) => {
                let items = items.iter().filter_map(|item| item.as_str());
                items.collect::<Vec<_>>().join(&format!("\n{:<24} ", ""))
            }
            other => other.to_string(),
        };
        let _ = writeln!(out, "{field:<24} {}", masked(&value, seen));
    }
    out.push_str("```\n");
}

/// The text, with everything replaced that changes from run to run.
pub(crate) fn masked(text: &str, seen: &Seen) -> String {
    let mut text = text.to_owned();
    for (place, endpoint) in (9001..).zip(&seen.endpoints) {
        let (host, _) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
        if endpoint.starts_with(|c: char| c.is_ascii_digit()) {
            text = text.replace(endpoint, &format!("{host}:{place}"));
        }
    }
    for (from, to) in &seen.shown {
        text = text.replace(from, to);
    }
    numbers(&text)
}

/// Masks numbers that are long, count milliseconds, or follow `request `.
fn numbers(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let length = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        let (digits, after) = from.split_at(length);
        out.push_str(before);
        let port = out.ends_with("127.0.0.1:") && !digits.starts_with("90");
        let masks = length >= 8 || after.starts_with(" ms") || out.ends_with("request ");
        out.push_str(match (port, masks) {
            (true, _) => "50000",
            (_, true) => "N",
            _ => digits,
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Compares with the existing page; with `UPDATE=1` writes it.
pub(crate) fn compare(page: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page).unwrap();
        return None;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(there.lines()).find(|(new, old)| new != old);
    match differs {
        None if page.lines().count() == there.lines().count() => None,
        None => Some("docs/faults.md has more or fewer faults; UPDATE=1 writes it".to_owned()),
        Some((new, old)) => Some(format!(
            "docs/faults.md says\n  {old}\nand what was seen is\n  {new}\nUPDATE=1 writes the page"
        )),
    }
}
