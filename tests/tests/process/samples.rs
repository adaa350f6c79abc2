//! Every sample in `config/`, loaded and exercised with real peers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod extensions;
mod guards;
mod tls;
mod traffic;

use sluice_testkit::mmdb::{self, MmdbValue};
use sluice_testkit::peers::{Server, connect, read};
use sluice_testkit::{Sluice, libraries, tools};
use sluice_tests::sample;

fn addr(server: &Server) -> String {
    server.addr().to_string()
}

#[test]
fn every_sample_has_a_test() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let by_subject = std::fs::read_dir(here.join("tests/process/samples")).unwrap();
    let elsewhere = ["process/samples.rs", "relay/postgres.rs", "relay/databases.rs"];
    let tests: String = by_subject
        .map(|entry| entry.unwrap().path())
        .chain(elsewhere.map(|file| here.join("tests").join(file)))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    for entry in std::fs::read_dir(here.join("../config")).unwrap() {
        let entry = entry.unwrap();
        // Certificates created for the samples.
        if entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        assert!(tests.contains(&format!("\"{name}\"")), "no test drives config/{name}");
    }
}

/// The commands in the header of a sample that create its certificates and passwords.
fn commands_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|of| of.starts_with("sluice cert ") || of.starts_with("echo "))
}

#[test]
fn every_sample_passes_check_after_the_commands_in_its_header() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut made = 0;
    for entry in std::fs::read_dir(samples).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config")).unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        std::fs::write(folder.path().join("config").join(&name), &text).unwrap();
        // What nobody can create by a command.
        if text.contains("GeoLite2-Country.mmdb") {
            std::fs::write(folder.path().join("config/GeoLite2-Country.mmdb"), countries())
                .unwrap();
        }
        if text.contains("libtag.so") {
            let config = folder.path().join("config");
            let examples = ["tag.c", "tally.cpp", "words.cpp"].map(libraries::example);
            if examples.iter().any(|of| libraries::compile(of, &config).is_none()) {
                continue;
            }
        }
        let check = format!("sluice check --strict --offline config/{name}");
        for command in commands_of(&text).chain([&*check]) {
            made += usize::from(command.starts_with("sluice cert"));
            let command = command.replacen("sluice", "\"$SLUICE\"", 1);
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &command]).env("SLUICE", Sluice::binary()).current_dir(folder.path());
            let output = tools::run(&mut shell);
            assert!(output.status.success(), "{name}: {command}: {output:?}");
        }
    }
    assert!(made > 5, "{made} certificates");
}

#[test]
fn database() {
    let servers = ["primary", "standby", "another"].map(Server::greeter);
    let [primary, standby, another] = &servers;
    let sluice = Sluice::new().start(&sample(
        "database.yaml",
        &[
            ("127.0.0.1:6432", "127.0.0.1:0".into()),
            ("127.0.0.1:6433", "127.0.0.1:0".into()),
            ("127.0.0.10:5432", addr(primary)),
            ("127.0.0.11:5432", addr(standby)),
            ("127.0.0.12:5432", addr(another)),
        ],
    ));
    let seen = |listener: &str| {
        let mut seen: Vec<Vec<u8>> =
            (0..40).map(|_| read(&mut connect(sluice.addr(listener)), 7)).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    assert_eq!(seen("orders-db"), [b"primary"]);
    assert_eq!(seen("orders-reads"), [b"another", b"standby"]);
}

/// A database of countries, as the sample expects it.
fn countries() -> Vec<u8> {
    let of = |iso| {
        let country = MmdbValue::Map(vec![("iso_code", MmdbValue::Text(iso))]);
        MmdbValue::Map(vec![("country", country)])
    };
    let block = |at: &str| at.parse().unwrap();
    let blocks = [(block("192.0.2.0"), 24, of("DE")), (block("198.51.100.0"), 24, of("AQ"))];
    mmdb::database("Test-Country", &blocks)
}
