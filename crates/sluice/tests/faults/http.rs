//! HTTP clients, and their refusals by rules and filters.

use std::io::{self, Read as _, Write as _};

use sluice_testkit::frames::{H2, frame, get, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect};
use sluice_testkit::{Authority, Origin, Running, Sluice, tls, wait};

use crate::kit::{Fault, Seen, nobody, send, start, told, web, web_with};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A request is malformed",
        reason: "http.malformed",
        inject: || turned_away("", "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", "http.malformed"),
    },
    Fault {
        name: "A request has two lengths (request smuggling)",
        reason: "http.malformed",
        inject: || {
            let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\
                           Transfer-Encoding: chunked\r\n\r\n";
            turned_away("", request, "http.malformed")
        },
    },
    Fault {
        name: "A client speaks TLS to a port without TLS",
        reason: "http.malformed",
        inject: || {
            turned_away("", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "http.malformed")
        },
    },
    Fault {
        name: "A path is not what it seems",
        reason: "http.malformed",
        inject: || {
            let path = ", path: { escaped_slashes: reject }";
            refused(path, "", "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", "http.malformed")
        },
    },
    Fault {
        name: "A client of HTTP/2 breaks the protocol",
        reason: "http.malformed",
        inject: broken_http2,
    },
    Fault {
        name: "The headers of a request do not come in time",
        reason: "http.head_timeout",
        inject: || {
            turned_away(", head_timeout: 150ms", "GET / HTTP/1.1\r\nHo", "http.head_timeout")
        },
    },
    Fault {
        name: "The headers of a request are too large",
        reason: "http.head_too_large",
        inject: || {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "x".repeat(3000));
            turned_away(", head_bytes: 1KiB", request, "http.head_too_large")
        },
    },
    Fault {
        name: "Requests in flight take the memory of the worker",
        reason: "http.memory",
        inject: memory,
    },
    Fault {
        name: "The body of a request does not come in time",
        reason: "http.body_timeout",
        inject: || {
            let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nonly";
            refused(", body_timeout: 150ms", "", request, "http.body_timeout")
        },
    },
    Fault {
        name: "The body of a request is too large",
        reason: "http.body_too_large",
        inject: || {
            let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n";
            refused(", filters: [{ body_max: 1KiB }]", "", request, "http.body_too_large")
        },
    },
    Fault { name: "A client makes too many requests", reason: "http.rate", inject: rate },
    Fault {
        name: "A client makes too many requests while the service for limits is away",
        reason: "http.global_rate",
        inject: global_rate,
    },
    Fault {
        name: "A client has too many requests in flight",
        reason: "http.concurrency",
        inject: concurrency,
    },
    Fault {
        name: "A service is slower than it was, and gets no more requests than it handles",
        reason: "http.overload",
        inject: slower,
    },
    Fault {
        name: "Most requests to a service fail, and some are refused",
        reason: "http.overload",
        inject: failing,
    },
    Fault {
        name: "A request is aborted on purpose",
        reason: "fault.abort",
        inject: || {
            let filter = ", filters: [{ fault: { abort: { status: 503 } } }]";
            refused(filter, "", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "fault.abort")
        },
    },
    Fault { name: "A client resets streams without end", reason: "http.flood", inject: flood },
    Fault {
        name: "A client upgrades to a protocol that the rule does not list",
        reason: "http.upgrade_denied",
        inject: || {
            let request =
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: irc\r\n\r\n";
            refused("", "", request, "http.upgrade_denied")
        },
    },
    Fault {
        name: "A client asks for a tunnel (CONNECT)",
        reason: "http.upgrade_denied",
        inject: || {
            refused("", "", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "http.upgrade_denied")
        },
    },
    Fault {
        name: "A request asks for a host with other client certificates",
        reason: "http.misdirected",
        inject: misdirected,
    },
    Fault { name: "No rule matches a request", reason: "route.unmatched", inject: no_route },
    Fault { name: "A filter refuses a request", reason: "http.denied", inject: denied },
    Fault { name: "A policy refuses a request", reason: "http.denied", inject: denied_by_policy },
    Fault {
        name: "A response is larger than the filter that receives it whole allows",
        reason: "http.response_too_large",
        inject: too_large_to_hold,
    },
    Fault { name: "A call of gRPC finds no endpoint", reason: "upstream.refused", inject: grpc },
];

fn one(http: &str, rule: &str) -> (Running, Origin) {
    let origin = Origin::start("a");
    let sluice = start(&web_with(http, &[origin.addr().to_string()], rule, ""));
    (sluice, origin)
}

/// The observation for bytes that are not accepted as a request: the record is that of the connection.
fn turned_away(http: &str, bytes: impl AsRef<[u8]>, reason: &str) -> Seen {
    let (sluice, _origin) = one(http, "");
    let heard = send(&sluice, bytes);
    Seen::of(&sluice, reason).heard(heard).at("\"web\"").at("127.0.0.1:")
}

/// The observation for a refused request.
fn refused(http: &str, rule: &str, request: &str, reason: &str) -> Seen {
    let (sluice, _origin) = one(http, rule);
    let heard = send(&sluice, request);
    Seen::request(&sluice, reason).heard(heard).at("\"web\"").at("127.0.0.1:")
}

fn broken_http2() -> Seen {
    let (sluice, _origin) = one("", "");
    let mut client = H2::connect(sluice.addr("web"));
    client.send(frame(kind::DATA, 0, 0, b"data on no stream"));
    let goaway = client.until("GOAWAY", |frame| frame.kind == kind::GOAWAY);
    drop(client);
    Seen::of(&sluice, "http.malformed").heard(format!("GOAWAY {}", goaway.code())).at("\"web\"")
}

/// More requests than a small account has room for, to an endpoint that does not respond.
fn memory() -> Seen {
    let silent = Server::start(|mut stream| io::copy(&mut stream, &mut io::sink()).map(drop));
    let yaml = web(&[silent.addr().to_string()], "", "");
    let sluice = start(&format!("{yaml}limits: {{ worker_buffer_bytes: 1MiB }}\n"));
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients: Vec<_> = (0..150).map(|_| connect(sluice.addr("web"))).collect();
    clients.iter_mut().for_each(|client| client.write_all(request).unwrap());
    let labels = "reason=\"http.memory\"";
    wait::until("a request without memory", || {
        (sluice.metric("sluice_http_requests_ended_total", labels) > 0).then_some(())
    });
    let heard = send(&sluice, request);
    let seen = Seen::request(&sluice, "http.memory").heard(heard);
    drop(clients);
    seen.at("\"web\"").at("127.0.0.1:")
}

fn rate() -> Seen {
    let filter = ", filters: [{ rate_limit: { requests: 1/h, burst: 1, per: source_ip } }]";
    let (sluice, _origin) = one(filter, "");
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/").status(), 200);
    let heard = told(&client.get("a", "/"));
    Seen::request(&sluice, "http.rate").heard(heard).at("\"web\"").at("\"all\"")
}

fn global_rate() -> Seen {
    let (origin, away) = (Origin::start("a"), nobody());
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ global_rate_limit: {{ service: limits, domain: edge, \
           descriptors: source_ip, on_error: local, local: 1/d }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  limits: {{ endpoints: [\"{away}\"], protocol: http2 }}\n",
        origin.addr()
    ));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/").status(), 200);
    let heard = told(&client.get("a", "/"));
    Seen::request(&sluice, "http.global_rate").heard(heard).at("\"web\"").at("\"all\"")
}

fn concurrency() -> Seen {
    let filter = ", filters: [{ concurrency_limit: { max: 1, per: source_ip } }]";
    let (sluice, origin) = one(filter, "");
    let mut first = Client::connect(sluice.addr("web"));
    first.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the first request", || (origin.requests().len() == 1).then_some(()));
    let heard = told(&Client::connect(sluice.addr("web")).get("a", "/"));
    origin.release();
    Seen::request(&sluice, "http.concurrency").heard(heard).at("\"web\"").at("\"all\"")
}

fn slower() -> Seen {
    let filter = ", filters: [{ adaptive_concurrency: { min: 1, ideal: 1ms, interval: 1h } }]";
    let (sluice, origin) = one(filter, "");
    let mut first = Client::connect(sluice.addr("web"));
    first.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the first request", || (origin.requests().len() == 1).then_some(()));
    let heard = told(&Client::connect(sluice.addr("web")).get("a", "/"));
    origin.release();
    Seen::request(&sluice, "http.overload").heard(heard).at("\"web\"").at("\"all\"")
}

fn failing() -> Seen {
    let filter =
        ", filters: [{ admission_control: { window: 5m, aggression: 9000, max_refused: 100% } }]";
    let (sluice, _origin) = one(filter, "");
    let mut client = Client::connect(sluice.addr("web"));
    // With one failure, (1 / 2) to the power of 1/9000 of the requests are refused: all but one in 13,000.
    let first = client.get("a", "/status/503");
    assert_eq!(first.value("x-origin"), "a");
    let result = "listener=\"web\",result=\"failure\"";
    let counted = || sluice.metric("sluice_admission_control_requests_total", result) == 1;
    wait::until("the failure to be counted", || counted().then_some(()));
    let heard = wait::until("a refusal", || {
        let message = client.get("a", "/");
        message.values("x-origin").is_empty().then(|| told(&message))
    });
    Seen::request(&sluice, "http.overload").heard(heard).at("\"web\"").at("\"all\"")
}

fn flood() -> Seen {
    let (sluice, _origin) = one(", http2: { resets: 4 }", "");
    let mut client = H2::connect(sluice.addr("web"));
    let streams = (1..2000_u32).step_by(2);
    for stream in streams {
        let mut bytes =
            frame(kind::HEADERS, 5, stream, &sluice_testkit::frames::block(&get("a", "/")));
        bytes.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if client.try_send(bytes).is_err() {
            break;
        }
    }
    while client.read().is_some() {}
    drop(client);
    Seen::of(&sluice, "http.flood").at("\"web\"").at("127.0.0.1:")
}

fn no_route() -> Seen {
    let origin = Origin::start("a");
    let yaml = web_with("", &[origin.addr().to_string()], "", "");
    let sluice = start(&yaml.replace("hosts: \"*\"", "hosts: shop.test"));
    let heard = send(&sluice, "GET /x HTTP/1.1\r\nHost: other.test\r\n\r\n");
    Seen::request(&sluice, "route.unmatched").heard(heard).at("\"web\"").at("other.test")
}

fn misdirected() -> Seen {
    let kit = Sluice::new().workers(1).expect_warning("client_auth");
    Authority::new(kit.folder()).issue("site", &["public.test", "admin.test"]);
    let tls = "certificates: [{ cert: site.pem, key: site.key }]";
    let sluice = kit.start(&format!(
        "listeners:\n\
         - name: web\n\
         \x20 address: 127.0.0.1:0\n\
         \x20 chains:\n\
         \x20 - {{ match: {{ sni: public.test }}, tls: {{ {tls} }}, http: main }}\n\
         \x20 - {{ match: {{ sni: admin.test }}, tls: {{ {tls}, client_auth: {{ ca: ca.pem }} }}, http: main }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ respond: {{ body: here }} }}] }}] }}\n"
    ));
    let ca = sluice.folder().join("ca.pem");
    let mut client = tls::Offer::of("public.test", &ca).connect(sluice.addr("web"));
    client.write_all(b"GET / HTTP/1.1\r\nHost: admin.test\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    let heard = String::from_utf8_lossy(&answer).into_owned();
    Seen::request(&sluice, "http.misdirected").heard(heard).at("public.test").at("admin.test")
}

fn denied() -> Seen {
    let origin = Origin::start("a");
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    let http = ", filters: [{ misbehave: { how: deny } }]";
    let sluice = kit.start(&web_with(http, &[origin.addr().to_string()], "", ""));
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    Seen::request(&sluice, "http.denied").heard(heard).at("\"all\"").at("misbehave")
}

fn denied_by_policy() -> Seen {
    let policy = "deny: { no-export: { permissions: { path: /export/* } } }";
    let http = format!(", filters: [{{ rbac: {{ {policy} }} }}]");
    let (sluice, _origin) = one(&http, "");
    let heard = send(&sluice, "GET /export%2Fall HTTP/1.1\r\nHost: a\r\n\r\n");
    Seen::request(&sluice, "http.denied").heard(heard).at("\"all\"").at("no-export")
}

fn too_large_to_hold() -> Seen {
    let origin = Origin::start("a");
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    let http = ", filters: [{ misbehave: { how: hold } }]";
    let sluice = kit.start(&web_with(http, &[origin.addr().to_string()], "", ""));
    let heard = send(&sluice, "GET /bytes/17 HTTP/1.1\r\nHost: a\r\n\r\n");
    let seen = Seen::request(&sluice, "http.response_too_large").heard(heard);
    seen.endpoint(origin.addr()).at("misbehave")
}

fn grpc() -> Seen {
    let gone = nobody();
    let sluice = start(&web_with("", &[gone.to_string()], "", ""));
    let mut client = H2::connect(sluice.addr("web"));
    let mut fields = get("a", "/orders.v1.Orders/Get");
    fields[0].1 = "POST";
    fields.push(("content-type", "application/grpc"));
    client.headers(1, &fields, true);
    client.until("the response", |frame| frame.stream == 1 && frame.kind == kind::HEADERS);
    let seen = Seen::request(&sluice, "upstream.refused").heard("grpc-status 14");
    assert_eq!(seen.record["grpc_status_number"], 14);
    seen.endpoint(gone)
}
