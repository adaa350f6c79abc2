//! The side-by-side benchmark: the same load on several proxies in turns, CPU per unit of work.
//!
//! Owns: load, services and measuring. Refuses to know: how a proxy works; it reads its processor
//! time from the system. Keeps: all proxies stay up and take turns, so that slow changes of the
//! machine fall on all alike; what is said is a ratio within a round.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::shell;

const TURN: Duration = Duration::from_secs(1);

/// A kind of load.
struct Scenario {
    name: &'static str,
    unit: &'static str,
    /// Units of work per counted event.
    scale: f64,
    clients: usize,
    serve: fn(TcpStream) -> std::io::Result<()>,
    drive: fn(u16, &AtomicBool, &AtomicU64) -> std::io::Result<()>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "tcp-rr",
        unit: "µs/rr",
        scale: 1.0,
        clients: 50,
        serve: echo,
        drive: ping_pong,
    },
    Scenario {
        name: "tcp-connrate",
        unit: "µs/conn",
        scale: 1.0,
        clients: 16,
        serve: echo_once,
        drive: connect_once,
    },
    Scenario {
        name: "tcp-bulk8",
        unit: "µs/GiB",
        scale: 1.0 / (1024.0 * 1024.0 * 1024.0),
        clients: 8,
        serve: source,
        drive: drain,
    },
];

/// The proxies, by name, template and program.
const PEERS: &[(&str, &str, &str)] = &[
    ("sluice", "sluice.yaml", "sluice"),
    ("haproxy", "haproxy.cfg", "haproxy"),
    ("haproxy-splice", "haproxy-splice.cfg", "haproxy"),
    ("nginx", "nginx.conf", "nginx"),
];

/// Runs every scenario and prints a table.
///
/// # Errors
/// A proxy cannot be started, or a load does no work.
#[allow(clippy::print_stdout, reason = "the table is what the command is for")]
pub fn run(sluice: &Path, rounds: u32) -> anyhow::Result<()> {
    let pid = std::process::id().to_string();
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        bail!("two processors are needed: one for the proxy, one for the load");
    }
    // Threads made from here on are kept off the proxy's processor.
    shell::output(Command::new("taskset").args(["-cp", &format!("1-{}", cpus - 1), &pid]))?;
    println!(
        "| scenario | proxy | median CPU | ratio of sluice to it, quartiles |\n|---|---|---:|---|"
    );
    for scenario in SCENARIOS {
        let backend = serve(scenario.serve)?;
        let mut proxies = Vec::new();
        for (name, template, program) in PEERS {
            let program = if *name == "sluice" { Some(sluice.to_owned()) } else { find(program) };
            match program {
                Some(program) => proxies.push(Proxy::start(name, template, &program, backend)?),
                None => println!("| {} | {name} | not installed | - |", scenario.name),
            }
        }
        let mut costs: Vec<Vec<f64>> = vec![Vec::new(); proxies.len()];
        for round in 0..=rounds {
            for turn in 0..proxies.len() {
                let index = (turn + round as usize) % proxies.len();
                let cost = proxies[index].measure(scenario)?;
                // The first round warms up.
                if round > 0 {
                    costs[index].push(cost);
                }
            }
        }
        for (proxy, own) in proxies.iter().zip(&costs) {
            let mut ratios: Vec<f64> =
                costs[0].iter().zip(own).map(|(ours, theirs)| ours / theirs).collect();
            let mut own = own.clone();
            let spread =
                (quantile(&mut ratios, 1), quantile(&mut ratios, 2), quantile(&mut ratios, 3));
            println!(
                "| {} | {} | {:.2} {} | {:.2} ({:.2} to {:.2}) |",
                scenario.name,
                proxy.name,
                quantile(&mut own, 2),
                scenario.unit,
                spread.1,
                spread.0,
                spread.2
            );
        }
    }
    Ok(())
}

/// The `quarter`-th quartile.
fn quantile(values: &mut [f64], quarter: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().saturating_sub(1)) * quarter / 4).copied().unwrap_or(f64::NAN)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

struct Proxy {
    name: &'static str,
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Proxy {
    fn start(
        name: &'static str,
        template: &str,
        program: &Path,
        backend: u16,
    ) -> anyhow::Result<Self> {
        let folder =
            std::env::temp_dir().join(format!("sluice-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = std::fs::read_to_string(shell::root().join("benches").join(template))?
            .replace("@LISTEN@", &port.to_string())
            .replace("@BACKEND@", &backend.to_string())
            .replace("@FOLDER@", &folder.display().to_string());
        let config = folder.join(template);
        std::fs::write(&config, text)?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program);
        match template.rsplit('.').next() {
            Some("yaml") => {
                command.args(["run", "--workers", "1", "--no-watch", "-c"]).arg(&config)
            }
            Some("cfg") => command.args(["-db", "-f"]).arg(&config),
            _ => command.arg("-p").arg(&folder).args(["-e", "stderr", "-c"]).arg(&config),
        };
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut proxy = Self {
            name,
            child: child.with_context(|| program.display().to_string())?,
            port,
            folder,
        };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(proxy);
            }
            if let Some(status) = proxy.child.try_wait()? {
                bail!("{name} ended at start with {status}");
            }
            thread::sleep(Duration::from_millis(25));
        }
        bail!("{name} does not accept connections");
    }

    /// Microseconds of the proxy's processor time per unit, over one turn.
    fn measure(&self, scenario: &Scenario) -> anyhow::Result<f64> {
        let (stop, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..scenario.clients)
            .map(|_| {
                let (stop, events, port, drive) =
                    (Arc::clone(&stop), Arc::clone(&events), self.port, scenario.drive);
                // An error is the end of the turn, or shows as too little work.
                thread::spawn(move || drop(drive(port, &stop, &events)))
            })
            .collect();
        thread::sleep(TURN / 5);
        let before = (self.cpu_micros()?, events.load(Ordering::SeqCst));
        thread::sleep(TURN);
        let after = (self.cpu_micros()?, events.load(Ordering::SeqCst));
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().for_each(|client| drop(client.join()));
        #[allow(clippy::cast_precision_loss, reason = "a second's work fits")]
        let work = (after.1 - before.1) as f64 * scenario.scale;
        if work <= 0.0 {
            bail!("{} did no work for {}", self.name, scenario.name);
        }
        Ok((after.0 - before.0) / work)
    }

    fn cpu_micros(&self) -> anyhow::Result<f64> {
        let mut nanos = 0_f64;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
        }
        Ok(nanos / 1000.0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A service with a thread per connection; lives as long as the process.
fn serve(each: fn(TcpStream) -> std::io::Result<()>) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || drop(each(stream)));
        }
    });
    Ok(port)
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; 64];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn echo_once(mut stream: TcpStream) -> std::io::Result<()> {
    let mut message = [0; 64];
    stream.read_exact(&mut message)?;
    stream.write_all(&message)
}

fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let block = vec![7; 256 << 10];
    loop {
        stream.write_all(&block)?;
    }
}

fn ping_pong(port: u16, stop: &AtomicBool, events: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut message = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        events.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn connect_once(port: u16, stop: &AtomicBool, events: &AtomicU64) -> std::io::Result<()> {
    let mut message = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        // The server closes first, so that its side keeps the TIME_WAIT.
        let _ = stream.read(&mut message)?;
        events.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn drain(port: u16, stop: &AtomicBool, events: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut block = vec![0; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        events.fetch_add(stream.read(&mut block)? as u64, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Both)
}
