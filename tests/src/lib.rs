//! Code that several black-box tests share; the tests are in `tests/`.
#![forbid(unsafe_code)]

pub mod databases;
pub mod h2_cases;
pub mod h3;
pub mod logins;
pub mod messages;
pub mod planes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sluice_testkit::{Sluice, files, tools};

/// A sample configuration with its addresses replaced; each must appear in it.
///
/// # Panics
/// When the sample cannot be read or does not contain what is to be replaced.
pub fn sample(name: &str, replace: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    let mut text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let to_test = [
        ("127.0.0.1:9901", "127.0.0.1:0".to_owned()),
        ("sink: stdout", "sink: records.json".to_owned()),
    ];
    for (from, to) in to_test.iter().chain(replace) {
        assert!(text.contains(from), "{name} does not hold {from}");
        text = text.replace(from, to);
    }
    text
}

/// Creates the folder `certs` beside the configuration, where the samples expect their certificates.
///
/// # Panics
/// When it cannot be created.
pub fn certs_beside(kit: &Sluice) -> PathBuf {
    let certs = kit.folder().join("certs");
    std::fs::create_dir(&certs).expect("the folder is new");
    certs
}

/// Starts a service of `peers/` that speaks a protocol of Envoy's over gRPC; `None` if Python lacks its messages, which are
/// in `module`.
pub fn envoy_service(script: &str, module: &str) -> Option<(tools::Process, SocketAddr)> {
    if !tools::have_modules(&["grpc", module]) {
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
    Some(tools::serve_on_its_port(&mut tools::python(&script)))
}

/// A DNS server on a loopback `port` that knows only what `more` configures and forwards nothing.
pub fn dnsmasq(port: u16, more: &[&str]) -> tools::Process {
    let mut command = tools::command("dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]);
    // Several run at once, and would share a file.
    command.arg("--pid-file=");
    command.args(["--bind-interfaces", "--user=root", "--listen-address=127.0.0.1"]);
    command.arg(format!("--port={port}")).args(more);
    tools::serve(&mut command, ([127, 0, 0, 1], port).into())
}

/// Moves a file that lists these endpoints into place, as `endpoints_file` wants it.
///
/// # Panics
/// The file cannot be written.
pub fn place_endpoints(path: &Path, endpoints: &[SocketAddr]) {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    place_text(path, &format!("[{}]", list.join(", ")));
}

/// Moves a file with this text into place.
///
/// # Panics
/// The file cannot be written.
pub fn place_text(path: &Path, text: &str) {
    files::place(path, text);
}
