//! Records: their default contents, custom fields and lines, and values that pose as something else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Running, Sluice, tools, wait};

/// A request with every header that records show, one of them hostile.
const REQUEST: &str = "GET /a HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: curl/8 \"quoted\" \u{202e}x\r\nX-Request-Id: r-1\r\n\
     Referer: https://a.test/\r\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";

fn web(origin: &Origin, format: &str) -> Running {
    Sluice::new().without_request_records().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log: [{{ sink: records.json, kinds: connection }}, {{ sink: requests, kinds: request, format: {format} }}]\n",
        origin.addr()
    ))
}

/// The line that one request produces.
fn line(format: &str) -> String {
    let origin = Origin::start("a");
    let sluice = web(&origin, format);
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.ask(REQUEST).status(), 200);
    let file = sluice.folder().join("requests");
    wait::until("the record", || {
        std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
    })
}

#[test]
fn a_request_record_identifies_the_client() {
    let record: serde_json::Value = serde_json::from_str(&line("json")).unwrap();
    assert_eq!(record["user_agent"], "curl/8 \"quoted\" \u{202e}x");
    assert_eq!(
        (&record["request_id"], &record["referer"]),
        (&json!("r-1"), &json!("https://a.test/"))
    );
    assert_eq!(record["forwarded_for"], "127.0.0.1");
    assert_eq!(record["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn fields_can_be_chosen() {
    let format = r#"{ json: { status: "%RESPONSE_CODE%", agent: "%REQ(USER-AGENT):6%", took: "%DURATION%",
        what: "%METHOD% %PATH%", tries: "%UPSTREAM_HOSTS_ATTEMPTED%", none: "%REQ(X-NONE)%" } }"#;
    let text = line(format);
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(record["took"].is_u64() && record["tries"].is_array(), "{record}");
    assert_eq!((&record["status"], &record["agent"]), (&json!(200), &json!("curl/8")));
    assert_eq!((&record["what"], &record["kind"]), (&json!("GET /a"), &json!("request")));
    assert_eq!(record.as_object().unwrap().len(), 6, "{text}");
    assert!(
        text.starts_with(r#"{"kind":"request","status":200,"agent":"curl/8","took":"#),
        "{text}"
    );
}

#[test]
fn a_user_agent_cannot_forge_fields() {
    let text = line(r#""\"%REQ(USER-AGENT)%\" %RESPONSE_CODE%""#);
    assert_eq!(text, "\"curl/8 \\\"quoted\\\" \\u{202e}x\" 200\n");
    let json = line("json");
    assert!(json.contains("\\u202ex") && !json.contains('\u{202e}'), "{json}");
}

#[test]
fn an_invalid_format_is_refused_with_an_explanation() {
    let kit = Sluice::new();
    for (format, said) in [
        ("{ json: { a: \"%REQUES(X)%\" } }", "unknown operator `%REQUES(X)%`"),
        ("{ json: { a: \"%VALUE(x)%\" } }", "no filter of this program shares a value `x`"),
        ("{ json: { kind: \"%METHOD%\" } }", "choose another name"),
        ("{ yaml: { a: \"%METHOD%\" } }", "yaml"),
        ("xml", "expected json, text or a line with %OPERATOR%s"),
    ] {
        let file = kit.folder().join("sluice.yaml");
        std::fs::write(&file, format!("access_log: [{{ format: {format} }}]\n")).unwrap();
        let output =
            tools::run(std::process::Command::new(Sluice::binary()).arg("check").arg(&file));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(3) && text.contains(said), "{format}: {text}");
    }
}

#[test]
fn operators_are_listed() {
    let output =
        tools::must(std::process::Command::new(Sluice::binary()).args(["explain", "--operators"]));
    let req = output.lines().find(|line| line.starts_with("%REQ(NAME?OTHER)%")).unwrap();
    assert!(req.contains(" request "), "{req}");
    assert!(output.lines().any(|line| line.starts_with("%DETAIL%") && line.contains(" all ")));
}

#[test]
fn a_client_gets_only_a_reason_and_a_request_id() {
    let gone = format!("127.0.0.1:{}", tools::free_port());
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{gone}\"] }} }}\n"
    ));
    // An id that could be markup is not shown; the number of the record is shown instead.
    for (id, shown) in [("r-1", Some("r-1")), ("<script>", None), ("x x", None)] {
        let mut client = Client::connect(sluice.addr("web"));
        let answer =
            client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"));
        let record = sluice.record("the request", |record| record["request_id"] == id);
        let number = record["stream_id"].to_string();
        let asked_for = format!("(upstream.refused, request {})\n", shown.unwrap_or(&number));
        assert!(answer.text().ends_with(&asked_for), "{}", answer.text());
        assert!(!answer.text().contains(&gone) && !answer.head.contains(&gone), "{answer:?}");
        assert!(record["detail"].as_str().unwrap().starts_with(&gone), "{record}");
    }
}
