//! Reports of load that endpoints send with their responses (Open Request Cost Aggregation, ORCA).
//!
//! Owns: their forms: `endpoint-load-metrics` as text, JSON or binary, and `endpoint-load-metrics-bin`. Refuses to know: what
//! follows from a report. Keeps: a report has at most `REPORT_MAX` bytes; no number in it is negative, infinite or none.
//!
//! Source: `xds/data/orca/v3/orca_load_report.proto`; gRFC A51; Envoy, `orca_parser.cc`.

use std::collections::BTreeMap;

use prost::Message as _;
use sluice_codec::Head;
use sluice_upstream::balance::LoadReport;

use crate::json::Json;

/// The most bytes of a report that is read.
const REPORT_MAX: usize = 8 << 10;

/// The report in a head or in trailers; `Some(None)` if it cannot be read.
pub(crate) fn report_in(head: &Head) -> Option<Option<LoadReport>> {
    if let Some(binary) = head.get_named(b"endpoint-load-metrics-bin") {
        return Some(of_binary(binary));
    }
    head.get_named(b"endpoint-load-metrics").map(of_header)
}

fn of_header(value: &[u8]) -> Option<LoadReport> {
    let (form, rest) = value.split_at_checked(4)?;
    let rest = rest.trim_ascii();
    if rest.len() > REPORT_MAX {
        return None;
    }
    match form {
        b"TEXT" => of_text(std::str::from_utf8(rest.strip_prefix(b" ").unwrap_or(rest)).ok()?),
        b"JSON" => of_json(rest),
        b"BIN " => of_binary(rest),
        _ => None,
    }
}

/// `cpu_utilization=0.3, rps_fractional=10, named_metrics.queue=0.8`; gRPC writes `:` in place of `=`.
fn of_text(text: &str) -> Option<LoadReport> {
    let mut report = LoadReport::default();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, number) = pair.split_once(['=', ':'])?;
        note(&mut report, name.trim(), number.trim().parse().ok()?)?;
    }
    Some(report)
}

fn of_json(text: &[u8]) -> Option<LoadReport> {
    let parsed = Json::parse(text).ok()?;
    let mut report = LoadReport::default();
    for (name, value) in parsed.members()? {
        match value.members() {
            None => note(&mut report, name, value.number()?)?,
            Some(members) => {
                for (key, value) in members {
                    note(&mut report, &format!("{name}.{key}"), value.number()?)?;
                }
            }
        }
    }
    Some(report)
}

fn of_binary(text: &[u8]) -> Option<LoadReport> {
    if text.len() > REPORT_MAX {
        return None;
    }
    // gRPC leaves the padding out.
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let bytes = data_encoding::BASE64_NOPAD.decode(text).ok()?;
    let message = LoadReportMessage::decode(&*bytes).ok()?;
    let mut report = LoadReport::default();
    for (name, value) in [
        ("cpu_utilization", message.cpu_utilization),
        ("mem_utilization", message.mem_utilization),
        ("rps_fractional", message.rps_fractional),
        ("eps", message.eps),
        ("application_utilization", message.application_utilization),
    ] {
        note(&mut report, name, value)?;
    }
    let maps = [
        ("request_cost", message.request_cost),
        ("utilization", message.utilization),
        ("named_metrics", message.named_metrics),
    ];
    for (map, values) in maps {
        for (key, value) in values {
            note(&mut report, &format!("{map}.{key}"), value)?;
        }
    }
    Some(report)
}

/// Notes a value of a report; `None` if no report can have it.
fn note(report: &mut LoadReport, name: &str, value: f64) -> Option<()> {
    if !value.is_finite() || value < 0.0 {
        return None;
    }
    match name {
        "rps_fractional" => report.requests = value,
        "eps" => report.errors = value,
        "application_utilization" => report.application = value,
        "cpu_utilization" => report.cpu = value,
        // A field that is new does not make a report malformed.
        _ => report.metrics.push((name.into(), value)),
    }
    Some(())
}

/// `xds.data.orca.v3.OrcaLoadReport`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct LoadReportMessage {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(btree_map = "string, double", tag = "4")]
    request_cost: BTreeMap<String, f64>,
    #[prost(btree_map = "string, double", tag = "5")]
    utilization: BTreeMap<String, f64>,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(btree_map = "string, double", tag = "8")]
    named_metrics: BTreeMap<String, f64>,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;

    use super::*;

    fn in_header(name: &str, value: &[u8]) -> Option<Option<LoadReport>> {
        let mut head = Head::default();
        head.append(name.as_bytes(), value);
        report_in(&head)
    }

    fn expected() -> LoadReport {
        let metrics = [("mem_utilization", 0.5), ("named_metrics.queue", 0.25)];
        LoadReport {
            requests: 12.5,
            errors: 1.0,
            application: 0.75,
            cpu: 0.3,
            metrics: Vec::from(metrics.map(|(name, value)| (name.into(), value))),
        }
    }

    fn message() -> Vec<u8> {
        LoadReportMessage {
            cpu_utilization: 0.3,
            mem_utilization: 0.5,
            rps_fractional: 12.5,
            eps: 1.0,
            named_metrics: BTreeMap::from([("queue".to_owned(), 0.25)]),
            application_utilization: 0.75,
            ..LoadReportMessage::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn every_form_says_the_same() {
        let text = b"TEXT cpu_utilization=0.3, mem_utilization=0.5,rps_fractional=12.5,eps=1,application_utilization=0.75,named_metrics.queue=0.25";
        let json = br#"JSON {"cpu_utilization": 0.3, "mem_utilization": 0.5, "rps_fractional": 12.5, "eps": 1, "application_utilization": 0.75, "named_metrics": {"queue": 0.25}}"#;
        let name = "endpoint-load-metrics";
        assert_eq!(in_header(name, text), Some(Some(expected())));
        assert_eq!(in_header(name, json), Some(Some(expected())));
        let encoded = BASE64.encode(&message());
        let binary = format!("BIN {encoded}");
        assert_eq!(in_header(name, binary.as_bytes()), Some(Some(expected())));
        for encoded in [encoded.as_str(), encoded.trim_end_matches('=')] {
            let found = in_header("endpoint-load-metrics-bin", encoded.as_bytes());
            assert_eq!(found, Some(Some(expected())));
        }
        assert_eq!(in_header("x", text), None);
    }

    #[test]
    fn what_is_no_report_is_told_from_none() {
        let long = format!("TEXT {}", "a=1,".repeat(REPORT_MAX));
        for wrong in [
            "TEX",
            "XML a",
            "TEXT a",
            "TEXT a=b",
            "TEXT cpu_utilization=-1",
            "TEXT eps=inf",
            "TEXT eps=NaN",
            "JSON [1]",
            "JSON {\"eps\": \"1\"}",
            "JSON {\"a\":1,\"a\":2}",
            "JSON {",
            "BIN ?",
            "BIN AAAA",
            long.as_str(),
        ] {
            assert_eq!(
                in_header("endpoint-load-metrics", wrong.as_bytes()),
                Some(None),
                "{wrong:.40}"
            );
        }
        let found = in_header("endpoint-load-metrics", b"TEXT new_field=1");
        assert!(found.is_some_and(|report| report.is_some()), "a field that is not known yet");
    }

    #[test]
    fn nothing_that_is_cut_or_random_does_harm() {
        let whole = format!("BIN {}", BASE64.encode(&message()));
        for cut in 0..whole.len() {
            in_header("endpoint-load-metrics", &whole.as_bytes()[..cut]);
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let form = ["TEXT ", "JSON ", "BIN "][random.usize(..3)];
            let bytes: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(b' '..127)).collect();
            let header = [form.as_bytes(), &bytes].concat();
            assert!(in_header("endpoint-load-metrics", &header).is_some());
            let encoded = BASE64.encode(&bytes);
            assert!(in_header("endpoint-load-metrics-bin", encoded.as_bytes()).is_some());
        }
    }
}
