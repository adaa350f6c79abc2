//! The HTTP filter from the page on extending, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::process::ExitCode;

use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Sluice};

use crate::binary;

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod teapot {
    include!("extending/teapot.in");
}

pub(crate) fn run() -> ExitCode {
    teapot::main()
}

pub(crate) fn test() {
    let page = include_str!("../../../../docs/extending.md");
    let shown = include_str!("extending/teapot.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    coffee_is_refused();
}

fn coffee_is_refused() {
    let origin = Origin::start("a");
    let sluice = Sluice::with_binary(binary(module_path!())).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ teapot: {{ header: x-brew }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/tea").status(), 200);
    let refused = client.ask("GET /coffee HTTP/1.1\r\nHost: a\r\nX-Brew: now\r\n\r\n");
    assert_eq!((refused.status(), refused.text().as_str()), (418, "short and stout\n"));
    assert_eq!(origin.requests().len(), 1);
    sluice.record_of("teapot.brewing");
}
