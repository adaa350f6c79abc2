//! Endpoints that accepted a connection and then did not respond as they should.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use sluice_testkit::frames::{Frame, PREFACE, block, flag, frame, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, reset_on_close};
use sluice_testkit::{Origin, Sluice, wait};

use crate::kit::{Fault, Seen, ask, nobody, start, told, web, web_with};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "The endpoint resets the connection before it responds",
        reason: "upstream.reset",
        inject: || before_head("/reset", "upstream.reset"),
    },
    Fault {
        name: "The endpoint closes the connection before it responds",
        reason: "upstream.closed_early",
        inject: || before_head("/close", "upstream.closed_early"),
    },
    Fault {
        name: "The endpoint closes in the middle of its headers",
        reason: "upstream.closed_early",
        inject: || responding(b"HTTP/1.1 200 OK\r\ncontent-le", "upstream.closed_early"),
    },
    Fault {
        name: "The endpoint closes in the middle of a body",
        reason: "upstream.cut",
        inject: || after_head(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this", false),
    },
    Fault {
        name: "The endpoint resets in the middle of a body",
        reason: "upstream.cut",
        inject: || after_head(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this", true),
    },
    Fault {
        name: "The endpoint closes in the middle of a body that a filter holds",
        reason: "upstream.cut",
        inject: while_held,
    },
    Fault {
        name: "The endpoint responds with something that is not HTTP",
        reason: "upstream.protocol",
        inject: || responding(b"SSH-2.0-OpenSSH_9.6\r\n", "upstream.protocol"),
    },
    Fault {
        name: "The endpoint's headers are malformed",
        reason: "upstream.protocol",
        inject: || {
            responding(
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-app : 1\r\n\r\n",
                "upstream.protocol",
            )
        },
    },
    Fault {
        name: "The endpoint's headers are too large",
        reason: "upstream.protocol",
        inject: || {
            let line = format!("x-large: {}\r\n", "x".repeat(1000));
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", line.repeat(70));
            responding_with(head.into_bytes(), "upstream.protocol")
        },
    },
    Fault {
        name: "The endpoint's response has two lengths",
        reason: "upstream.protocol",
        inject: || {
            responding(
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                "upstream.protocol",
            )
        },
    },
    Fault {
        name: "The endpoint speaks TLS and its cluster does not",
        reason: "upstream.protocol",
        inject: || responding(&[21, 3, 3, 0, 2, 2, 70], "upstream.protocol"),
    },
    Fault {
        name: "The endpoint's chunks are malformed",
        reason: "upstream.protocol",
        inject: chunks,
    },
    Fault {
        name: "The endpoint ends its HTTP/2 connection (GOAWAY)",
        reason: "upstream.refused_stream",
        inject: || over_http2("upstream.refused_stream", goaway),
    },
    Fault {
        name: "The endpoint resets the HTTP/2 stream",
        reason: "upstream.reset",
        inject: || over_http2("upstream.reset", reset_stream),
    },
    Fault {
        name: "The endpoint refuses the HTTP/2 stream",
        reason: "upstream.refused_stream",
        inject: || over_http2("upstream.refused_stream", refuse_stream),
    },
    Fault {
        name: "The endpoint breaks HTTP/2",
        reason: "upstream.protocol",
        inject: || over_http2("upstream.protocol", break_http2),
    },
    Fault {
        name: "The endpoint speaks HTTP/1 and its cluster HTTP/2",
        reason: "upstream.protocol",
        inject: not_http2,
    },
    Fault {
        name: "The endpoint does not respond in time",
        reason: "route.timeout",
        inject: || waiting(", timeout: { response: 150ms }", "route.timeout"),
    },
    Fault {
        name: "No attempt is answered in time",
        reason: "route.try_timeout",
        inject: || waiting(", timeout: { per_try: 150ms }", "route.try_timeout"),
    },
    Fault {
        name: "The endpoint stops in the middle of a body",
        reason: "route.idle",
        inject: stalls,
    },
    Fault {
        name: "The exchange takes too long as a whole",
        reason: "route.timeout",
        inject: too_long,
    },
    Fault {
        name: "The stream to an endpoint lasts longer than its cluster allows",
        reason: "upstream.stream_duration",
        inject: || {
            let server = stalling();
            let cluster = ", max_stream_duration: 150ms";
            let sluice = start(&web(&[server.addr().to_string()], "", cluster));
            let mut client = Client::connect(sluice.addr("web"));
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            drop(client.rest());
            let heard = "200, and the connection ends in the middle of the body";
            Seen::request(&sluice, "upstream.stream_duration").heard(heard).endpoint(server.addr())
        },
    },
    Fault { name: "Every attempt fails", reason: "route.retries_exhausted", inject: exhausted },
    Fault {
        name: "The client gives up while it waits for the endpoint",
        reason: "downstream.cancelled",
        inject: given_up,
    },
    Fault {
        name: "The client gives up in the middle of its body",
        reason: "downstream.cancelled",
        inject: given_up_in_body,
    },
    Fault {
        name: "The cluster is at its limit of requests",
        reason: "upstream.limit",
        inject: limit_of_requests,
    },
    Fault {
        name: "The cluster is at its limit of connections",
        reason: "upstream.limit",
        inject: limit_of_connections,
    },
    Fault {
        name: "The cluster drops a part of its traffic",
        reason: "upstream.dropped",
        inject: || {
            let origin = Origin::start("a");
            let sluice =
                start(&web(&[origin.addr().to_string()], "", ", drop: { overload: 100% }"));
            let heard = ask(&sluice);
            let seen = Seen::request(&sluice, "upstream.dropped").heard(heard);
            seen.at("\"up\"").at("overload").showing(origin.addr(), "127.0.0.1:9001")
        },
    },
    Fault {
        name: "As many requests wait for an endpoint as may",
        reason: "upstream.queue_full",
        inject: queue_full,
    },
    Fault {
        name: "No endpoint has room for a request that waits",
        reason: "upstream.queue_timeout",
        inject: || {
            let queue = ", limits: { requests_per_endpoint: 1, queue: { timeout: 50ms } }";
            limited(queue, "upstream.queue_timeout").at("limits.queue.timeout")
        },
    },
    Fault {
        name: "A reload removes the cluster of a request in flight",
        reason: "cluster.unknown",
        inject: cluster_removed,
    },
    Fault {
        name: "A reload removes the endpoint of a request in flight",
        reason: "end.endpoint_removed",
        inject: endpoint_removed,
    },
    Fault {
        name: "The endpoint of a request in flight becomes unhealthy",
        reason: "end.endpoint_unhealthy",
        inject: endpoint_unhealthy,
    },
    Fault {
        name: "An attempt fails and the next one succeeds",
        reason: "http.answered",
        inject: retried,
    },
    Fault {
        name: "An attempt is late and still responds before the next one",
        reason: "http.answered",
        inject: overtaken,
    },
];

/// The observation when the endpoint treats the request as its path says.
fn before_head(path: &str, reason: &str) -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web(&[origin.addr().to_string()], "", ""));
    let heard = told(&sluice_testkit::origin::get(sluice.addr("web"), "shop.test", path));
    Seen::request(&sluice, reason).heard(heard).endpoint(origin.addr())
}

/// An endpoint that reads a request, replies with `bytes` and then closes its sending side, or resets.
fn answering(bytes: Vec<u8>, reset: bool) -> Server {
    Server::start(move |mut stream| {
        read_request(&mut stream)?;
        stream.write_all(&bytes)?;
        if !reset {
            stream.shutdown(std::net::Shutdown::Write)?;
        }
        let mut more = [0; 4096];
        if reset {
            // The client has received the data before it is cut off.
            let _ = stream.read(&mut more);
            reset_on_close(&stream);
            return Ok(());
        }
        while stream.read(&mut more)? > 0 {}
        Ok(())
    })
}

fn read_request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    Ok(())
}

fn responding(bytes: &[u8], reason: &str) -> Seen {
    responding_with(bytes.to_vec(), reason)
}

fn responding_with(bytes: Vec<u8>, reason: &str) -> Seen {
    let server = answering(bytes, false);
    let sluice = start(&web(&[server.addr().to_string()], "", ""));
    let heard = ask(&sluice);
    Seen::request(&sluice, reason).heard(heard).endpoint(server.addr())
}

/// The response ends early, and none of it has been sent to the client.
fn while_held() -> Seen {
    let server = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nonly".to_vec(), false);
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    let http = ", filters: [{ misbehave: { how: hold } }]";
    let sluice = kit.start(&web_with(http, &[server.addr().to_string()], "", ""));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.cut").heard(heard).endpoint(server.addr())
}

/// The response begins, and the client sends more once it has the beginning; with `reset` the endpoint then resets.
fn after_head(bytes: &'static [u8], reset: bool) -> Seen {
    let server = answering(bytes.to_vec(), reset);
    let sluice = start(&web(&[server.addr().to_string()], "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    let mut got = vec![0; 9];
    wait_for(&mut client, &mut got);
    client.send("end");
    drop(client.rest());
    let heard = "200, and the connection ends in the middle of the body";
    Seen::request(&sluice, "upstream.cut").heard(heard).endpoint(server.addr())
}

/// Reads until the body has begun.
fn wait_for(client: &mut Client, got: &mut [u8]) {
    let mut socket = client.socket();
    let mut seen = Vec::new();
    while !seen.ends_with(b"only this") {
        let count = socket.read(got).unwrap();
        assert!(count > 0, "the response ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&got[..count]);
    }
}

fn chunks() -> Seen {
    let bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n";
    let server = answering(bytes.to_vec(), false);
    let sluice = start(&web(&[server.addr().to_string()], "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(client.rest());
    let heard = "200, and the connection ends in the middle of the body";
    Seen::request(&sluice, "upstream.protocol").heard(heard).endpoint(server.addr())
}

/// The observation when an HTTP/2 endpoint sends `answer` for the first request.
fn over_http2(reason: &str, answer: fn(u32) -> Vec<u8>) -> Seen {
    let server = Server::start(move |mut stream| {
        stream.read_exact(&mut [0; PREFACE.len()])?;
        stream.write_all(&frame(kind::SETTINGS, 0, 0, &[]))?;
        loop {
            let frame = read_frame(&mut stream)?;
            if frame.kind == kind::HEADERS {
                stream.write_all(&answer(frame.stream))?;
            }
        }
    });
    let sluice = start(&web(&[server.addr().to_string()], "", ", protocol: http2"));
    let heard = ask(&sluice);
    Seen::request(&sluice, reason).heard(heard).endpoint(server.addr())
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload)?;
    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Ok(Frame { kind: head[3], flags: head[4], stream: number, payload })
}

fn goaway(_: u32) -> Vec<u8> {
    // The request's stream is above the last one processed.
    let payload = [&0_u32.to_be_bytes()[..], &11_u32.to_be_bytes(), b"go easy"].concat();
    frame(kind::GOAWAY, 0, 0, &payload)
}

fn reset_stream(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &2_u32.to_be_bytes())
}

fn refuse_stream(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &7_u32.to_be_bytes())
}

fn break_http2(stream: u32) -> Vec<u8> {
    // A response without a status.
    let fields = block(&[("x-app", "1")]);
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &fields)
}

fn not_http2() -> Seen {
    let server = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false);
    let sluice = start(&web(&[server.addr().to_string()], "", ", protocol: http2"));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.protocol").heard(heard).endpoint(server.addr())
}

fn waiting(rule: &str, reason: &str) -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web(&[origin.addr().to_string()], rule, ""));
    let heard = told(&sluice_testkit::origin::get(sluice.addr("web"), "shop.test", "/wait"));
    origin.release();
    Seen::request(&sluice, reason).heard(heard).endpoint(origin.addr())
}

/// An endpoint that begins a response and then stalls.
fn stalling() -> Server {
    Server::start(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

fn stalled(rule: &str, reason: &str) -> Seen {
    let server = stalling();
    let sluice = start(&web(&[server.addr().to_string()], rule, ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(client.rest());
    let heard = "200, and the connection ends in the middle of the body";
    Seen::request(&sluice, reason).heard(heard).endpoint(server.addr())
}

fn stalls() -> Seen {
    stalled(", timeout: { idle: 150ms }", "route.idle")
}

fn too_long() -> Seen {
    stalled(", timeout: { total: 150ms }", "route.timeout")
}

fn exhausted() -> Seen {
    let origins = [Origin::start("a"), Origin::start("b")];
    let addresses = origins.each_ref().map(|origin| origin.addr().to_string());
    let sluice = start(&web(&addresses, ", retry: { when: reset, attempts: 2, backoff: 1ms }", ""));
    let heard = told(&sluice_testkit::origin::get(sluice.addr("web"), "shop.test", "/reset"));
    let seen = Seen::request(&sluice, "route.retries_exhausted").heard(heard);
    let first = seen.record["upstream_hosts_attempted"][0].as_str().unwrap().to_owned();
    let [a, b] = addresses;
    let (one, two) = if first.starts_with(&a) { (a, b) } else { (b, a) };
    seen.endpoint(one).endpoint(two)
}

/// Waits until the endpoint has received this many requests.
fn overtaken() -> Seen {
    let origins = [Origin::start("a"), Origin::start("b")];
    let addresses = origins.each_ref().map(|origin| origin.addr().to_string());
    let rule = ", timeout: { per_try: 150ms }, retry: { hedge: true }";
    let sluice = start(&web(&addresses, rule, ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    let asked = |count: usize| {
        wait::until("a request at the endpoints", || {
            let asked = origins.each_ref().map(|origin| origin.requests().len());
            (asked.iter().sum::<usize>() == count).then_some(asked[0] == 1)
        })
    };
    let (first, last) = if asked(1) { (0, 1) } else { (1, 0) };
    asked(2);
    origins[first].release();
    let heard = told(&client.read());
    origins[last].release();
    let seen = Seen::request(&sluice, "http.answered").heard(heard).endpoint(origins[last].addr());
    seen.endpoint(origins[first].addr()).at("route.overtaken").at("ok: late")
}

fn reached(origin: &Origin, count: usize) {
    wait::until("a request at the endpoint", || (origin.requests().len() == count).then_some(()));
}

fn given_up() -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web(&[origin.addr().to_string()], "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    reached(&origin, 1);
    drop(client);
    let seen = Seen::request(&sluice, "downstream.cancelled");
    origin.release();
    seen.endpoint(origin.addr()).at("waiting for the response for ")
}

fn given_up_in_body() -> Seen {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let server = Server::start(move |mut stream| {
        read_request(&mut stream)?;
        let _ = tell.send(());
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let sluice = start(&web(&[server.addr().to_string()], "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this");
    told.recv().unwrap();
    drop(client);
    let seen = Seen::request(&sluice, "downstream.cancelled");
    seen.endpoint(server.addr()).at("sending the request for ")
}

fn limit_of_requests() -> Seen {
    limited(", limits: { requests: 1 }", "upstream.limit").at("limits.requests")
}

fn limit_of_connections() -> Seen {
    limited(", limits: { connections: 1, pending: 0 }", "upstream.limit").at("limits.connections")
}

/// What a second request receives while the first is in flight.
fn limited(cluster: &str, reason: &str) -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web(&[origin.addr().to_string()], "", cluster));
    let mut first = Client::connect(sluice.addr("web"));
    first.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    reached(&origin, 1);
    let heard = ask(&sluice);
    origin.release();
    assert_eq!(first.read().status(), 200);
    let seen = Seen::request(&sluice, reason).heard(heard).at("\"up\"");
    seen.showing(origin.addr(), "127.0.0.1:9001")
}

fn queue_full() -> Seen {
    let origin = Origin::start("a");
    let queue = ", limits: { requests_per_endpoint: 1, queue: { size: 1 } }";
    let sluice = start(&web(&[origin.addr().to_string()], "", queue));
    let mut served = [0, 1].map(|_| Client::connect(sluice.addr("web")));
    for (count, client) in (0..).zip(&mut served) {
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        reached(&origin, 1);
        wait::until("the request to wait", || {
            (sluice.metric("sluice_cluster_queue_waiting", "\"up\"") == count).then_some(())
        });
    }
    let heard = ask(&sluice);
    origin.release();
    assert_eq!(served.map(|mut client| client.read().status()), [200, 200]);
    let seen = Seen::request(&sluice, "upstream.queue_full").heard(heard).at("\"up\"");
    seen.at("limits.queue.size").showing(origin.addr(), "127.0.0.1:9001")
}

fn cluster_removed() -> Seen {
    let origin = Origin::start("a");
    let yaml =
        web_with(", filters: [{ buffer: { max: 1KiB } }]", &[origin.addr().to_string()], "", "");
    let sluice = start(&yaml);
    let mut client = Client::connect(sluice.addr("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nen");
    wait::until("the request to be taken", || {
        (sluice.metric("sluice_http_requests_active", "") == 1).then_some(())
    });
    assert_eq!(
        sluice.reload(&yaml.replace("cluster: up", "cluster: new").replace("{ up:", "{ new:")),
        "applied"
    );
    client.send("d");
    let heard = told(&client.read());
    Seen::request(&sluice, "cluster.unknown").heard(heard).at("\"up\"").at("\"all\"")
}

fn endpoint_removed() -> Seen {
    let origin = Origin::start("a");
    let yaml = |at: &str| web(&[at.to_owned()], "", ", on_endpoint_removed: close");
    let sluice = start(&yaml(&origin.addr().to_string()));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    reached(&origin, 1);
    assert_eq!(sluice.reload(&yaml(&nobody().to_string())), "applied");
    let heard = told(&client.read());
    origin.release();
    Seen::request(&sluice, "end.endpoint_removed").heard(heard).endpoint(origin.addr())
}

fn endpoint_unhealthy() -> Seen {
    let origin = Origin::start("a");
    let policy =
        ", on_endpoint_unhealthy: close, health: { http: { path: /status/200, retriable: 503 } }";
    let yaml = web(&[origin.addr().to_string()], "", policy);
    let sluice = Sluice::new().workers(1).expect_warning("endpoint is unhealthy").start(&yaml);
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request", || {
        origin.requests().iter().any(|request| request.path() == "/wait").then_some(())
    });
    // Another response of the endpoint asks for no more traffic.
    sluice_testkit::origin::get(sluice.addr("web"), "shop.test", "/unfit");
    let heard = told(&client.read());
    origin.release();
    Seen::request(&sluice, "end.endpoint_unhealthy").heard(heard).endpoint(origin.addr())
}

fn retried() -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web(
        &[origin.addr().to_string()],
        ", retry: { when: server_error, attempts: 2, backoff: 1ms }",
        "",
    ));
    let heard = told(&sluice_testkit::origin::get(sluice.addr("web"), "shop.test", "/flaky/1"));
    wait::until("the record", || {
        sluice.records().iter().any(|record| record["kind"] == "request").then_some(())
    });
    let seen = Seen::request(&sluice, "http.answered").heard(heard).endpoint(origin.addr());
    seen.at("route.retried")
}
