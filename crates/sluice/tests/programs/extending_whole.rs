//! The filter of whole responses from the page on extending, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use sluice_testkit::frames::{H2, flag, get, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::Server;
use sluice_testkit::{Running, Sluice};

use crate::binary;

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod withhold {
    include!("extending/withhold.in");
}

pub(crate) fn run() -> ExitCode {
    withhold::main()
}

pub(crate) fn test() {
    let page = include_str!("../../../../docs/extending.md");
    let shown = include_str!("extending/withhold.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    responses_are_searched();
}

/// An endpoint that answers by path, with a body in two pieces whatever its framing, and then waits for more requests.
fn endpoint() -> Server {
    Server::start(|mut stream| {
        let mut seen = Vec::new();
        let mut byte = [0; 1];
        while stream.read(&mut byte)? > 0 {
            seen.push(byte[0]);
            if !seen.ends_with(b"\r\n\r\n") {
                continue;
            }
            let is = |path: &str| seen.windows(path.len()).any(|here| here == path.as_bytes());
            let chunks = "transfer-encoding: chunked\r\n\r\n8\r\na secret\r\n6\r\n kept \r\n0\r\nx-sum: 1\r\n\r\n";
            let rest = if is("/chunked") {
                chunks.to_owned()
            } else if is("/secret") {
                chunks.replace(" secret", "s\r\n5\r\necret").replacen("8\r\n", "2\r\n", 1)
            } else if is("/large") {
                format!("content-length: 65\r\n\r\n{:65}", "x")
            } else {
                "content-length: 4\r\n\r\nopen".to_owned()
            };
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{rest}")?;
            seen.clear();
        }
        Ok(())
    })
}

fn start(word: &str, endpoint: &Server) -> Running {
    Sluice::with_binary(binary(module_path!())).workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ withhold: {{ word: \"{word}\", max: 64 }} }}] }} }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        endpoint.addr()
    ))
}

fn responses_are_searched() {
    let endpoint = endpoint();
    let sluice = start("asecret", &endpoint);
    let mut client = Client::connect(sluice.addr("web"));
    let open = client.get("a", "/open");
    assert_eq!((open.text().as_str(), open.value("x-searched")), ("open", "4"));
    assert_eq!(open.value("content-length"), "4");
    let kept = client.get("a", "/chunked");
    assert_eq!((kept.text().as_str(), kept.value("x-searched")), ("a secret kept ", "14"));
    assert_eq!((kept.value("content-length"), kept.trailers.trim()), ("", "x-sum: 1"));
    let found = client.get("a", "/secret");
    assert_eq!((found.status(), found.text().as_str()), (502, "withheld\n"));
    assert_eq!(client.get("a", "/large").status(), 500);
    assert_eq!(client.get("a", "/open").status(), 200, "the client keeps its connection");
    sluice.record_of("withhold.found");
    sluice.record_of("http.response_too_large");

    let mut client = H2::connect(sluice.addr("web"));
    client.headers(1, &get("a", "/chunked"), true);
    assert_eq!(client.body(1), b"a secret kept ");
    client.headers(3, &get("a", "/secret"), true);
    assert_eq!(client.body(3), b"withheld\n");
    client.headers(5, &get("a", "/open"), true);
    let head = client.until("headers", |frame| frame.stream == 5 && frame.kind == kind::HEADERS);
    assert_eq!(head.flags & flag::END_STREAM, 0);
    assert_eq!(client.body(5), b"open");
}
