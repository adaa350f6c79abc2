//! How the responses look that Sluice generates itself.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use sluice_testkit::origin::{self, Client, Message};
use sluice_testkit::peers::RefusingPort;
use sluice_testkit::{Origin, Running, Sluice};

/// Sluice in front of an endpoint that is there and one that is not.
struct Bench {
    sluice: Running,
    _app: Origin,
    _nobody: RefusingPort,
}

impl Bench {
    fn get(&self, path: &str) -> Message {
        origin::get(self.sluice.addr("web"), "shop.test", path)
    }

    fn post(&self, path: &str, header: &str) -> Message {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{header}content-length: 0\r\n\r\n");
        Client::connect(self.sluice.addr("web")).ask(&head)
    }
}

/// Starts it with these local replies and filters.
fn start(replies: &str, filters: &str) -> Bench {
    let (app, nobody) = (Origin::start("app"), RefusingPort::take());
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, local_replies: {replies}, filters: [{filters}] }} }}]\n\
         routes:\n  main:\n    - rules:\n\
         \x20       - {{ match: {{ path: /nobody }}, cluster: nobody }}\n\
         \x20       - {{ match: {{ path: /said }}, respond: {{ status: 418, body: \"short\\n\" }} }}\n\
         \x20       - {{ match: {{ path: /moved }}, redirect: {{ path: /there }} }}\n\
         \x20       - {{ cluster: app }}\n\
         clusters: {{ app: \"{}\", nobody: \"{}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", status: \"%RESPONSE_CODE%\", reason: \"%REASON%\", text: \"%LOCAL_REPLY_BODY%\" }} }} }}]\n",
        app.addr(),
        nobody.addr()
    ));
    Bench { sluice, _app: app, _nobody: nobody }
}

fn json_of(message: &Message) -> Value {
    serde_json::from_str(&message.text()).unwrap()
}

#[test]
fn every_response_of_sluice_gets_the_body_and_no_other() {
    let replies = "{ json: { error: { status: \"%RESPONSE_CODE%\", reason: \"%REASON%\" }, text: \"%LOCAL_REPLY_BODY%\" } }";
    let bench = start(replies, "{ rate_limit: { requests: 30/h, per: \"header:x-limited\" } }");
    let failed = bench.get("/nobody");
    assert_eq!((failed.status(), failed.value("content-type")), (503, "application/json"));
    let error = json!({ "status": 503, "reason": "upstream.refused" });
    let body = json_of(&failed);
    assert_eq!(body["error"], error);
    // What helps to find the record is in members of their own, if at all.
    assert!(!body["text"].as_str().unwrap().contains("request "), "{body}");
    let said = bench.get("/said");
    assert_eq!((said.status(), json_of(&said)["text"].as_str()), (418, Some("short\n")));
    let moved = bench.get("/moved");
    assert_eq!((moved.status(), moved.value("location")), (301, "http://shop.test/there"));
    let error = json!({ "status": 301, "reason": "http.local" });
    assert_eq!(json_of(&moved), json!({ "error": error, "text": "" }));
    let own = bench.get("/status/503");
    assert_eq!((own.status(), own.value("x-origin")), (503, "app"));
    assert!(!own.text().contains("error"), "{}", own.text());
    let record = bench.sluice.record_of("upstream.refused");
    assert_eq!(record["text"], body["text"]);
}

#[test]
fn the_first_rule_that_holds_changes_status_text_and_headers() {
    let replies = "{ body: \"all: %LOCAL_REPLY_BODY%\", rules: [\
        { when: \"response.reason == 'upstream.refused' && response.flag == 'UF'\", status: 500, text: \"gone ${x} %\", \
          headers: { x-was: \"%RESPONSE_CODE%\" }, default_headers: { x-was: no, x-more: \"1\" } }, \
        { when: \"response.code >= 500\", text: never }, \
        { when: \"response.code_details == 'direct_response' && request.method == 'GET'\", \
          body: \"<p>%RESPONSE_CODE%</p>\", content_type: text/html, overwrite_headers: { location: /other, x-none: \"1\" }, add_headers: { x-was: \"1\" } }] }";
    let bench = start(replies, "");
    let failed = bench.get("/nobody");
    assert_eq!((failed.status(), &*failed.text()), (500, "all: gone ${x} %"));
    assert_eq!((failed.value("x-was"), failed.value("x-more")), ("503", "1"));
    assert_eq!(failed.value("content-type"), "text/plain; charset=utf-8");
    let said = bench.get("/said");
    assert_eq!((said.status(), &*said.text()), (418, "<p>418</p>"));
    assert_eq!((said.value("content-type"), said.value("x-none")), ("text/html", ""));
    let moved = bench.get("/moved");
    assert_eq!(moved.values("location"), ["/other"]);
    assert_eq!(moved.values("x-was"), ["1"]);
    let posted = bench.post("/said", "");
    assert_eq!(posted.text(), "all: short\n");
    let record = bench.sluice.record_of("upstream.refused");
    assert_eq!(record["status"], 500);
}

#[test]
fn filters_see_what_becomes_of_a_reply_and_their_pages_stay() {
    let replies = "{ body: \"all: %LOCAL_REPLY_BODY%\", rules: [{ when: \"request.url_path == '/said'\", status: 404 }, { when: \"request.url_path == '/moved'\", status: 204 }] }";
    let filters = "{ error_pages: { pages: { 404: \"page of %RESPONSE_CODE%\" } } }";
    let bench = start(replies, filters);
    let said = bench.get("/said");
    assert_eq!((said.status(), &*said.text()), (404, "page of 404"));
    let moved = bench.get("/moved");
    assert_eq!((moved.status(), &*moved.text()), (204, ""));
    assert_eq!(moved.value("content-type"), "");
}

#[test]
fn a_grpc_client_gets_the_text_as_the_message_of_its_status() {
    let replies = "{ json: { text: \"%LOCAL_REPLY_BODY%\" }, rules: [{ when: \"response.code == 418\", status: 403 }] }";
    let bench = start(replies, "");
    let said = bench.post("/said", "content-type: application/grpc\r\n");
    assert_eq!((said.status(), said.value("grpc-status")), (200, "7"));
    assert_eq!(said.value("grpc-message"), "{\"text\":\"short\\n\"}");
    assert_eq!(said.value("content-type"), "application/grpc");
}
