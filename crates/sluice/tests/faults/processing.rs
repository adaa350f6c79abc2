//! Requests whose processing by a service fails.

use std::io::{Read as _, Write as _};

use sluice_testkit::frames::{block, flag, frame, kind};
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Sluice};

use crate::kit::{Fault, Seen, ask, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "The service that processes a request does not answer in time",
        reason: "ext_proc.timeout",
        inject: || processed(b"", "timeout: 200ms", "ext_proc.timeout", "ext_proc_timeout"),
    },
    Fault {
        name: "The service that processes a request answers what was not sent",
        reason: "ext_proc.unexpected",
        // An answer to the headers of the response.
        inject: || processed(b"\x12\0", "timeout: 60s", "ext_proc.unexpected", "was not due"),
    },
    Fault {
        name: "The service that processes a response refuses it when it has begun",
        reason: "ext_proc.cut",
        inject: cut,
    },
];

/// A service that answers every call with this message; with none, if it is empty.
fn service(answer: &'static [u8]) -> Server {
    Server::start(move |mut stream| {
        let mut heard = [0; 4096];
        let mut all = Vec::new();
        let mut answered = answer.is_empty();
        stream.write_all(&frame(kind::SETTINGS, 0, 0, b""))?;
        loop {
            let count = stream.read(&mut heard)?;
            if count == 0 {
                return Ok(());
            }
            all.extend_from_slice(&heard[..count]);
            // The headers of the first call, with their flag: END_HEADERS, and nothing else.
            let calls =
                all.windows(6).any(|bytes| bytes == [kind::HEADERS, flag::END_HEADERS, 0, 0, 0, 1]);
            if calls && !answered {
                let fields = [(":status", "200"), ("content-type", "application/grpc")];
                stream.write_all(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields)))?;
                let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
                let message = [&[0][..], &length, answer].concat();
                stream.write_all(&frame(kind::DATA, 0, 1, &message))?;
                answered = true;
            }
        }
    })
}

fn yaml(origin: &Origin, service: &Server, filter: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ ext_proc: {{ cluster: proc, {filter} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  proc: {{ endpoints: [\"{}\"], protocol: http2 }}\n\
         access_log: [{{ sink: records.json }}]\n",
        origin.addr(),
        service.addr()
    )
}

fn processed(answer: &'static [u8], filter: &str, reason: &str, place: &str) -> Seen {
    let (origin, service) = (Origin::start("a"), service(answer));
    let sluice = Sluice::new().workers(1).start(&yaml(&origin, &service, filter));
    let heard = ask(&sluice);
    assert!(origin.requests().is_empty());
    Seen::request(&sluice, reason).heard(heard).at("\"web\"").at("proc ").at(place)
}

fn cut() -> Seen {
    // A response with the status 403.
    let (origin, service) = (Origin::start("a"), service(b"\x3a\x05\x0a\x03\x08\x93\x03"));
    let send_body = "timeout: 60s, send: { request_headers: false, response_headers: false, response_body: streamed }";
    let sluice = Sluice::new().workers(1).start(&yaml(&origin, &service, send_body));
    let heard = send(&sluice, "GET /chunked HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    Seen::request(&sluice, "ext_proc.cut").heard(heard).at("\"web\"").at("proc ")
}
