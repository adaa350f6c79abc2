//! System programs that tests use as peers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A started program; killed on drop.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The path of a program, searched in PATH and in the folders where servers are installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let hidden = [
        "/usr/sbin",
        "/usr/local/sbin",
        "/sbin",
        "/usr/lib/postgresql/15/bin",
        "/usr/lib/postgresql/17/bin",
    ];
    let folders = std::env::split_paths(&path).chain(hidden.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The Python of the tests: the one in the build directory if it was created (it has the system's modules too), or the
/// system's, which the Debian packages belong to.
fn interpreter() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let mut own = test.ancestors().map(|folder| folder.join("peers/bin/python3"));
    own.find(|file| file.exists()).unwrap_or_else(|| "/usr/bin/python3".into())
}

/// A command that runs a Python script.
pub fn python(script: &std::path::Path) -> Command {
    let mut command = Command::new(interpreter());
    command.arg(script);
    command
}

/// Whether Python has these modules; see [`have`].
pub fn have_modules(modules: &[&str]) -> bool {
    let has = |module: &str| {
        let import = format!("import {module}");
        Command::new(interpreter())
            .args(["-c", &import])
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let missing: Vec<String> = modules
        .iter()
        .filter(|module| !has(module))
        .map(|module| format!("python3 module {module}"))
        .collect();
    all_there(&missing)
}

/// The folder with these modules for Node, in the build directory; `None` if one is missing, or Node is; see [`have`].
pub fn node_modules(modules: &[&str]) -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.ancestors().map(|folder| folder.join("peers/node_modules"));
    let mut folder = folder.filter(|folder| folder.exists());
    let folder = folder.next().unwrap_or_default();
    let missing = modules.iter().filter(|module| !folder.join(module).exists());
    let mut missing: Vec<String> = missing.map(|module| format!("npm {module}")).collect();
    if find("node").is_none() {
        missing.push("node".into());
    }
    all_there(&missing).then_some(folder)
}

/// Starts a server that prints its port as the first line, and exits when its input ends.
#[track_caller]
pub fn serve_on_its_port(command: &mut Command) -> (Process, SocketAddr) {
    use std::io::BufRead as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut line = String::new();
    let out = child.stdout.take().expect("it was piped");
    std::io::BufReader::new(out).read_line(&mut line).expect("it says its port");
    let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("{command:?} said `{line}`"));
    (Process(child), ([127, 0, 0, 1], port).into())
}

/// Whether all these programs are installed. If one is missing the test may be skipped, which is printed and counted by
/// `cargo xtask test`; with `CI=true` it fails.
///
/// # Panics
/// With `CI=true`, when one is missing.
pub fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().filter(|program| find(program).is_none());
    all_there(&missing.map(ToString::to_string).collect::<Vec<_>>())
}

/// Whether these files are there, headers for example; see [`have`].
pub fn have_files(paths: &[&str]) -> bool {
    let missing = paths.iter().filter(|path| !std::path::Path::new(path).exists());
    all_there(&missing.map(ToString::to_string).collect::<Vec<_>>())
}

#[allow(clippy::print_stderr, reason = "a skipped test is said aloud")]
fn all_there(missing: &[String]) -> bool {
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "missing: {missing:?}; `cargo xtask test` installs them as root on Debian"
    );
    let line = format!("SKIP: {missing:?} not installed");
    eprintln!("{line}");
    // The test runner swallows the output of a passing test; the skips are counted from this file.
    if let Some(path) = std::env::var_os("SLUICE_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes());
    }
    false
}

/// A command for a program that [`have`] found.
#[track_caller]
pub fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| panic!("{program} is not installed")))
}

/// Runs a command to its end, with empty input.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command that must succeed, and returns what it printed.
#[track_caller]
pub fn must(command: &mut Command) -> String {
    let output = run(command);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{out}\n{err}");
    out.into_owned()
}

/// Starts a server and waits until it accepts on `address`.
#[track_caller]
pub fn serve(command: &mut Command, address: SocketAddr) -> Process {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    crate::wait::until("the server to accept", || std::net::TcpStream::connect(address).ok());
    process
}

/// A loopback port that was free a moment ago, for servers that cannot choose one themselves and for what must be
/// refused. It is below the ports that the kernel assigns (`ip_local_port_range`), so that no other socket takes it
/// while nothing is bound to it, and this process returns it once.
///
/// # Panics
/// None of them is free.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: u16| {
        let address = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    // Processes that run at the same time begin at different places.
    let start = std::process::id().wrapping_mul(101);
    let port = |_| start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT + FIRST;
    let mut ports = (0..COUNT).filter_map(|step| u16::try_from(port(step)).ok());
    ports.find(|port| is_free(*port)).expect("a port is free")
}
