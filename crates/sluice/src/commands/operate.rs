//! Commands for a running Sluice: they ask its admin address for a change, or how a request would be served.
//!
//! Owns: where the admin address is, one request and its response. Refuses to know: what a change does; the running
//! process checks it. Keeps: a response is bounded in size and time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sluice_core::ListenAddress;

use super::print;
use crate::cli::{
    AdminTarget, ConnectionAction, ConnectionCommand, EndpointAction, EndpointCommand, Format,
    ListenerAction, ListenerCommand, LogLevelCommand, TryCommand,
};

/// How long connecting, and each read and write, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest response.
const RESPONSE_MAX: u64 = 1024 * 1024;

pub(crate) fn endpoint(options: &EndpointCommand) -> anyhow::Result<ExitCode> {
    let EndpointCommand { admin, cluster, address, action } = options;
    let (word, weight, lasts) = match action {
        EndpointAction::Drain(time) => ("drain", None, time.lasts.as_deref()),
        EndpointAction::Maintenance(time) => ("maintenance", None, time.lasts.as_deref()),
        EndpointAction::Ready => ("ready", None, None),
        EndpointAction::Weight { weight, time } => {
            ("weight", Some(weight.as_str()), time.lasts.as_deref())
        }
    };
    let parameters = [
        ("cluster", Some(cluster.as_str())),
        ("address", Some(address.as_str())),
        ("action", Some(word)),
        ("weight", weight),
        ("for", lasts),
    ];
    change(admin, "/overrides", &parameters)
}

pub(crate) fn listener(options: &ListenerCommand) -> anyhow::Result<ExitCode> {
    let action = match options.action {
        ListenerAction::Pause => "pause",
        ListenerAction::Resume => "resume",
    };
    let parameters = [("listener", Some(options.name.as_str())), ("action", Some(action))];
    change(&options.admin, "/listeners", &parameters)
}

pub(crate) fn connection(options: &ConnectionCommand) -> anyhow::Result<ExitCode> {
    let ConnectionCommand { admin, id, action: ConnectionAction::Kill } = options;
    change(admin, "/connections", &[("id", Some(id.as_str())), ("action", Some("kill"))])
}

pub(crate) fn log(options: &LogLevelCommand) -> anyhow::Result<ExitCode> {
    let LogLevelCommand { admin, level, time } = options;
    let parameters = [("level", Some(level.as_str())), ("for", time.lasts.as_deref())];
    change(admin, "/log", &parameters)
}

/// Asks how a request would be judged and routed, and prints the answer.
pub(crate) fn try_request(options: &TryCommand) -> anyhow::Result<ExitCode> {
    let (tls, host, path) = parts_of(&options.url);
    let mut parameters = vec![
        ("host", Some(host)),
        ("path", Some(path)),
        ("tls", tls),
        ("method", Some(&*options.method)),
        ("as", options.identity.as_deref()),
        ("source", options.source.as_deref()),
        ("sni", options.sni.as_deref()),
        ("version", options.version.as_deref()),
        ("listener", options.listener.as_deref()),
        ("format", Some(if options.format == Format::Json { "json" } else { "text" })),
    ];
    parameters.extend(options.headers.iter().map(|header| ("header", Some(&**header))));
    parameters.extend(options.values.iter().map(|value| ("value", Some(&**value))));
    ask("GET", &options.admin, "/try", &parameters)
}

/// What a URL says of a request: the parameter `tls`, the host and the path. It may lack the scheme, or be a path.
fn parts_of(url: &str) -> (Option<&'static str>, &str, &str) {
    let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (Some("true"), rest),
        (None, Some(rest)) => (Some("false"), rest),
        (None, None) => (None, url),
    };
    let place = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(place);
    (tls, host, if path.is_empty() { "/" } else { path })
}

/// Asks for a change, and prints what was done.
fn change(
    admin: &AdminTarget,
    page: &str,
    parameters: &[(&str, Option<&str>)],
) -> anyhow::Result<ExitCode> {
    ask("POST", admin, page, parameters)
}

fn ask(
    method: &str,
    admin: &AdminTarget,
    page: &str,
    parameters: &[(&str, Option<&str>)],
) -> anyhow::Result<ExitCode> {
    let given = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let query: Vec<String> =
        given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let address = admin_address(admin)?;
    let unreachable = || {
        format!(
            "cannot reach the admin address {address}; is Sluice running, and is it `admin.address`?"
        )
    };
    let (status, body) = match &address {
        ListenAddress::Unix(path) => {
            let stream = UnixStream::connect(path).with_context(unreachable)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream, method, page, &query)
        }
        ListenAddress::Tcp(socket) | ListenAddress::Udp(socket) => {
            let stream = connect(*socket).with_context(unreachable)?;
            exchange(stream, method, page, &query)
        }
    }
    .with_context(|| format!("no response from the admin address {address}"))?;
    if status != 200 {
        bail!("{}", help_in(&body).unwrap_or(body));
    }
    print(&body);
    Ok(ExitCode::SUCCESS)
}

fn connect(socket: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&socket, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// The admin address: as given, or as a configuration sets it.
fn admin_address(admin: &AdminTarget) -> anyhow::Result<ListenAddress> {
    let address = match (&admin.admin, &admin.config) {
        (Some(text), _) => ListenAddress::parse(text).map_err(anyhow::Error::msg)?,
        (None, Some(file)) => configured(file)?,
        (None, None) => bail!("give --admin ADDRESS or --config FILE"),
    };
    match &address {
        ListenAddress::Udp(_) => bail!("the admin address is a TCP address or a unix socket"),
        ListenAddress::Tcp(socket) if socket.port() == 0 => {
            bail!(
                "the admin address {address} has no fixed port; give the one in the log with --admin"
            )
        }
        ListenAddress::Tcp(_) | ListenAddress::Unix(_) => Ok(address),
    }
}

fn configured(file: &Path) -> anyhow::Result<ListenAddress> {
    let shown = file.display();
    let config = super::check::read(file).config;
    let config = config.with_context(|| {
        format!("{shown} cannot be read as a configuration; `sluice check {shown}` says why")
    })?;
    let admin = config.admin.with_context(|| {
        format!("{shown} has no `admin` section; add `admin: {{ address: \"127.0.0.1:9901\", writable: true }}`")
    })?;
    Ok(admin.address.value)
}

/// Sends the request and reads the response: its status and its body.
fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    page: &str,
    query: &[String],
) -> anyhow::Result<(u16, String)> {
    let request = format!(
        "{method} {page}?{} HTTP/1.1\r\nhost: localhost\r\nx-sluice: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        query.join("&")
    );
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.take(RESPONSE_MAX).read_to_end(&mut response)?;
    read_response(&String::from_utf8_lossy(&response)).context("it is not an HTTP response")
}

fn read_response(text: &str) -> Option<(u16, String)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The help of an error that the admin pages return.
fn help_in(body: &str) -> Option<String> {
    let error: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(error["error"]["help"].as_str()?.to_owned())
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3).
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, parts) in [
            ("/a?b", (None, "", "/a?b")),
            ("shop.test", (None, "shop.test", "/")),
            ("shop.test:8080/a/b", (None, "shop.test:8080", "/a/b")),
            ("http://shop.test/", (Some("false"), "shop.test", "/")),
            ("https://shop.test?a", (Some("true"), "shop.test", "?a")),
        ] {
            assert_eq!(parts_of(url), parts, "{url}");
        }
    }

    #[test]
    fn responses_and_their_help_are_read() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(read_response(ok), Some((200, "ok".into())));
        for cut in ["", "HTTP/1.1 200 OK", "HTTP/1.1 2\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
            assert_eq!(read_response(cut), None, "{cut:?}");
        }
        let error = r#"{"error":{"code":"refused","message":"Forbidden","help":"do this"}}"#;
        assert_eq!(help_in(error).as_deref(), Some("do this"));
        assert_eq!(help_in("[]"), None);
        assert_eq!(encode("[::1]:80 ä&"), "%5B%3A%3A1%5D%3A80%20%C3%A4%26");
    }
}
