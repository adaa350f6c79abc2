//! The proxies under comparison: started with a configuration from `benches/`, and measured.
//!
//! Owns: processes, their folders, their resource usage. Refuses to know: loads. Keeps: a started process ends when the
//! value that represents it is dropped.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use sluice_testkit::{Authority, http3};

use crate::shell;

/// The name in the certificate.
pub(super) const NAME: &str = "bench.test";

/// The proxies: name, configuration, program, and the variable that locates the program if it is not in `PATH`.
const PEERS: &[(&str, &str, &str, &str)] = &[
    ("sluice", "sluice.yaml", "sluice", "SLUICE_BIN"),
    ("haproxy", "haproxy.cfg", "haproxy", "HAPROXY_BIN"),
    ("haproxy-splice", "haproxy-splice.cfg", "haproxy", "HAPROXY_BIN"),
    ("nginx", "nginx.conf", "nginx", "NGINX_BIN"),
    ("envoy", "envoy.yaml", "envoy", "ENVOY_BIN"),
    ("caddy", "Caddyfile", "caddy", "CADDY_BIN"),
];

/// What all proxies and loads share.
pub(super) struct Kit {
    sluice: PathBuf,
    folder: PathBuf,
    pub(super) tls: Arc<ClientConfig>,
}

impl Kit {
    pub(super) fn new(sluice: &Path) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let authority = Authority::new(&folder);
        authority.issue("cert", &[NAME]);
        let read = |name: &str| fs::read_to_string(folder.join(name));
        fs::write(folder.join("both.pem"), read("cert.pem")? + &read("cert.key")?)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake is a full one.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { sluice: sluice.to_owned(), folder, tls: Arc::new(tls) })
    }

    /// Starts every installed proxy that has a configuration of this kind; Sluice comes first.
    #[allow(clippy::print_stderr, reason = "who is missing must be known")]
    pub(super) fn start_all(&self, kind: &str, backend: u16) -> anyhow::Result<Vec<Proxy>> {
        let mut proxies = Vec::new();
        for (name, config, program, variable) in PEERS {
            let template = shell::root().join("benches").join(kind).join(config);
            if !template.is_file() {
                continue;
            }
            let program = match *name {
                "sluice" => Some(self.sluice.clone()),
                _ => std::env::var_os(variable).map(Into::into).or_else(|| find(program)),
            };
            match program {
                Some(program) => {
                    proxies.push(self.start(name, kind, &template, &program, backend)?);
                }
                None => eprintln!("{name} is not installed (or name it in {variable})"),
            }
        }
        Ok(proxies)
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        // The contents of the temporary folder are no longer needed.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A running proxy.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) port: u16,
    child: Child,
}

impl Kit {
    fn start(
        &self,
        name: &'static str,
        kind: &str,
        template: &Path,
        program: &Path,
        backend: u16,
    ) -> anyhow::Result<Proxy> {
        let folder = &self.folder;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let text = fs::read_to_string(template)?
            .replace("@LISTEN@", &port.to_string())
            .replace("@BACKEND@", &backend.to_string())
            .replace("@FOLDER@", &folder.display().to_string());
        let ending = template.extension().unwrap_or_default().to_string_lossy();
        let config = folder.join(format!("{name}.{ending}"));
        fs::write(&config, text)?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program);
        match name {
            "sluice" => command.args(["run", "--workers", "1", "--no-watch", "-c"]).arg(&config),
            "envoy" => command.arg("-c").arg(&config).args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "critical",
            ]),
            "caddy" => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config),
            "nginx" => command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(&config),
            _ => command.args(["-db", "-f"]).arg(&config),
        };
        let log = folder.join(format!("{name}.log"));
        let said = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = command.spawn().with_context(|| program.display().to_string())?;
        let mut proxy = Proxy { name, port, child };
        for _ in 0..200 {
            if self.answers(port, kind) {
                return Ok(proxy);
            }
            if let Some(status) = proxy.child.try_wait()? {
                bail!("{name} ended at start with {status}: {}", fs::read_to_string(log)?);
            }
            thread::sleep(Duration::from_millis(25));
        }
        bail!("{name} does not listen");
    }

    /// Whether the port is served: it accepts, echoes a datagram, or speaks HTTP/3.
    fn answers(&self, port: u16, kind: &str) -> bool {
        match kind {
            "h3" => http3::answers(&self.ca(), (Ipv4Addr::LOCALHOST, port).into(), NAME),
            "udp" => brings_back(port).is_ok(),
            _ => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
        }
    }

    /// Starts Sluice alone, with this configuration; `@LISTEN@` stands for its port.
    pub(super) fn start_sluice(&self, config: &str) -> anyhow::Result<Proxy> {
        let template = self.folder.join("template.yaml");
        fs::write(&template, config)?;
        self.start("sluice", "tcp", &template, &self.sluice, 0)
    }

    /// The configuration of Sluice, as started.
    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("sluice.yaml")
    }

    /// The log of Sluice.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("sluice.log")
    }

    /// The certificate authority that clients trust.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }
}

fn brings_back(port: u16) -> std::io::Result<usize> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 8])
}

impl Proxy {
    pub(super) fn cpu_micros(&self) -> anyhow::Result<f64> {
        let mut nanos = 0_f64;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
        }
        Ok(nanos / 1000.0)
    }

    /// Sends a signal, such as `-HUP`.
    pub(super) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        shell::output(Command::new("kill").args([signal, &self.child.id().to_string()]))?;
        Ok(())
    }

    /// The proportional set size in KiB.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
