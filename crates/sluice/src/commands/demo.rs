//! `sluice demo`: built-in services, a proxy with a path to each, and a command to try for each.
//!
//! Owns: the demo's configuration and its table. Refuses to know: how the proxy works; it runs it
//! as a separate process, as a user would. Keeps: everything is on loopback, in a temporary
//! folder, and removed at the end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::print;
use crate::cli::{Demo, EXIT_FAILED};

mod drive;
mod http2;
mod services;

use services::Services;

/// How long the proxy may take to start: the number of checks and their interval.
const START_LOOKS: u32 = 400;
const START_LOOK: Duration = Duration::from_millis(25);

/// A path through the proxy: what it demonstrates, its listener, the command to try, and its test.
struct DemoPath {
    name: &'static str,
    shows: &'static str,
    listener: &'static str,
    command: fn(SocketAddr, &Path) -> String,
    drive: fn(SocketAddr, &Path) -> anyhow::Result<()>,
}

const PATHS: &[DemoPath] = &[
    DemoPath {
        name: "tcp",
        shows: "plain TCP to an echo service",
        listener: "tcp",
        command: |a, _| {
            format!(
                "bash -c 'exec 3<>/dev/tcp/{}/{}; echo hello >&3; head -1 <&3'",
                a.ip(),
                a.port()
            )
        },
        drive: drive::echo,
    },
    DemoPath {
        name: "redis",
        shows: "plain TCP to a service that speaks Redis",
        listener: "redis",
        command: |a, _| format!("redis-cli -p {} ping", a.port()),
        drive: drive::redis,
    },
    DemoPath {
        name: "tls-passthrough",
        shows: "TLS passed through by server name, still encrypted",
        listener: "edge",
        command: |a, folder| curl_tls("passthrough.demo.test", a, folder),
        drive: drive::passthrough,
    },
    DemoPath {
        name: "tls-terminated",
        shows: "TLS terminated on the same port, forwarded as plain HTTP",
        listener: "edge",
        command: |a, folder| curl_tls("secure.demo.test", a, folder),
        drive: drive::terminated,
    },
    DemoPath {
        name: "mixed-http",
        shows: "HTTP/1 recognised on a port that carries several protocols",
        listener: "mixed",
        command: |a, _| format!("curl http://{a}/"),
        drive: drive::http,
    },
    DemoPath {
        name: "mixed-redis",
        shows: "Redis recognised on the same port",
        listener: "mixed",
        command: |a, _| format!("redis-cli -p {} set greeting hello", a.port()),
        drive: drive::redis,
    },
    DemoPath {
        name: "http-route",
        shows: "HTTP/1 routed by path; the request gets an ID",
        listener: "web",
        command: |a, _| format!("curl -i http://{a}/"),
        drive: drive::site,
    },
    DemoPath {
        name: "http-retry",
        shows: "a page that fails every other time; the request is retried",
        listener: "web",
        command: |a, _| format!("curl -i http://{a}/flaky"),
        drive: drive::retried,
    },
    DemoPath {
        name: "http-limit",
        shows: "two requests are admitted, the third gets a 429 response",
        listener: "web",
        command: |a, _| format!("curl -i http://{a}/limited"),
        drive: drive::limited,
    },
    DemoPath {
        name: "http2",
        shows: "HTTP/2 on the same port, forwarded as HTTP/1",
        listener: "web",
        command: |a, _| format!("curl -i --http2-prior-knowledge http://{a}/"),
        drive: drive::http2,
    },
    DemoPath {
        name: "http3",
        shows: "HTTP/3 over QUIC, with HTTP/1 and HTTP/2 on the same TCP port number",
        listener: "quic",
        command: |a, folder| {
            curl_tls("secure.demo.test", a, folder).replacen("curl", "curl -i --http3", 1)
        },
        drive: drive::http3,
    },
    DemoPath {
        name: "grpc",
        shows: "a gRPC call on the same port, to its own service",
        listener: "web",
        command: |a, _| {
            format!(
                "printf '\\0\\0\\0\\0\\2hi' | curl -i --http2-prior-knowledge --output - --data-binary @- \
                 -H 'content-type: application/grpc' http://{a}/demo.Echo/Call"
            )
        },
        drive: drive::grpc,
    },
    DemoPath {
        name: "websocket",
        shows: "a WebSocket on the same port",
        listener: "web",
        command: |a, _| format!("python3 -m websockets ws://{a}/ws"),
        drive: drive::websocket,
    },
    DemoPath {
        name: "udp",
        shows: "UDP flows with affinity to an echo service",
        listener: "udp",
        command: |a, _| {
            format!(
                "bash -c 'exec 3<>/dev/udp/{}/{}; echo hello >&3; head -1 <&3'",
                a.ip(),
                a.port()
            )
        },
        drive: drive::udp,
    },
];

fn curl_tls(name: &str, address: SocketAddr, folder: &Path) -> String {
    let port = address.port();
    let ca = folder.join("demo.pem");
    format!(
        "curl --cacert {} --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/",
        ca.display()
    )
}

pub(crate) fn run(options: &Demo) -> anyhow::Result<ExitCode> {
    let folder = Folder::new()?;
    let services = Services::start(&folder.0, options.without.as_deref())?;
    let config = folder.0.join("demo.yaml");
    fs::write(&config, configuration(&services))?;
    let proxy = Proxy::start(&config, &folder.0.join("report"), "warn")?;
    if options.check {
        return Ok(check(&proxy, &folder.0));
    }
    print_table(&proxy, &folder.0, &config)?;
    proxy.wait()?;
    Ok(ExitCode::SUCCESS)
}

fn configuration(services: &Services) -> String {
    let Services { echo, redis, tls, web, site, grpc, udp } = services;
    format!(
        r#"# The configuration of `sluice demo`. Port 0 lets the system choose a port.
admin: {{ address: 127.0.0.1:0 }}
listeners:
  - {{ name: tcp, address: 127.0.0.1:0, relay: echo }}
  - {{ name: redis, address: 127.0.0.1:0, relay: redis }}
  - name: edge
    address: 127.0.0.1:0
    chains:
      - {{ match: {{ sni: passthrough.demo.test }}, relay: tls }}
      - match: {{ sni: secure.demo.test }}
        tls: {{ certificates: [{{ cert: demo.pem, key: demo.key }}] }}
        relay: web
  - name: mixed
    address: 127.0.0.1:0
    chains:
      - {{ match: {{ protocol: http1 }}, relay: web }}
      - {{ match: {{ protocol: redis }}, relay: redis }}
  - name: web
    address: 127.0.0.1:0
    http: {{ routes: demo, filters: [{{ request_id: {{ respond: true }} }}] }}
  - name: quic
    address: 127.0.0.1:0
    quic: true
    tls: {{ certificates: [{{ cert: demo.pem, key: demo.key }}] }}
    http: demo
  - name: udp
    address: udp://127.0.0.1:0
    relay: {{ cluster: udp, hash: source_ip, idle_timeout: 10s }}
routes:
  demo:
    - hosts: "*"
      rules:
        - {{ match: {{ grpc: demo.Echo }}, cluster: grpc }}
        - match: {{ path: /flaky }}
          cluster: site
          retry: {{ when: gateway_error }}
        - match: {{ path: /limited }}
          cluster: site
          filters: {{ rate_limit: {{ requests: 1/h, burst: 2 }} }}
        - {{ cluster: site }}
clusters:
  echo: {{ endpoints: ["{echo}"] }}
  redis: {{ endpoints: ["{redis}"] }}
  tls: {{ endpoints: ["{tls}"] }}
  web: {{ endpoints: ["{web}"] }}
  site: {{ endpoints: ["{site}"] }}
  grpc: {{ endpoints: ["{grpc}"], protocol: http2 }}
  udp: {{ endpoints: ["{udp}"], balance: maglev }}
"#
    )
}

fn check(proxy: &Proxy, folder: &Path) -> ExitCode {
    let mut failed = Vec::new();
    for path in PATHS {
        let done = proxy.address(path.listener).and_then(|address| (path.drive)(address, folder));
        match done {
            Ok(()) => print(&format!("ok      {:<16} {}\n", path.name, path.shows)),
            Err(error) => {
                print(&format!("FAILED  {:<16} {error:#}\n", path.name));
                failed.push(path.name);
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    print(&format!("failed: {}\n", failed.join(", ")));
    ExitCode::from(EXIT_FAILED)
}

fn print_table(proxy: &Proxy, folder: &Path, config: &Path) -> anyhow::Result<()> {
    for path in PATHS {
        let address = proxy.address(path.listener)?;
        print(&format!(
            "{:<16} {address:<22} {}\n    {}\n",
            path.name,
            path.shows,
            (path.command)(address, folder)
        ));
    }
    let admin = proxy.admin()?;
    print(&format!(
        "admin            {admin:<22} metrics and state\n    curl http://{admin}/connections\n\
         configuration    {}\n    reloaded when you edit it\n\nCtrl-C stops the demo.\n",
        config.display()
    ));
    Ok(())
}

/// A temporary folder, removed at the end.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the temporary folder of the system anyway.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The proxy, as a separate process.
pub(super) struct Proxy {
    child: Child,
    report: PathBuf,
}

impl Proxy {
    /// `log` is what it logs, unless the environment says so.
    pub(super) fn start(config: &Path, report: &Path, log: &str) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("run")
            .arg("-c")
            .arg(config)
            .arg("--report")
            .arg(report)
            .env("SLUICE_LOG", std::env::var("SLUICE_LOG").unwrap_or_else(|_| log.into()))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the proxy")?;
        let mut proxy = Self { child, report: report.to_owned() };
        for _ in 0..START_LOOKS {
            if proxy.reported("ready").is_some() {
                return Ok(proxy);
            }
            if let Some(status) = proxy.child.try_wait()? {
                bail!("the proxy exited during startup with {status}");
            }
            std::thread::sleep(START_LOOK);
        }
        bail!("the proxy is not ready after {} s", (START_LOOK * START_LOOKS).as_secs());
    }

    /// The first line of the report with this key.
    fn reported(&self, key: &str) -> Option<serde_json::Value> {
        self.lines().find(|line| !line[key].is_null())
    }

    fn lines(&self) -> impl Iterator<Item = serde_json::Value> {
        let file = fs::File::open(&self.report).ok().map(BufReader::new);
        let lines = file.into_iter().flat_map(BufRead::lines);
        lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
    }

    pub(super) fn address(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        let line = self.lines().find(|line| line["listener"] == listener);
        let text = line.as_ref().and_then(|line| line["address"].as_str());
        let text =
            text.with_context(|| format!("the proxy reported no address for `{listener}`"))?;
        Ok(text.trim_start_matches("udp://").parse()?)
    }

    fn admin(&self) -> anyhow::Result<String> {
        let line = self.reported("admin").context("the proxy reported no admin address")?;
        Ok(line["admin"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the proxy ends; Ctrl-C reaches it too, since it is in the same process group.
    fn wait(mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("the proxy exited with {status}");
                }
            }
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The demo has no clients to drain for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
