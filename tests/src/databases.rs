//! Database servers of the system, each in its own folder and on its own port.
//!
//! Owns: how they are started, as a user that they accept, and stopped. Refuses to know: Sluice. Keeps: a server ends
//! with its value.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_testkit::{tools, wait};

/// Whether the test runs as root, which database servers refuse to do.
fn is_root() -> bool {
    tools::must(tools::command("id").arg("-u")).trim() == "0"
}

/// A program run as `user` if the test is root.
fn as_user(user: &str, program: &str) -> Command {
    let path = tools::find(program).unwrap_or_else(|| panic!("{program} is not installed"));
    if !is_root() {
        return Command::new(path);
    }
    let mut command = tools::command("setpriv");
    command
        .args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"])
        .arg(path)
        .current_dir("/");
    command
}

fn give_to(user: &str, folder: &Path) {
    if is_root() {
        tools::must(tools::command("chown").args(["-R", user]).arg(folder));
    }
}

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    folder: tempfile::TempDir,
    /// Its port.
    pub port: u16,
    runs: bool,
}

impl Postgres {
    /// Whether all programs are installed.
    pub fn is_there() -> bool {
        tools::have(&["psql", "pgbench", "initdb", "pg_ctl", "pg_basebackup", "setpriv"])
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        give_to("postgres", folder.path());
        Self { folder, port: tools::free_port(), runs: false }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn as_owner(program: &str) -> Command {
        as_user("postgres", program)
    }

    fn initialize(&self) {
        tools::must(
            Self::as_owner("initdb")
                .args(["-A", "trust", "-U", "postgres", "-N", "-D"])
                .arg(self.data()),
        );
    }

    fn run(&mut self, more: &str) {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off -c max_connections=200 {more}",
            self.port,
            self.folder.path().display(),
        );
        tools::must(
            Self::as_owner("pg_ctl")
                .args(["-w", "-s", "-l"])
                .arg(self.folder.path().join("log"))
                .arg("-D")
                .arg(self.data())
                .args(["-o", &options, "start"]),
        );
        self.runs = true;
    }

    /// Starts a server with the certificate `FILE.pem` in `certs`, which trusts every client.
    pub fn start(certs: &Path, file: &str) -> Self {
        let mut server = Self::new();
        for kind in ["pem", "key"] {
            let own = server.folder.path().join(format!("server.{kind}"));
            std::fs::copy(certs.join(format!("{file}.{kind}")), own)
                .expect("the certificate is copied");
        }
        give_to("postgres", server.folder.path());
        let folder = server.folder.path().display().to_string();
        tools::must(tools::command("chmod").arg("600").arg(format!("{folder}/server.key")));
        server.initialize();
        server.run(&format!(
            "-c ssl=on -c ssl_cert_file={folder}/server.pem -c ssl_key_file={folder}/server.key"
        ));
        server
    }

    /// Starts a primary that trusts every client, and lets standbys follow it.
    pub fn primary() -> Self {
        let mut server = Self::new();
        server.initialize();
        server.run("-c wal_level=replica -c wal_log_hints=on");
        server
    }

    /// Starts a standby of this server.
    pub fn standby(&self) -> Self {
        let mut standby = Self::new();
        tools::must(
            Self::as_owner("pg_basebackup")
                .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-R"])
                .args(["-X", "stream", "-c", "fast", "-D"])
                .arg(standby.data()),
        );
        standby.run("");
        standby
    }

    /// Makes a primary of a standby.
    pub fn promote(&self) {
        tools::must(
            Self::as_owner("pg_ctl").args(["-w", "-s", "-D"]).arg(self.data()).arg("promote"),
        );
    }

    /// Stops the server at once.
    pub fn stop(&mut self) {
        if std::mem::take(&mut self.runs) {
            let mut stop = Self::as_owner("pg_ctl");
            stop.args(["-s", "-m", "immediate", "-D"]).arg(self.data()).arg("stop");
            let _ = stop.status();
        }
    }

    /// Starts it again as a standby of `primary`, from a new copy.
    pub fn follow(&mut self, primary: &Self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).expect("its data is removed");
        tools::must(
            Self::as_owner("pg_basebackup")
                .args(["-h", "127.0.0.1", "-p", &primary.port.to_string(), "-U", "postgres", "-R"])
                .args(["-X", "stream", "-c", "fast", "-D"])
                .arg(self.data()),
        );
        self.run("");
    }

    /// Replaces the rules of who may log in how, and waits until they are in force.
    pub fn admit(&self, rules: &str) {
        std::fs::write(self.data().join("pg_hba.conf"), rules).expect("the rules are written");
        let loaded = || self.query("select pg_conf_load_time()");
        let before = loaded();
        tools::must(Self::as_owner("pg_ctl").args(["-s", "-D"]).arg(self.data()).arg("reload"));
        wait::until("the rules to be read", || (loaded() != before).then_some(()));
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A query to the server itself.
    pub fn query(&self, query: &str) -> String {
        psql(&format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port), query)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The result of a query.
pub fn psql(conninfo: &str, query: &str) -> String {
    tools::must(tools::command("psql").args(["-X", "-A", "-t", conninfo, "-c", query]))
        .trim()
        .to_owned()
}

/// A MariaDB server.
#[derive(Debug)]
pub struct Mariadb {
    _process: tools::Process,
    folder: tempfile::TempDir,
    /// Its port.
    pub port: u16,
}

impl Mariadb {
    /// Whether all programs are installed.
    pub fn is_there() -> bool {
        tools::have(&["mariadbd", "mariadb-install-db", "mariadb", "setpriv"])
    }

    /// Starts a server whose user `root` has no password; with the certificate `FILE.pem` in `certs`, if given.
    pub fn start(certificate: Option<(&Path, &str)>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().display().to_string();
        let mut more = Vec::new();
        if let Some((certs, file)) = certificate {
            for kind in ["pem", "key"] {
                std::fs::copy(
                    certs.join(format!("{file}.{kind}")),
                    folder.path().join(format!("server.{kind}")),
                )
                .expect("the certificate is copied");
            }
            more.push(format!("--ssl-cert={at}/server.pem"));
            more.push(format!("--ssl-key={at}/server.key"));
        }
        give_to("mysql", folder.path());
        tools::must(as_user("mysql", "mariadb-install-db").args([
            "--no-defaults",
            &format!("--datadir={at}/data"),
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]));
        let port = tools::free_port();
        let mut command = as_user("mysql", "mariadbd");
        command
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args([
                format!("--datadir={at}/data"),
                format!("--socket={at}/socket"),
                format!("--pid-file={at}/pid"),
                format!("--port={port}"),
                format!("--log-error={at}/log"),
            ])
            .args(["--log-warnings=2"])
            .args(more);
        let process = tools::serve(&mut command, ([127, 0, 0, 1], port).into());
        Self { _process: process, folder, port }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Statements to the server itself, as its administrator.
    pub fn run(&self, statements: &str) -> String {
        let socket = format!("--socket={}", self.folder.path().join("socket").display());
        let mut client = tools::command("mariadb");
        tools::must(client.args(["--no-defaults", &socket, "-u", "root", "-N", "-e", statements]))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    process: tools::Process,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Redis {
    /// Whether all programs are installed.
    pub fn is_there() -> bool {
        tools::have(&["redis-server", "redis-cli"])
    }

    /// Starts a server with these settings.
    pub fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = tools::free_port();
        let mut command = tools::command("redis-server");
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(folder.path())
            .args(settings);
        let process = tools::serve(&mut command, ([127, 0, 0, 1], port).into());
        Self { process, _folder: folder, port }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The reply to a command.
    pub fn ask(&self, words: &[&str]) -> String {
        redis(self.addr(), words)
    }

    /// Has it follow `primary`, or nobody.
    pub fn follow(&self, primary: Option<&Self>) {
        let port = primary.map(|primary| primary.port.to_string());
        match &port {
            Some(port) => self.ask(&["REPLICAOF", "127.0.0.1", port]),
            None => self.ask(&["REPLICAOF", "NO", "ONE"]),
        };
    }
}

/// The reply of the Redis server at `address` to a command.
pub fn redis(address: SocketAddr, words: &[&str]) -> String {
    let mut client = tools::command("redis-cli");
    client.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]).args(words);
    tools::must(&mut client).trim().to_owned()
}
