//! A Sluice that speaks HTTP/3, with aioquic as its client.
//!
//! Owns: starting both, and the vocabulary of the client's steps. Refuses to know: the requests. Keeps: the client does
//! exactly the given steps.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use sluice_testkit::{Authority, Origin, Running, Sluice, tools};

/// A Sluice that speaks QUIC, configured by the section `quic`, in front of `origin`.
pub fn edge(origin: &Origin, workers: u16, quic: &str) -> Running {
    let kit = Sluice::new().workers(workers);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    kit.start(&configuration("web", origin.addr(), quic))
}

/// A configuration for QUIC with the certificate `cert` that sends everything to `endpoint`.
pub fn configuration(cert: &str, endpoint: SocketAddr, quic: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: {quic}, tls: {{ certificates: [{{ cert: {cert}.pem, key: {cert}.key }}] }}, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ path: /* }}, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{endpoint}\"] }} }}\n"
    )
}

/// A running client; its steps are described in `tests/peers/h3.py`.
#[derive(Debug)]
pub struct Client(Child);

impl Client {
    /// Connects to a listener under a name and runs the steps, trusting `ca.pem`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(sluice: &Running, listener: &str, name: &str, steps: &Value) -> Self {
        Self::start_at(sluice.addr(listener).port(), sluice, name, steps)
    }

    /// Like `start`, but through another port of this host that leads to the listener.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_at(port: u16, sluice: &Running, name: &str, steps: &Value) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/h3.py");
        let mut command = tools::python(&script);
        command.arg(port.to_string());
        command.arg(sluice.folder().join("ca.pem")).arg(name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        child
            .stdin
            .take()
            .expect("it was piped")
            .write_all(steps.to_string().as_bytes())
            .expect("it runs");
        Self(child)
    }

    /// The output of the client.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn end(self) -> Value {
        let output = self.0.wait_with_output().expect("it runs");
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("the client failed: {out}{err}"))
    }

    /// Whether the client exits successfully.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn succeeds(self) -> bool {
        self.0.wait_with_output().expect("it runs").status.success()
    }
}

/// The header fields of a request.
pub fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Value {
    let mut fields = vec![
        json!([":method", method]),
        json!([":scheme", "https"]),
        json!([":authority", "web.test"]),
        json!([":path", path]),
    ];
    fields.extend(more.iter().map(|(name, value)| json!([name, value])));
    Value::Array(fields)
}

/// The status received on a stream; 0 if there is none.
pub fn status(stream: &Value) -> u16 {
    stream["head"][0][1].as_str().and_then(|status| status.parse().ok()).unwrap_or(0)
}
