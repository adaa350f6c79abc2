//! The output of `sluice check`, compared with pages in `tests/messages/`.

use std::path::Path;
use std::process::{Command, Output};

use sluice_testkit::{Authority, Sluice, tools};

/// Runs the binary. `check` looks no names up: the name servers of this machine are no part of a test.
pub fn sluice(args: &[&str]) -> Output {
    let offline = ["--offline"].into_iter().filter(|_| args.first() == Some(&"check"));
    tools::run(Command::new(Sluice::binary()).args(args).args(offline))
}

/// The standard output of a command.
pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The exit code and output of `check` for a configuration, with the folder name removed. Certificates `a`, `b` and the
/// authority `ca` are beside it.
///
/// # Panics
/// When the configuration cannot be written.
pub fn check(yaml: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder for the configuration");
    if yaml.contains(".pem") {
        let authority = Authority::new(folder.path());
        authority.issue("a", &["a.test"]);
        authority.issue("b", &["b.test"]);
    }
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, yaml).expect("the configuration is written");
    let output = sluice(&["check", path.to_str().expect("a path in UTF-8")]);
    let shown = format!("{}/", folder.path().display());
    (output.status.code(), out(&output).replace(&shown, ""))
}

/// Compares with a page in `tests/messages/`; with UPDATE=1 writes the page.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("messages").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("the page is written");
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|_| panic!("{} is missing; UPDATE=1 writes it", path.display()));
    assert_eq!(text, expected, "{name}: UPDATE=1 takes the new text");
}
