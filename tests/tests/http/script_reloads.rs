//! Scripts that are replaced while requests run in them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Sluice, wait};
use sluice_tests::place_text;

/// A script that waits for the body of a request and for a call, and says with which script a request and its response ran.
fn tagging(number: usize) -> String {
    format!(
        r#"function envoy_on_request(handle)
  local body = handle:body(true)
  local headers = handle:httpCall("side", {{ [":method"] = "GET", [":path"] = "/side", [":authority"] = "s" }}, nil, 0)
  handle:headers():add("x-length", tostring(body:length()))
  handle:streamInfo():dynamicMetadata():set("tag", "status", headers[":status"])
  handle:streamInfo():dynamicMetadata():set("tag", "number", "{number}")
end
function envoy_on_response(handle)
  local tag = handle:streamInfo():dynamicMetadata():get("tag")
  handle:headers():add("x-tags", tag.number .. " {number} " .. tag.status)
end"#
    )
}

/// Every request is served, and its response by the script that saw the request.
#[test]
fn a_script_is_replaced_under_load_without_losing_a_request() {
    let origin = Origin::start("o");
    let kit = Sluice::new().watching();
    let path = kit.folder().join("tag.lua");
    place_text(&path, &tagging(0));
    let addr = origin.addr();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ lua: {{ file: tag.lua, clusters: [side] }} }}] }} }}]\n\
         routes: {{ main: [{{ rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{addr}\"] }}, side: {{ endpoints: [\"{addr}\"] }} }}\n\
         limits: {{ filter_wait_seconds: 600 }}\n"
    ));
    let address = sluice.addr("web");
    let (stop, latest) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let answer =
                        client.ask("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    let tags: Vec<&str> = answer.value("x-tags").split(' ').collect();
                    let [request, response, "200"] = tags[..] else { panic!("{tags:?}") };
                    assert_eq!(request, response, "a request ends in the script that it began in");
                    latest.fetch_max(request.parse().unwrap(), Ordering::SeqCst);
                }
            });
        }
        // Ends the clients, too, when a turn fails.
        let turns = std::panic::catch_unwind(|| {
            for number in 1..=6 {
                place_text(&path, &tagging(number));
                wait::until("requests in the new script", || {
                    (latest.load(Ordering::SeqCst) == number).then_some(())
                });
            }
        });
        stop.store(true, Ordering::SeqCst);
        turns.unwrap();
    });
    let replaced = sluice.metric("sluice_lua_states_replaced_total", "why=\"changed\"");
    assert!(replaced >= 6, "{replaced}");
    assert_eq!(sluice.metric("sluice_lua_failures_total", ""), 0);
}
