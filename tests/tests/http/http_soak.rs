//! HTTP under load while everything around it changes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sluice_testkit::peers::Server;
use sluice_testkit::{Sluice, tools, wait};

/// The total number of requests, half of them HTTP/1 and half HTTP/2.
const REQUESTS: u32 = 100_000;

/// Requests between two changes.
const BETWEEN: u32 = 4000;

/// Responds to requests and counts them; closes the connection instead while `down` is set.
fn serve(stream: TcpStream, served: &AtomicU32, down: &AtomicBool) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        if down.load(Ordering::Relaxed) {
            return Ok(());
        }
        served.fetch_add(1, Ordering::Relaxed);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?;
    }
}

#[test]
fn no_request_is_lost_while_configurations_alternate_and_an_endpoint_flaps() {
    if !tools::have(&["h2load"]) {
        return;
    }
    let (served, up, down) =
        (Arc::new(AtomicU32::new(0)), Arc::default(), Arc::new(AtomicBool::new(false)));
    let start = |flag: &Arc<AtomicBool>| {
        let (served, flag) = (Arc::clone(&served), Arc::clone(flag));
        Server::start(move |stream| serve(stream, &served, &flag))
    };
    let (steady, flapping) = (start(&up), start(&down));
    let config = |name: &str, field: &str, idle: &str| {
        format!(
            "listeners:\n\
             \x20 - name: web\n\
             \x20   address: 127.0.0.1:0\n\
             \x20   http: {{ routes: main, filters: [{{ set_headers: {{ request: {{ {field}: x }} }} }}] }}\n\
             routes:\n\
             \x20 main: [{{ hosts: \"*\", rules: [{{ name: {name}, cluster: up, retry: {{ when: [reset, connect_failure], attempts: 5, backoff: 1ms }} }}] }}]\n\
             clusters:\n\
             \x20 up: {{ endpoints: [\"{}\", \"{}\"], limits: {{ retries: 1000 }}, reuse: {{ idle_timeout: {idle} }} }}\n",
            steady.addr(),
            flapping.addr()
        )
    };
    let configs = [config("one", "x-one", "30s"), config("two", "x-two", "20s")];
    let sluice = Sluice::new().start(&configs[0]);
    let mut turn = 0;
    for version in ["--h1", "--no-tls-proto=h2c"] {
        let mut load = tools::command("h2load");
        load.args(["-c", "16", "-m", "8", "-n", &(REQUESTS / 2).to_string(), version]);
        load.arg(format!("http://{}/", sluice.addr("web")));
        let mut load = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut next = served.load(Ordering::Relaxed) + BETWEEN;
        loop {
            let ended = wait::until("the load to go on", || {
                let ended = load.try_wait().unwrap().is_some();
                (ended || served.load(Ordering::Relaxed) >= next).then_some(ended)
            });
            if ended {
                break;
            }
            next += BETWEEN;
            turn += 1;
            down.store(turn % 2 == 1, Ordering::Relaxed);
            assert_eq!(sluice.reload(&configs[turn % 2]), "applied");
        }
        let output = load.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let all =
            format!("{0} total, {0} started, {0} done, {0} succeeded, 0 failed", REQUESTS / 2);
        assert!(text.contains(&all) && text.contains(&format!("{} 2xx", REQUESTS / 2)), "{text}");
    }
    assert!(turn > 10, "{turn} changes");
    assert!(sluice.metric("sluice_cluster_retries_total", "made") > 0);
    assert_eq!(served.load(Ordering::Relaxed), REQUESTS, "each request was answered once");
}
