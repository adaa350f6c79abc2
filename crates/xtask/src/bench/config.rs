//! What a large configuration costs before any traffic: to start with it, to hold it, to be idle with it, to change it.
//!
//! Owns: the configuration and the order of the measurements. Refuses to know: peers, which are configured in other
//! ways. Keeps: each figure is the processor time or memory of the process, with one worker.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::TURN;
use super::proxy::{Kit, Proxy};

const CLUSTERS: u32 = 10_000;

/// How long the process is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(5);

/// Starts Sluice with [`CLUSTERS`] clusters of one endpoint each, every other with TLS and the authorities of the
/// system, and prints what it costs.
#[allow(clippy::print_stdout, reason = "the table is what the command is for")]
pub(super) fn run(kit: &Kit) -> anyhow::Result<()> {
    let small = ready(kit, 1)?.memory()?;
    let proxy = ready(kit, CLUSTERS)?;
    let start = proxy.cpu_micros()?;
    let held = proxy.memory()?.saturating_sub(small);
    // What the start leaves to do, such as giving memory back, is not idling.
    thread::sleep(TURN);
    let settled = proxy.cpu_micros()?;
    thread::sleep(IDLE);
    let before = proxy.cpu_micros()?;
    let idle = before - settled;
    let text = fs::read_to_string(kit.config())?;
    let changed = text.replacen("endpoints: [127.0.0.1:1]", "endpoints: [127.0.0.1:2]", 1);
    fs::write(kit.config(), changed)?;
    proxy.signal("-HUP")?;
    says(kit, "reloaded: clusters")?;
    let reload = proxy.cpu_micros()? - before;
    println!("| {CLUSTERS} clusters, half of them with TLS | cost |\n|---|---:|");
    println!("| CPU until ready | {:.0} ms |", start / 1000.0);
    println!(
        "| memory of a cluster with one endpoint | {:.1} KiB |",
        f64_of(held) / f64::from(CLUSTERS)
    );
    println!("| CPU while idle | {:.2} % of a processor |", idle / IDLE.as_secs_f64() / 1e4);
    println!("| CPU of a reload that changes one endpoint | {:.0} ms |", reload / 1000.0);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "the memory of a process fits")]
const fn f64_of(kib: u64) -> f64 {
    kib as f64
}

fn ready(kit: &Kit, clusters: u32) -> anyhow::Result<Proxy> {
    let mut text = String::from("listeners:\n  - name: all\n    address: 127.0.0.1:@LISTEN@\n");
    text += "    http: { routes: all }\nroutes:\n  all:\n    hosts: \"*\"\n    rules:\n";
    for number in 0..clusters {
        writeln!(text, "      - {{ match: {{ path: /{number} }}, cluster: c{number} }}")?;
    }
    text += "clusters:\n";
    for number in 0..clusters {
        let tls = if number % 2 == 1 { "tls: { sni: bench.test }, " } else { "" };
        writeln!(text, "  c{number}: {{ {tls}endpoints: [127.0.0.1:1] }}")?;
    }
    let proxy = kit.start_sluice(&text)?;
    says(kit, " ready ")?;
    Ok(proxy)
}

/// Waits until the log of Sluice contains a text.
fn says(kit: &Kit, text: &str) -> anyhow::Result<()> {
    for _ in 0..2000 {
        if fs::read_to_string(kit.log()).context("the log")?.contains(text) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("the log of Sluice does not say `{text}`: {}", fs::read_to_string(kit.log())?)
}
