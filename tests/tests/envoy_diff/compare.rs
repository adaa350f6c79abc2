//! What was observed, and the comparison.
//!
//! Owns: the list of headers that are not compared, and the deviations of a case. Refuses to know: how something was
//! observed. Keeps: a deviation that is named but does not occur is a failure, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;
use sluice_testkit::origin::Message;

use crate::script::Case;

/// Headers of responses that are not compared: they differ in every response, or are rows of their own in `docs/envoy.md`.
const RESPONSE_IGNORED: &[&str] =
    &["date", "server", "x-envoy-upstream-service-time", "content-length", "transfer-encoding"];

/// Headers of requests to endpoints that are not compared: the orders of the test, and what differs in every request or
/// is a row of its own in `docs/envoy.md`. Cases that are about one of them name it with `compares`.
const REQUEST_IGNORED: &[&str] = &[
    "x-do",
    "x-request-id",
    "x-forwarded-for",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-internal",
    "x-asked",
];

/// Headers that are not compared in traces besides: rows of their own in `docs/envoy.md`.
const TRACE_IGNORED: &[&str] = &["x-forwarded-proto", "via"];

/// Fields of the access log that are not compared: a row in `docs/envoy.md`.
const LOG_IGNORED: &[&str] = &["kind"];

/// Observations by key, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    lines: Vec<(String, String)>,
    /// What stands for addresses.
    names: BTreeMap<String, String>,
    /// Headers that are compared in this case only.
    compared: Vec<String>,
    /// A response had a text of Sluice's own.
    own_text: bool,
}

impl Seen {
    /// No observation yet; `addresses` are replaced by names, and so is what tells the proxy from others.
    pub(crate) fn new(
        case: &Case,
        addresses: impl Iterator<Item = (String, SocketAddr)>,
        side: &str,
    ) -> Self {
        let names = addresses.map(|(name, address)| (address.to_string(), name));
        let names = names.chain([(format!("{side}-"), "side-".to_owned())]).collect();
        Self { lines: Vec::new(), names, compared: case.compared.clone(), own_text: false }
    }

    /// Notes a value.
    pub(crate) fn note(&mut self, key: String, value: impl ToString) {
        let mut value = value.to_string();
        for (address, name) in &self.names {
            value = value.replace(address, name);
        }
        self.lines.push((key, value));
    }

    /// Notes the body of a response. What Sluice adds to the texts of its replies, which `docs/envoy.md` describes, is left
    /// out.
    pub(crate) fn body(&mut self, number: usize, body: &str) {
        let ours = body.rfind(" (").filter(|at| body[*at..].contains(", request "));
        self.own_text |= ours.is_some();
        self.note(format!("{number} body"), ours.map_or(body, |at| &body[..at]));
    }

    /// Notes the headers of a response, or of a request to an endpoint.
    pub(crate) fn headers(&mut self, key: &str, message: &Message) {
        let is_response = message.head.starts_with("HTTP/");
        let ignored = if is_response { RESPONSE_IGNORED } else { REQUEST_IGNORED };
        let lines = message.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut fields: Vec<(String, &str)> =
            lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim())).collect();
        fields
            .retain(|(name, _)| !ignored.contains(&name.as_str()) || self.compared.contains(name));
        // Stable: values of one name stay in order.
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, value) in fields {
            self.note(format!("{key} {name}"), value);
        }
    }

    /// Notes the headers in a trace, which are those of a request or of a response.
    pub(crate) fn traced_headers(&mut self, key: &str, headers: &[Value]) {
        let ignored = [RESPONSE_IGNORED, REQUEST_IGNORED, TRACE_IGNORED].concat();
        let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
        let mut fields: Vec<(String, String)> =
            headers.iter().map(|header| (text(header, "key"), text(header, "value"))).collect();
        fields.retain(|(name, _)| !ignored.contains(&name.as_str()));
        // Stable: values of one name stay in order.
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, value) in fields {
            self.note(format!("{key} {name}"), value);
        }
    }

    /// Notes what an endpoint received.
    pub(crate) fn received(&mut self, number: usize, name: &str, message: &Message) {
        let key = format!("upstream {number}");
        self.note(format!("{key} endpoint"), name);
        self.note(format!("{key} line"), message.head.lines().next().unwrap_or_default());
        self.headers(&key, message);
        self.note(format!("{key} body"), message.text());
    }

    /// Notes a line of the access log: each field of an object, or the line.
    pub(crate) fn logged(&mut self, number: usize, line: &str) {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else {
            return self.note(format!("log {number}"), line);
        };
        let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, value) in fields {
            // A field without a value is null in one and missing in the other.
            if value.is_null() || LOG_IGNORED.contains(&name.as_str()) {
                continue;
            }
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let text = match name.as_str() {
                // A route without a name has none there, and its place here.
                "route" if text.contains('/') => continue,
                "details" => text.split('{').next().unwrap_or_default(),
                _ => &text,
            };
            self.note(format!("log {number} {name}"), text);
        }
    }

    fn of(&self, key: &str) -> Vec<&(String, String)> {
        self.lines.iter().filter(|(of, _)| matches(of, key)).collect()
    }

    fn except(&self, case: &Case) -> Vec<&(String, String)> {
        let named = |key: &str| {
            case.deviations.iter().any(|named| matches(key, &named.key))
                || case.refused.iter().any(|number| words_refusal(key, number))
        };
        self.lines.iter().filter(|(key, _)| !named(key)).collect()
    }
}

fn matches(key: &str, named: &str) -> bool {
    key == named || key.strip_prefix(named).is_some_and(|rest| rest.starts_with(' '))
}

/// Whether it is what the row "local replies" in `docs/envoy.md` is about.
fn words_refusal(key: &str, number: &str) -> bool {
    let log = key.strip_prefix("log ").map(|rest| (rest, &LOG_OF_REFUSAL[..]));
    let (rest, parts) = log.unwrap_or((key, &REFUSAL[..]));
    rest.split_once(' ').is_some_and(|(of, part)| of == number && parts.contains(&part))
}

const REFUSAL: [&str; 5] = [
    "body",
    "response content-type",
    "response www-authenticate",
    "response retry-after",
    "response grpc-message",
];

const LOG_OF_REFUSAL: [&str; 5] = ["cluster", "details", "flags", "received", "sent"];

/// How Sluice differs from Envoy, beyond what the case names; empty if it does not.
pub(crate) fn differences(case: &Case, envoy: &Seen, sluice: &Seen) -> String {
    let mut out = String::new();
    let (mut theirs, mut ours) = (envoy.except(case), sluice.except(case));
    if sluice.own_text {
        let of_text = |key: &str| key.ends_with(" sent") || key.ends_with(" content-type");
        theirs.retain(|(key, _)| !of_text(key));
        ours.retain(|(key, _)| !of_text(key));
    }
    for (mark, all, other) in [("envoy ", &theirs, &ours), ("sluice", &ours, &theirs)] {
        for (key, value) in all.iter().filter(|line| !other.contains(line)) {
            let _ = writeln!(out, "  {mark} {key}: {value}");
        }
    }
    if out.is_empty() && theirs != ours {
        out = "  the same in another number or order\n".to_owned();
    }
    for named in &case.deviations {
        if envoy.of(&named.key) == sluice.of(&named.key) {
            let _ = writeln!(out, "  `{}` does not differ any more", named.key);
        }
    }
    out
}
