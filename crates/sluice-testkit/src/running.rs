//! A running Sluice.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::{files, http, wait};

/// The binary under test, and how to start it.
#[derive(Debug)]
pub struct Sluice {
    folder: TempDir,
    workers: u16,
    warnings: Vec<String>,
    env: Vec<(String, std::ffi::OsString)>,
    user: Option<u32>,
    files: Option<u32>,
    connect_error: Option<i32>,
    watch: bool,
    takeover: bool,
    binary: PathBuf,
    request_records: bool,
    panics: bool,
}

impl Default for Sluice {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            folder,
            workers: 2,
            warnings: Vec::new(),
            env: Vec::new(),
            user: None,
            files: None,
            connect_error: None,
            watch: false,
            takeover: false,
            binary: Self::binary(),
            request_records: true,
            panics: false,
        }
    }
}

/// Has the kernel answer `connect` with an error (a seccomp filter, which `exec` keeps), then runs the rest of its
/// arguments.
const CONNECT_FAILS: &str = r#"
import ctypes, os, platform, struct, sys
connect = {"x86_64": 42, "aarch64": 203}[platform.machine()]
step = lambda code, yes, no, value: struct.pack("HBBI", code, yes, no, value)
error = 0x00050000 | int(sys.argv[1])
steps = step(0x20, 0, 0, 0) + step(0x15, 0, 1, connect) + step(0x06, 0, 0, error) + step(0x06, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(steps, len(steps))
program = struct.pack("HxxxxxxP", len(steps) // 8, ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
for call in [(38, 1, 0, 0, 0), (22, 2, program, 0, 0)]:
    if libc.prctl(*call) != 0:
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

impl Sluice {
    /// A Sluice with two workers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The binary: `SLUICE_BIN`, or the one built beside the test.
    pub fn binary() -> PathBuf {
        if let Some(path) = std::env::var_os("SLUICE_BIN") {
            return path.into();
        }
        let mut path = std::env::current_exe().expect("a test knows its own path");
        path.pop();
        if path.ends_with("deps") {
            path.pop();
        }
        path.push("sluice");
        assert!(
            path.exists(),
            "{} is not there: run `cargo build` first, or `cargo xtask test`",
            path.display()
        );
        path
    }

    /// Uses another binary than [`Sluice::binary`]: one with its own extensions.
    pub fn with_binary(binary: PathBuf) -> Self {
        Self { binary, ..Self::default() }
    }

    /// The folder of the configuration and of the files it names.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets the number of workers.
    pub const fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }

    /// Expects warnings and errors in the process log that contain `text`; any other fails the test.
    pub fn expect_warning(mut self, text: &str) -> Self {
        self.warnings.push(text.to_owned());
        self
    }

    /// Watches its files; otherwise it reloads only when the kit triggers it.
    pub const fn watching(mut self) -> Self {
        self.watch = true;
        self
    }

    /// Starts beside a process that listens on the same addresses.
    pub const fn taking_over(mut self) -> Self {
        self.takeover = true;
        self
    }

    /// The configuration does not record requests.
    pub const fn without_request_records(mut self) -> Self {
        self.request_records = false;
        self
    }

    /// Sluice has a deliberate defect: connections may end with a worker panic.
    pub const fn expect_panic(mut self) -> Self {
        self.panics = true;
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Runs as this user instead of the user of the test.
    pub const fn as_user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Limits the number of open files.
    pub const fn files(mut self, files: u32) -> Self {
        self.files = Some(files);
        self
    }

    /// Each `connect(2)` fails with this error, as if the kernel had said so.
    pub const fn connect_fails(mut self, errno: i32) -> Self {
        self.connect_error = Some(errno);
        self
    }

    /// The command without its arguments.
    fn command(&self) -> Command {
        if let Some(errno) = self.connect_error {
            let mut python = crate::tools::python(Path::new("-c"));
            python.arg(CONNECT_FAILS).arg(errno.to_string()).arg(&self.binary);
            return python;
        }
        let Some(files) = self.files else { return Command::new(&self.binary) };
        let mut shell = Command::new("sh");
        let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        shell.arg("-c").arg(limited).arg(&self.binary);
        shell
    }

    /// Starts with `yaml`, plus an admin address and records in a file; waits until it is ready.
    pub fn start(self, yaml: &str) -> Running {
        let config = self.folder().join("sluice.yaml");
        std::fs::write(&config, complete(yaml)).expect("the configuration is written");
        self.start_file(&config)
    }

    /// Starts with a configuration that already has an admin address on port 0 and records in `records.json`.
    pub fn start_file(self, config: &Path) -> Running {
        let report = self.folder().join("report");
        let log = self.folder().join("log");
        let log_file = std::fs::File::create(&log).expect("the log file");
        let mut command = self.command();
        command
            .args(["run", "--workers", &self.workers.to_string(), "--log-format", "json"])
            .args((!self.watch).then_some("--no-watch"))
            .args(self.takeover.then_some("--takeover"))
            .arg("--report")
            .arg(&report)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            use std::os::unix::fs::PermissionsExt as _;
            use std::os::unix::process::CommandExt as _;
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(self.folder(), open)
                .expect("the folder is opened to the user");
            command.uid(user).gid(user);
        }
        let child = command.spawn().expect("sluice starts");
        let mut running = Running {
            config: config.to_owned(),
            report,
            log,
            child: Mutex::new(child),
            sluice: self,
            admin: None,
            ended: false,
        };
        running.wait_ready();
        running
    }
}

/// Adds what the kit needs to a configuration.
fn complete(yaml: &str) -> String {
    let mut text = yaml.to_owned();
    if !yaml.contains("\nadmin:") && !yaml.starts_with("admin:") {
        text.push_str("\nadmin: { address: 127.0.0.1:0 }\n");
    }
    if !yaml.contains("access_log:") {
        text.push_str("\naccess_log: [{ sink: records.json }]\n");
    }
    text
}

/// A running Sluice. On drop it is stopped, and its accounting must balance.
#[derive(Debug)]
pub struct Running {
    config: PathBuf,
    report: PathBuf,
    log: PathBuf,
    child: Mutex<Child>,
    sluice: Sluice,
    admin: Option<SocketAddr>,
    ended: bool,
}

impl Running {
    fn wait_ready(&mut self) {
        let ready = wait::within(wait::PATIENCE, || {
            let exited = self.lock().try_wait().expect("the process can be asked");
            assert!(exited.is_none(), "sluice ended at start:\n{}", self.log());
            self.reported().iter().any(|line| line["ready"] == true).then_some(())
        });
        assert!(ready.is_some(), "sluice is not ready:\n{}", self.log());
        let admin =
            self.reported().iter().find_map(|line| line["admin"].as_str().map(str::to_owned));
        self.admin = admin.and_then(|address| address.parse().ok());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn reported(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.report).unwrap_or_default();
        // A partially written line is skipped and read the next time.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The address of a listener, the first if it has several.
    #[track_caller]
    pub fn addr(&self, listener: &str) -> SocketAddr {
        let text = self.addr_text(listener);
        let text = text.strip_prefix("udp://").unwrap_or(&text).to_owned();
        text.parse().unwrap_or_else(|_| panic!("`{text}` is no socket address"))
    }

    /// The address of a listener as reported.
    #[track_caller]
    pub fn addr_text(&self, listener: &str) -> String {
        let lines = self.reported();
        let found = lines.iter().rev().find(|line| line["listener"] == listener);
        found
            .and_then(|line| line["address"].as_str())
            .unwrap_or_else(|| panic!("there is no listener `{listener}`"))
            .to_owned()
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.sluice.folder()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.lock().id()
    }

    /// Its process log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A page of the admin address: status and body text.
    pub fn page(&self, path: &str) -> (u16, String) {
        let admin = self.admin.expect("the configuration has an admin address");
        http::get(admin, path).unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.log()))
    }

    /// The admin address.
    ///
    /// # Panics
    /// When the configuration has none.
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.expect("the configuration has an admin address")
    }

    /// The items of a page.
    pub fn items(&self, path: &str) -> Vec<Value> {
        let (status, body) = self.page(&format!("{path}?format=json"));
        assert_eq!(status, 200, "{body}");
        let page: Value = serde_json::from_str(&body).expect("the page is JSON");
        page["items"].as_array().expect("the page has items").clone()
    }

    /// The sum of a metric over all series whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> i64 {
        sum_metric(&self.page("/metrics").1, name, labels)
    }

    /// Replaces the configuration and waits for the reload; returns `applied`, `unchanged` or
    /// `failed`.
    pub fn reload(&self, yaml: &str) -> String {
        self.reload_text(&complete(yaml))
    }

    /// Like `reload`, but adds nothing to the configuration.
    pub fn reload_text(&self, text: &str) -> String {
        let before = self.reloads().len();
        files::place(&self.config, text);
        if !self.sluice.watch {
            self.signal("HUP");
        }
        wait::until("a reload", || self.reloads().get(before).cloned())
    }

    /// The outcome of every reload so far.
    pub fn reloads(&self) -> Vec<String> {
        let lines = self.reported();
        lines.iter().filter_map(|line| line["reload"].as_str().map(str::to_owned)).collect()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let done =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for the process to exit by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let status =
            wait::until("the end of sluice", || self.lock().try_wait().expect("it can be asked"));
        self.ended = true;
        status
    }

    /// The records written so far.
    pub fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("records.json")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a record that matches.
    #[track_caller]
    pub fn record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found =
            wait::within(wait::PATIENCE, || self.records().into_iter().find(|record| fits(record)));
        found.unwrap_or_else(|| {
            panic!("no record of {what} among\n{:#?}\n{}", self.records(), self.log())
        })
    }

    /// Waits for a record with this reason.
    #[track_caller]
    pub fn record_of(&self, reason: &str) -> Value {
        self.record(reason, |record| record["reason"] == reason)
    }

    /// Waits until this many connections and flows are open.
    #[track_caller]
    pub fn wait_open(&self, count: usize) {
        wait::until("connections to open or end", || {
            (self.items("/connections").len() == count).then_some(())
        });
    }

    /// Stops it gracefully and checks its accounting.
    fn close(&mut self) {
        if !self.ended {
            let metrics = self.admin.map(|_| wait_balanced(self));
            self.signal("TERM");
            let status = self.wait_end();
            assert!(status.success(), "sluice ended with {status}:\n{}", self.log());
            if let Some(metrics) = metrics {
                let (records, log) = (self.records(), self.log());
                check_books(&metrics, &records, self.sluice.request_records, &log);
                let panics = sum_metric(&metrics, "sluice_connections_ended_total", "worker.panic");
                assert!(panics == 0 || self.sluice.panics, "{log}");
            }
        }
        self.check_log();
    }

    fn check_log(&self) {
        for line in self.log().lines() {
            let bad = line.contains("\"level\":\"WARN\"")
                || line.contains("\"level\":\"ERROR\"")
                || line.contains("panicked");
            let expected = self.sluice.warnings.iter().any(|text| line.contains(text.as_str()));
            assert!(
                !bad || expected,
                "the log has a warning that the test did not name:\n{line}\n{}",
                self.log()
            );
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has already failed; only the process must be stopped.
            let _ = self.lock().kill();
            let _ = self.lock().wait();
            return;
        }
        self.close();
    }
}

/// Reads the metrics at a moment when the accounting balances, preferably with nothing open, if that comes soon. The
/// counters of a connection that is just ending are not all written at once.
fn wait_balanced(running: &Running) -> String {
    let accepted_before = Cell::new(None);
    let balanced = |and_quiet: bool| {
        // Every worker takes part in this page. What it was about to accept at the first look, it has accepted at the second.
        running.page("/connections");
        let metrics = running.page("/metrics").1;
        let of = |name: &str| sum_metric(&metrics, name, "");
        let open = of("sluice_listener_connections_active")
            + of("sluice_listener_flows_active")
            + of("sluice_http_requests_active");
        let known = of("sluice_connections_ended_total") + of("sluice_listener_connections_active");
        let accepted = of("sluice_listener_connections_accepted_total");
        let stays = accepted_before.replace(Some(accepted)) == Some(accepted);
        let fits = stays && accepted == known && of("sluice_http_requests_active") == 0;
        (fits && (open == 0 || !and_quiet)).then_some(metrics)
    };
    let soon = std::time::Duration::from_secs(2);
    wait::within(soon, || balanced(true))
        .or_else(|| wait::within(wait::PATIENCE, || balanced(false)))
        .unwrap_or_else(|| running.page("/metrics").1)
}

/// accepted = ended + open; every end has a record with a reason; no request is active.
fn check_books(metrics: &str, records: &[Value], request_records: bool, log: &str) {
    let of = |name: &str| sum_metric(metrics, name, "");
    let accepted = of("sluice_listener_connections_accepted_total");
    let (ended, open) =
        (of("sluice_connections_ended_total"), of("sluice_listener_connections_active"));
    assert_eq!(accepted, ended + open, "accepted = ended + open\n{metrics}\n{log}");
    // The series of a removed listener are removed with it; its records stay.
    let counted = |record: &&Value| {
        let listener = format!("{{listener=\"{}\"}}", record["listener"].as_str().unwrap_or(""));
        metrics.lines().any(|line| line.contains(&listener))
    };
    let of_kind = |kind: &str| {
        let count = records.iter().filter(|r| r["kind"] == kind).filter(counted).count();
        i64::try_from(count).expect("few")
    };
    assert_eq!(of_kind("connection"), accepted, "every connection has a record\n{records:#?}");
    let flows = of("sluice_flows_ended_total") + of("sluice_listener_flows_active");
    assert_eq!(of_kind("flow"), flows, "every flow has a record\n{records:#?}");
    let requests = if request_records { of("sluice_http_requests_ended_total") } else { 0 };
    assert_eq!(of_kind("request"), requests, "every request has a record\n{records:#?}");
    assert_eq!(of("sluice_http_requests_active"), 0, "no request is in flight\n{metrics}");
    assert!(records.iter().all(|record| record["reason"].is_string()), "every record has a reason");
}

/// The sum of a metric over the series whose labels contain `labels`.
pub fn sum_metric(metrics: &str, name: &str, labels: &str) -> i64 {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<i64>().ok())
        .sum()
}
