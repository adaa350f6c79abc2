//! The programs of the system that tests want, and installing them where that may be done.

use std::path::Path;

use crate::shell;

/// A program that black-box tests use, and its Debian package.
const WANTED: &[(&str, &str)] = &[
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("psql", "postgresql-client"),
    ("postgres", "postgresql"),
    ("pgbench", "postgresql-contrib"),
    ("dig", "dnsutils"),
    ("dnsmasq", "dnsmasq"),
    ("nginx", "nginx"),
    ("h2load", "nghttp2-client"),
];

/// Modules of the system's Python that peers in tests are written with, and their packages.
const MODULES: &[(&str, &str)] =
    &[("grpc", "python3-grpcio"), ("websockets", "python3-websockets")];

/// Whether the system's Python has a module.
fn has_module(module: &str) -> bool {
    let import = format!("import {module}");
    shell::output(&mut shell::command("/usr/bin/python3", &["-c", &import])).is_ok()
}

/// Where programs are, servers that hide outside of PATH included.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let postgres = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let hidden = postgres.map(|entry| entry.path().join("bin"));
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(hidden)
        .chain(system)
        .any(|folder| folder.join(program).is_file())
}

/// Installs what is missing, as root on Debian; elsewhere says what is missing and goes on.
#[allow(clippy::print_stdout, reason = "a developer wants to see what is installed")]
pub fn install() {
    let programs = WANTED.iter().filter(|(program, _)| !is_there(program));
    let modules = MODULES.iter().filter(|(module, _)| !has_module(module));
    let missing: Vec<&str> = programs.chain(modules).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return;
    }
    let root = shell::output(&mut shell::command("id", &["-u"])).is_ok_and(|id| id.trim() == "0");
    if !root || !Path::new("/usr/bin/apt-get").exists() {
        println!(
            "MISSING: {} (tests that want them are skipped, or fail with CI=true)",
            missing.join(" ")
        );
        return;
    }
    let install = [&["install", "-y", "-qq", "--no-install-recommends"][..], &missing].concat();
    for args in [&["update", "-qq"][..], &install] {
        let mut command = shell::command("apt-get", args);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // Services are the tests' to start, on ports of their own.
        command.env("RUNLEVEL", "1");
        if let Err(error) = shell::run(&mut command) {
            println!("MISSING: {error:#}");
        }
    }
}
