//! The corpora of the fuzz targets, replayed by an ordinary test, so that past findings stay fixed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use sluice_testkit::{Sluice, tools};

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");

/// Every fuzz target; each has a corpus.
fn targets() -> Vec<String> {
    let files = std::fs::read_dir(Path::new(FUZZ).join("fuzz_targets")).unwrap();
    let stem = |path: std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.map(|file| stem(file.unwrap().path())).collect()
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(FUZZ).join("corpus").join(target);
    let files =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |entry: std::fs::DirEntry| {
        (entry.path().display().to_string(), std::fs::read(entry.path()).expect("it is read"))
    };
    let all: Vec<_> = files.map(|entry| read(entry.expect("it is listed"))).collect();
    let bytes: usize = all.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(
        !all.is_empty() && bytes <= 1 << 20,
        "{target}: a corpus holds something, and at most 1 MiB"
    );
    all
}

#[test]
fn configurations_end_in_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in corpus("yaml") {
        let path = folder.path().join("sluice.yaml");
        std::fs::write(&path, bytes).unwrap();
        let output = tools::run(
            std::process::Command::new(Sluice::binary()).args(["check", "--offline"]).arg(&path),
        );
        assert!(matches!(output.status.code(), Some(0 | 3)), "{name}: {output:?}");
    }
}

#[test]
fn first_bytes_and_headers_end_with_a_reason() {
    let server = sluice_testkit::peers::Server::echo();
    let yaml = format!(
        "listeners:\n  - name: inspect\n    address: 127.0.0.1:0\n    inspect: {{ timeout: 100ms }}\n\
         \x20   chains: [{{ match: {{ protocol: [tls, http1, http2, postgres, redis, ssh] }}, relay: up }}, {{ relay: up }}]\n\
         \x20 - {{ name: proxy_header, address: 127.0.0.1:0, proxy_protocol: {{ accept: required, trust: [127.0.0.0/8], timeout: 100ms }}, relay: up }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    );
    let sluice = Sluice::new().start(&yaml);
    let mut count = 0;
    for target in targets().iter().filter(|target| *target != "yaml") {
        let listener = if target == "proxy_header" { "proxy_header" } else { "inspect" };
        for (_, bytes) in corpus(target) {
            let mut client = sluice_testkit::peers::connect(sluice.addr(listener));
            // Sluice may have seen enough before it has all; any kind of end will do.
            let _ = std::io::Write::write_all(&mut client, &bytes);
            let _ = client.shutdown(std::net::Shutdown::Write);
            let _ = sluice_testkit::peers::read_to_end(&mut client);
            count += 1;
        }
    }
    sluice_testkit::wait::until("a record for each", || {
        (sluice.records().len() == count).then_some(())
    });
}
