//! `sluice lua`: tries a script with one request.
//!
//! Owns: the request, the endpoint, and what is printed of both. Refuses to know: how scripts run; the proxy does it, as a
//! separate process. Keeps: everything is on loopback, in a temporary folder, and removed at the end.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::demo::{Folder, Proxy};
use super::print;
use crate::cli::LuaTrial;

/// The cluster of the endpoint. A script cannot call it unless it is named.
const ENDPOINT: &str = "sluice-lua-endpoint";

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 18\r\nconnection: close\r\n\r\nfrom the endpoint\n";

pub(crate) fn run(options: &LuaTrial) -> anyhow::Result<ExitCode> {
    let request = request(options)?;
    let folder = Folder::new()?;
    let endpoint = start_endpoint()?;
    let config = folder.0.join("lua.yaml");
    fs::write(&config, configuration(options, endpoint)?)?;
    let log = "warn,sluice_lua=trace";
    let proxy = Proxy::start(&config, &folder.0.join("report"), log)?;
    let mut client = TcpStream::connect(proxy.address("lua")?)?;
    client.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    client.read_to_end(&mut response)?;
    print(&shown("the client gets", &response));
    Ok(ExitCode::SUCCESS)
}

fn request(options: &LuaTrial) -> anyhow::Result<String> {
    let words: Vec<&str> = options.request.split_whitespace().collect();
    let [method, path] = words[..] else {
        bail!(
            "expected a method and a path, such as `GET /shop?item=1`, not `{}`",
            options.request
        );
    };
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !options.headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:")) {
        text += "host: example.com\r\n";
    }
    for header in &options.headers {
        text = text + header + "\r\n";
    }
    if !options.body.is_empty() {
        text += &format!("content-length: {}\r\n", options.body.len());
    }
    Ok(text + "connection: close\r\n\r\n" + &options.body)
}

fn configuration(options: &LuaTrial, endpoint: SocketAddr) -> anyhow::Result<String> {
    let script = fs::canonicalize(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let script = serde_json::to_string(&script)?;
    let called = serde_json::to_string(&options.clusters)?;
    let clusters = options.clusters.iter().map(String::as_str).chain([ENDPOINT]);
    let clusters: String = clusters
        .map(|name| {
            Ok(format!("  {}: {{ endpoints: [\"{endpoint}\"] }}\n", serde_json::to_string(name)?))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(format!(
        "listeners:\n  - {{ name: lua, address: 127.0.0.1:0, http: {{ routes: all, filters: [{{ lua: {{ file: {script}, clusters: {called} }} }}] }} }}\nroutes:\n  all:\n    - rules: [{{ cluster: {ENDPOINT} }}]\nclusters:\n{clusters}"
    ))
}

/// Starts the endpoint, which prints every request.
fn start_endpoint() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A request that breaks off is seen at the other end.
            let _ = answer(&stream);
        }
    });
    Ok(address)
}

fn answer(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut request)? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if let Some(length) = length {
        reader.take(length).read_to_end(&mut request)?;
    } else if head.contains("transfer-encoding: chunked") {
        while !request.ends_with(b"\r\n0\r\n\r\n") {
            if reader.read_until(b'\n', &mut request)? == 0 {
                break;
            }
        }
    }
    print(&shown("an endpoint gets", &request));
    stream.write_all(ANSWER.as_bytes())
}

fn shown(what: &str, message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let lines: String = text.lines().map(|line| format!("  {}\n", line.trim_end())).collect();
    format!("{what}:\n{lines}")
}
