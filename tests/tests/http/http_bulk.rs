//! HTTP with bodies far larger than any buffer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use sluice_testkit::peers::Server;
use sluice_testkit::{Authority, Running, Sluice, tools};
use sluice_tests::h3::configuration;

/// Bytes of each body.
const BODY: u64 = 1 << 30;

/// The allowed memory growth of the process while gibibytes pass through it.
const GROWTH: i64 = 24 << 20;

/// Reads a body in any framing and responds with its size; responds to a GET with [`BODY`] bytes, chunked if the path
/// asks for it.
fn serve(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    loop {
        let (mut lines, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            lines.push_str(&line);
        }
        let stated = lines.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut taken = 0;
        if let Some(length) = stated {
            let length = length.parse().unwrap();
            taken = io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        } else if lines.contains("transfer-encoding: chunked") {
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let size = u64::from_str_radix(line.trim_end(), 16).unwrap();
                io::copy(&mut reader.by_ref().take(size), &mut io::sink())?;
                reader.read_line(&mut line)?;
                if size == 0 {
                    break;
                }
                taken += size;
            }
        }
        let stream = reader.get_mut();
        if lines.starts_with("PUT") {
            let taken = taken.to_string();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{taken}", taken.len())?;
            continue;
        }
        let piece = vec![b'x'; 1 << 20];
        if lines.starts_with("GET /chunked") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            for _ in 0..BODY >> 20 {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(&piece)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        } else {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n")?;
            for _ in 0..BODY >> 20 {
                stream.write_all(&piece)?;
            }
        }
    }
}

#[test]
fn a_gibibyte_passes_both_ways_at_constant_memory() {
    if !tools::have(&["curl"]) {
        return;
    }
    let origin = Server::start(serve);
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    let file = zeros(&sluice);
    let before = highest(&sluice);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let curl = |path: &str, more: &[&str]| {
            let mut curl = tools::command("curl");
            curl.args(["-sS", version]).args(more);
            tools::must(curl.arg(format!("http://{}{path}", sluice.addr("web"))))
        };
        let old = version == "--http1.1";
        for path in ["/counted", "/chunked"].into_iter().take(if old { 2 } else { 1 }) {
            let size = curl(path, &["-o", "/dev/null", "-w", "%{size_download}"]);
            assert_eq!(size, BODY.to_string(), "{version}{path}");
        }
        assert_eq!(curl("/", &["-T", &file]), BODY.to_string(), "{version}");
        // HTTP/2 has no chunked coding.
        if old {
            let chunked = curl("/", &["-T", &file, "-H", "transfer-encoding: chunked"]);
            assert_eq!(chunked, BODY.to_string(), "in chunks");
        }
    }
    let grown = highest(&sluice) - before;
    assert!(grown < GROWTH, "the process grew by {grown} bytes");
}

#[test]
fn a_gibibyte_passes_over_http3_at_constant_memory() {
    if !tools::have(&["curl"]) {
        return;
    }
    let origin = Server::start(serve);
    // One Sluice speaks HTTP/3 to another, so that both roles are covered.
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let inner = kit.start(&configuration("web", origin.addr(), "true"));
    let outer = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"], protocol: http3, tls: {{ sni: web.test, ca: \"{}\" }} }} }}\n",
        inner.addr("web"),
        inner.folder().join("ca.pem").display()
    ));
    let before = [&inner, &outer].map(highest);
    let curl = |path: &str, more: &[&str]| {
        let mut curl = tools::command("curl");
        tools::must(curl.arg("-sS").args(more).arg(format!("http://{}{path}", outer.addr("web"))))
    };
    let size = curl("/counted", &["-o", "/dev/null", "-w", "%{size_download}"]);
    assert_eq!(size, BODY.to_string());
    assert_eq!(curl("/", &["-T", &zeros(&outer)]), BODY.to_string());
    for (sluice, before) in [&inner, &outer].into_iter().zip(before) {
        let grown = highest(sluice) - before;
        assert!(grown < GROWTH, "a process grew by {grown} bytes");
    }
}

/// The peak memory of a process, in bytes.
fn highest(sluice: &Running) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sluice.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() << 10
}

/// A sparse file of [`BODY`] bytes.
fn zeros(sluice: &Running) -> String {
    let file = sluice.folder().join("zeros");
    std::fs::File::create(&file).unwrap().set_len(BODY).unwrap();
    file.to_str().unwrap().to_owned()
}
