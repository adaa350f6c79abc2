//! Endpoints that are ejected for what becomes of their traffic, and come back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect};
use sluice_testkit::{Running, Sluice, origin, tools, wait};

/// An HTTP server that responds with the status that it is given.
pub(crate) struct Moody {
    status: Arc<AtomicU16>,
    server: Server,
}

impl Moody {
    pub(crate) fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let now = Arc::clone(&status);
        let server = Server::start(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            loop {
                origin::read_message(&mut reader, true)?;
                let status = now.load(Ordering::SeqCst);
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")?;
            }
        });
        Self { status, server }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub(crate) fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

/// A Sluice that serves HTTP from these servers.
fn start(servers: &[Moody], more: &str) -> Running {
    let endpoints: Vec<String> =
        servers.iter().map(|of| format!("\"{}\"", of.server.addr())).collect();
    Sluice::new().expect_warning("endpoint ejected").start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: {{ endpoints: [{}], {more} }} }}\n",
        endpoints.join(", ")
    ))
}

fn get(sluice: &Running) -> u16 {
    origin::get(sluice.addr("web"), "a", "/").status()
}

fn ejections(sluice: &Running, kind: &str) -> i64 {
    sluice.metric("sluice_cluster_ejections_total", &format!("kind=\"{kind}\""))
}

/// The cause for which the endpoint with that index is ejected.
fn cause(sluice: &Running, index: usize) -> Option<String> {
    let endpoint = &sluice.items("/clusters")[0]["endpoints"][index];
    endpoint["trouble"]["ejected"]["cause"].as_str().map(str::to_owned)
}

#[test]
fn gateway_errors_in_a_row_eject() {
    let servers = [Moody::start(), Moody::start()];
    let sluice = start(&servers, "outlier: { consecutive_gateway_errors: 3, ejection: 1h }");
    servers[1].set(500);
    for _ in 0..20 {
        get(&sluice);
    }
    assert_eq!(cause(&sluice, 1), None);
    servers[1].set(503);
    wait::until("an ejection", || {
        get(&sluice);
        cause(&sluice, 1)
    });
    assert_eq!(cause(&sluice, 1).unwrap(), "consecutive gateway errors");
    assert_eq!(ejections(&sluice, "consecutive_gateway_errors"), 1);
    for _ in 0..10 {
        assert_eq!(get(&sluice), 200);
    }
}

#[test]
fn rates_eject_those_that_are_worse_than_others_or_bad() {
    for (settings, kind, said) in [
        (
            "success_rate: { stdev_factor: 1.2, endpoints: 3, requests: 5 }",
            "success_rate",
            "success rate of 0.0 %, below ",
        ),
        (
            "failure_percentage: { threshold: 60%, endpoints: 3, requests: 5 }",
            "failure_percentage",
            "failure percentage of 100.0 % of requests",
        ),
    ] {
        let servers = [Moody::start(), Moody::start(), Moody::start()];
        let more = format!("outlier: {{ {settings}, interval: 1s, ejection: 1h }}");
        let sluice = start(&servers, &more);
        servers[1].set(500);
        let mut client = Client::connect(sluice.addr("web"));
        let cause = wait::until("an ejection", || {
            // Enough for a verdict, if they fall into one interval.
            for _ in 0..30 {
                client.get("a", "/");
            }
            cause(&sluice, 1)
        });
        assert!(cause.contains(said), "{cause}");
        assert_eq!(ejections(&sluice, kind), 1);
        assert_eq!(get(&sluice), 200);
    }
}

#[test]
fn a_share_of_failed_connections_ejects() {
    let echo = Server::echo();
    let dead = tools::free_port();
    let sluice = Sluice::new().expect_warning("endpoint ejected").start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\", \"127.0.0.1:{dead}\"], outlier: {{ \
         connect_failures: none, failure_percentage: {{ threshold: 60%, endpoints: 2, requests: 5 }}, \
         interval: 1s, ejection: 1h }} }} }}\n",
        echo.addr()
    ));
    wait::until("an ejection", || {
        for _ in 0..20 {
            drop(connect(sluice.addr("a")));
        }
        cause(&sluice, 1)
    });
    assert_eq!(ejections(&sluice, "connect_failure_percentage"), 1);
}

#[test]
fn a_check_that_succeeds_readmits_what_it_refutes() {
    let quick = "interval: 20ms";
    for (check, more, back) in [
        ("http: {}", "", true),
        ("http: {}", ", readmit_after_check: false", false),
        // It says nothing about responses.
        ("tcp: {}", "", false),
    ] {
        let servers = [Moody::start(), Moody::start()];
        let probe = Moody::start();
        let sluice = start(
            &servers,
            &format!(
                "outlier: {{ consecutive_5xx: 2, ejection: 1h{more} }}, \
                 health: {{ {check}, {quick}, port: {} }}",
                probe.server.addr().port()
            ),
        );
        servers[1].set(500);
        wait::until("an ejection", || {
            get(&sluice);
            (ejections(&sluice, "consecutive_5xx") > 0).then_some(())
        });
        servers[1].set(200);
        if back {
            wait::until("the endpoint to be back", || cause(&sluice, 1).is_none().then_some(()));
            assert!(sluice.log().contains("endpoint is back in use: a health check succeeded"));
        } else {
            let checks = || sluice.metric("sluice_health_checks_total", "\"ok\"");
            let before = checks();
            wait::until("more checks", || (checks() > before + 6).then_some(()));
            assert_eq!(cause(&sluice, 1).unwrap(), "consecutive server errors");
        }
    }
}

#[test]
fn a_slow_endpoint_is_ejected_and_what_is_not_enforced_is_only_counted() {
    /// A server that takes this long to respond.
    fn slow(millis: u64) -> Server {
        Server::start(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            loop {
                origin::read_message(&mut reader, true)?;
                std::thread::sleep(std::time::Duration::from_millis(millis));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            }
        })
    }
    let servers = [slow(0), slow(0), slow(400)];
    let endpoints: Vec<String> = servers.iter().map(|of| format!("\"{}\"", of.addr())).collect();
    let yaml = |enforce: &str| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: {{ cluster: up }} }}\n\
             clusters: {{ up: {{ endpoints: [{}], outlier: {{ latency: {{ requests: 2, excess: 100ms }}, enforce: {{ latency: {enforce} }}, interval: 2s, ejection: 1h }} }} }}\n",
            endpoints.join(", ")
        )
    };
    let sluice = Sluice::new().workers(1).expect_warning("endpoint ejected").start(&yaml("0%"));
    let counted = |name: &str| {
        wait::until(name, || {
            assert_eq!(get(&sluice), 200);
            (sluice.metric(name, "kind=\"latency\"") > 0).then_some(())
        });
    };
    counted("sluice_cluster_ejections_not_enforced_total");
    assert_eq!(ejections(&sluice, "latency"), 0);
    assert_eq!(sluice.reload(&yaml("100%")), "applied");
    counted("sluice_cluster_ejections_total");
    let cause = cause(&sluice, 2).unwrap();
    assert!(cause.starts_with("mean response time of "), "{cause}");
    assert_eq!(ejections(&sluice, "latency"), 1);
}
