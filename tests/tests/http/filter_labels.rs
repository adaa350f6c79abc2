//! A filter that a chain uses more than once, each use with a label of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{Client, Message};
use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::{Origin, Sluice};

use std::io::Write as _;

#[test]
fn uses_of_one_filter_have_settings_and_state_of_their_own() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&format!(
        "listeners:\n\
         - name: web\n  \
           address: 127.0.0.1:0\n  \
           http:\n    \
             routes: main\n    \
             filters:\n    \
             - set_headers: {{ response: {{ x-page: first }} }}\n    \
             - set_headers/second: {{ response: {{ x-other: second }} }}\n    \
             - rate_limit: {{ requests: 2/h, burst: 2, per: \"header:x-user\" }}\n    \
             - rate_limit/total: {{ requests: 3/h, burst: 3 }}\n\
         routes:\n  \
           main:\n  \
           - rules:\n    \
             - {{ match: {{ path: /free }}, cluster: up, filters: {{ rate_limit: skip, rate_limit/total: skip, set_headers/second: skip }} }}\n    \
             - {{ match: {{ path: /few }}, cluster: up, filters: {{ rate_limit/total: {{ requests: 1/h, burst: 1 }} }} }}\n    \
             - {{ cluster: up }}\n\
         clusters: {{ up: \"{}\" }}\n",
        origin.addr()
    ));
    let mut client = Client::connect(sluice.addr("web"));
    let mut ask = |path: &str, user: &str| -> Message {
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"))
    };
    // The user's own bucket is empty before the one of all, then that one is.
    let statuses: Vec<u16> =
        ["ann", "ann", "ann", "bob", "cid"].map(|user| ask("/", user).status()).to_vec();
    assert_eq!(statuses, [200, 200, 429, 200, 429]);
    let replies = |filter: &str| {
        let labels = format!("filter=\"{filter}\"");
        sluice.metric("sluice_http_filter_replies_total", &labels)
    };
    assert_eq!((replies("rate_limit"), replies("rate_limit/total")), (1, 1));
    // A rule changes and leaves out each by its name.
    assert_eq!(ask("/few", "dan").status(), 200);
    assert_eq!(ask("/few", "eve").status(), 429);
    let response = ask("/free", "ann");
    assert_eq!(response.status(), 200);
    assert_eq!((response.value("x-page"), response.value("x-other")), ("first", ""));
    let response = ask("/", "ann");
    assert_eq!((response.value("x-page"), response.value("x-other")), ("first", "second"));
    let (_, page) = sluice.page("/try?host=a&path=/free&format=json");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["items"][0]["filters"], serde_json::json!(["set_headers"]), "{page:#}");
}

#[test]
fn uses_of_one_connection_filter_count_apart() {
    let greeter = Server::start(|mut stream| stream.write_all(b"hello"));
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, relay: \"{}\", filters: [\
         {{ rate_limit: {{ connections: 100/h, burst: 100, per: source_ip }} }}, \
         {{ rate_limit/total: {{ connections: 2/h, burst: 2 }} }}] }}]\n",
        greeter.addr()
    ));
    let greeted: Vec<bool> =
        (0..3).map(|_| read_to_end(&mut connect(sluice.addr("db"))).1 == b"hello").collect();
    assert_eq!(greeted, [true, true, false]);
}
