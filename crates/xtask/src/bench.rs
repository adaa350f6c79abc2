//! The side-by-side benchmark: the same load on several proxies in turn, measured as CPU per unit of work.
//!
//! Owns: the scenarios, the turns, the table. Refuses to know: how proxies and loads are made. Keeps: all proxies stay
//! up and take turns, so that slow changes of the machine affect all alike; results are ratios within a round.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::bail;

use crate::shell;

mod config;
mod load;
mod proxy;

use load::{Client, Service, Speech};
use proxy::{Kit, Proxy};

const TURN: Duration = Duration::from_secs(1);

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// A kind of load.
struct Scenario {
    name: &'static str,
    /// The folder of configurations in `benches/`.
    kind: &'static str,
    unit: &'static str,
    /// Counted events per unit.
    per_unit: f64,
    clients: usize,
    serve: Service,
    drive: Client,
}

const L4: &[Scenario] = &[
    Scenario {
        name: "tcp-rr",
        kind: "tcp",
        unit: "µs/rr",
        per_unit: 1.0,
        clients: 50,
        serve: load::echo,
        drive: load::ping_pong,
    },
    Scenario {
        name: "tcp-connrate",
        kind: "tcp",
        unit: "µs/conn",
        per_unit: 1.0,
        clients: 16,
        serve: load::echo_once,
        drive: load::connect_once,
    },
    Scenario {
        name: "tcp-bulk8",
        kind: "tcp",
        unit: "µs/GiB",
        per_unit: GIB,
        clients: 8,
        serve: load::source,
        drive: load::drain,
    },
    Scenario {
        name: "tls-passthrough-sni",
        kind: "sni",
        unit: "µs/conn",
        per_unit: 1.0,
        clients: 16,
        serve: load::pretend_tls,
        drive: load::hello_once,
    },
    Scenario {
        name: "tls-term-connrate",
        kind: "tlsterm",
        unit: "µs/conn",
        per_unit: 1.0,
        clients: 16,
        serve: load::echo_once,
        drive: load::handshake_once,
    },
    Scenario {
        name: "tls-term-bulk",
        kind: "tlsterm",
        unit: "µs/GiB",
        per_unit: GIB,
        clients: 4,
        serve: load::source,
        drive: load::drain_tls,
    },
    Scenario {
        name: "udp-rr",
        kind: "udp",
        unit: "µs/rr",
        per_unit: 1.0,
        clients: 64,
        serve: load::echo_datagrams,
        drive: load::ping_pong_datagrams,
    },
];

const HTTP: &[Scenario] = &[
    Scenario {
        name: "http1",
        kind: "http",
        unit: "µs/req",
        per_unit: 1.0,
        clients: 64,
        serve: load::pages::<1024>,
        drive: load::get::<1024>,
    },
    Scenario {
        name: "http1-100k",
        kind: "http",
        unit: "µs/req",
        per_unit: 1.0,
        clients: 64,
        serve: load::pages::<102_400>,
        drive: load::get::<102_400>,
    },
    Scenario {
        name: "http1-post",
        kind: "http",
        unit: "µs/req",
        per_unit: 1.0,
        clients: 64,
        serve: load::pages::<64>,
        drive: load::post,
    },
    Scenario {
        name: "https-h1",
        kind: "https",
        unit: "µs/req",
        per_unit: 1.0,
        clients: 64,
        serve: load::pages::<1024>,
        drive: load::get_tls,
    },
];

const H3: &[Scenario] = &[Scenario {
    name: "h3",
    kind: "h3",
    unit: "µs/req",
    per_unit: 1.0,
    clients: 16,
    serve: load::pages::<1024>,
    drive: load::get_h3,
}];

/// A load of idle connections.
struct Idle {
    name: &'static str,
    /// The folder of configurations in `benches/`.
    kind: &'static str,
    count: usize,
    /// File descriptors that each connection takes in the proxy.
    files: usize,
    serve: Service,
    speech: Speech,
}

const IDLE_L4: &[Idle] = &[
    Idle {
        name: "idle-tcp",
        kind: "tcp",
        count: 8000,
        files: 2,
        serve: load::SERVE_IDLE,
        speech: Speech::Plain,
    },
    Idle {
        name: "idle-tlsterm",
        kind: "tlsterm",
        count: 4000,
        files: 2,
        serve: load::SERVE_IDLE,
        speech: Speech::Tls,
    },
];

const IDLE_H3: &[Idle] = &[Idle {
    name: "idle-h3",
    kind: "h3",
    count: 2000,
    files: 0,
    serve: load::pages::<1024>,
    speech: Speech::Http3,
}];

/// The groups of scenarios.
pub const GROUPS: [&str; 4] = ["l4", "http", "h3", "config"];

/// Runs every scenario of a group whose name contains `filter` and prints a table.
///
/// # Errors
/// The group does not exist, a proxy cannot be started, or a load does no work.
#[allow(clippy::print_stdout, reason = "the table is what the command is for")]
pub fn run(sluice: &Path, group: &str, rounds: u32, filter: &str) -> anyhow::Result<()> {
    let (scenarios, idle) = match group {
        "l4" => (L4, IDLE_L4),
        "http" => (HTTP, &[][..]),
        "h3" => (H3, IDLE_H3),
        "config" => return config::run(&Kit::new(sluice)?),
        _ => bail!("there is no group `{group}`; there are: {}", GROUPS.join(", ")),
    };
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        bail!("two processors are needed: one for the proxy, one for the load");
    }
    let files = sluice_sys::process::raise_file_limit();
    // Threads created from here on stay off the proxy's CPU.
    let pid = std::process::id().to_string();
    shell::output(Command::new("taskset").args(["-cp", &format!("1-{}", cpus - 1), &pid]))?;
    let kit = Arc::new(Kit::new(sluice)?);
    println!(
        "| scenario | proxy | median CPU | ratio of sluice to it, quartiles |\n|---|---|---:|---|"
    );
    for scenario in scenarios.iter().filter(|scenario| scenario.name.contains(filter)) {
        compare(scenario, &kit, rounds)?;
    }
    if !idle.is_empty() {
        println!("\n| idle connections | proxy | KiB each |\n|---|---|---:|");
    }
    let files = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(200);
    for Idle { name, kind, count, files: each, serve, speech } in
        idle.iter().filter(|idle| idle.name.contains(filter))
    {
        // This process holds as many descriptors as the proxy.
        let count = (*count).min(files.checked_div(*each).unwrap_or(usize::MAX));
        let proxies = kit.start_all(kind, serve()?)?;
        // Nothing is spliced while connections are idle.
        for proxy in proxies.iter().filter(|proxy| !proxy.name.ends_with("-splice")) {
            let before = proxy.memory()?;
            let held = load::hold(proxy.port, &kit, count, *speech)?;
            #[allow(clippy::cast_precision_loss, reason = "memory of a process fits")]
            let each = proxy.memory()?.saturating_sub(before) as f64 / count as f64;
            println!("| {name} ({count}) | {} | {each:.2} |", proxy.name);
            drop(held);
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the table is what the command is for")]
fn compare(scenario: &Scenario, kit: &Arc<Kit>, rounds: u32) -> anyhow::Result<()> {
    let proxies = kit.start_all(scenario.kind, (scenario.serve)()?)?;
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); proxies.len()];
    for round in 0..=rounds {
        for turn in 0..proxies.len() {
            let index = (turn + round as usize) % proxies.len();
            let cost = measure(&proxies[index], scenario, kit)?;
            // The first round is a warm-up.
            if round > 0 {
                costs[index].push(cost);
            }
        }
    }
    for (proxy, own) in proxies.iter().zip(&costs) {
        let mut ratios: Vec<f64> =
            costs[0].iter().zip(own).map(|(ours, theirs)| ours / theirs).collect();
        println!(
            "| {} | {} | {:.2} {} | {:.2} ({:.2} to {:.2}) |",
            scenario.name,
            proxy.name,
            quantile(&mut own.clone(), 2),
            scenario.unit,
            quantile(&mut ratios, 2),
            quantile(&mut ratios, 1),
            quantile(&mut ratios, 3),
        );
    }
    Ok(())
}

/// The CPU time of the proxy in microseconds per unit, over one turn.
fn measure(proxy: &Proxy, scenario: &Scenario, kit: &Arc<Kit>) -> anyhow::Result<f64> {
    let (stop, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..scenario.clients)
        .map(|_| {
            let (stop, events, kit) = (Arc::clone(&stop), Arc::clone(&events), Arc::clone(kit));
            let (port, drive) = (proxy.port, scenario.drive);
            // An error either comes with the end of the turn, or shows as too little work.
            thread::spawn(move || drop(drive(port, &kit, &stop, &events)))
        })
        .collect();
    thread::sleep(TURN / 5);
    let before = (proxy.cpu_micros()?, events.load(Ordering::SeqCst));
    thread::sleep(TURN);
    let after = (proxy.cpu_micros()?, events.load(Ordering::SeqCst));
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| drop(client.join()));
    #[allow(clippy::cast_precision_loss, reason = "a second's work fits")]
    let work = (after.1 - before.1) as f64 / scenario.per_unit;
    if work <= 0.0 {
        bail!("{} did no work for {}", proxy.name, scenario.name);
    }
    Ok((after.0 - before.0) / work)
}

/// The `quarter`-th quartile.
fn quantile(values: &mut [f64], quarter: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().saturating_sub(1)) * quarter / 4).copied().unwrap_or(f64::NAN)
}
