//! `cargo xtask`: what developers and CI run.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use xtask::shell::{command, output, root, run, target};
use xtask::{packages, rules};

/// What developers and CI run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// A task.
#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the tests want, build, run every test.
    Test {
        /// Only tests whose name holds this.
        filter: Option<String>,
    },
    /// Formatting, clippy, documentation, layers.
    Lint,
    /// Check the arrows between crates and between modules.
    Layers,
    /// Write the generated documents anew.
    Docs,
    /// Compare with HAProxy, nginx, Envoy and Caddy where they are installed.
    Bench {
        /// Which group: l4, http or h3.
        group: String,
        /// Rounds of each scenario.
        #[arg(long, default_value_t = 12)]
        rounds: u32,
        /// Only scenarios whose name holds this.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Fuzz every target.
    Fuzz {
        /// Minutes for each target.
        #[arg(long, default_value_t = 1)]
        minutes: u64,
        /// Only these targets, by commas.
        #[arg(long, default_value = "")]
        only: String,
    },
}

#[allow(clippy::print_stderr, reason = "the last word of a failed task")]
fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test { filter } => test(filter.as_deref()),
        Task::Lint => lint(),
        Task::Layers => layers(),
        Task::Docs => docs(),
        Task::Bench { group, rounds, only } => bench(&group, rounds, &only),
        Task::Fuzz { minutes, only } => fuzz(minutes, &only),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "a developer wants to see what was skipped")]
fn test(filter: Option<&str>) -> anyhow::Result<()> {
    packages::install();
    let skips = target().join("skipped-tests");
    let _ = fs::remove_file(&skips);
    run(&mut command("cargo", &["build", "--locked", "--workspace"]))?;
    let mut tests = command("cargo", &["test", "--locked", "--workspace", "--no-fail-fast"]);
    tests.args(filter).env("SLUICE_SKIPS", &skips).env("SLUICE_BIN", target().join("debug/sluice"));
    run(&mut tests)?;
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let mut lines: Vec<&str> = skipped.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    lines.iter().for_each(|line| println!("{line}"));
    println!("{} kinds of tests skipped", lines.len());
    Ok(())
}

fn lint() -> anyhow::Result<()> {
    run(&mut command("cargo", &["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(&mut command("cargo", &clippy))?;
    let mut doc = command("cargo", &["doc", "--locked", "--workspace", "--no-deps"]);
    run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    layers()
}

fn layers() -> anyhow::Result<()> {
    let broken = [rules::layers(&root())?, rules::l4_packages()?, rules::cycles(&root())?].concat();
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(())
}

/// Documents that come from the binary: the page, and the command that prints it.
const GENERATED: &[(&str, &[&str])] =
    &[("docs/reference.md", &["reference"]), ("docs/schema.json", &["schema"])];

fn docs() -> anyhow::Result<()> {
    run(&mut command("cargo", &["build", "--locked", "-p", "sluice"]))?;
    for (page, args) in GENERATED {
        let text = output(Command::new(target().join("debug/sluice")).args(*args))?;
        fs::write(root().join(page), text).with_context(|| (*page).to_owned())?;
    }
    Ok(())
}

fn bench(group: &str, rounds: u32, only: &str) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        // A load that is slow itself would find every proxy waiting, and measure that.
        let rounds = rounds.to_string();
        let args = ["bench", group, "--rounds", &rounds, "--only", only];
        let own = ["run", "--locked", "--release", "-p", "xtask", "--"];
        return run(&mut command("cargo", &[&own[..], &args].concat()));
    }
    run(&mut command("cargo", &["build", "--locked", "--profile", "dist", "-p", "sluice"]))?;
    xtask::bench::run(&target().join("dist/sluice"), group, rounds, only)
}

#[allow(clippy::print_stdout, reason = "a skipped task is said aloud")]
fn fuzz(minutes: u64, only: &str) -> anyhow::Result<()> {
    // Coverage and sanitizers are unstable flags: a nightly compiler takes them, a stable one where it is told to.
    let toolchain: &[&str] = if has_fuzz(command("cargo", &["+nightly", "fuzz"])) {
        &["+nightly", "fuzz"]
    } else {
        &["fuzz"]
    };
    let fuzz = |args: &[&str]| {
        let mut fuzz = command("cargo", &[toolchain, args].concat());
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        fuzz
    };
    if !has_fuzz(fuzz(&[])) {
        println!("SKIP: fuzzing wants cargo-fuzz (`cargo install cargo-fuzz`)");
        return Ok(());
    }
    let seconds = format!("-max_total_time={}", minutes * 60);
    let targets = output(&mut fuzz(&["list"]))?;
    let wanted = |target: &&str| only.is_empty() || only.split(',').any(|name| name == *target);
    for target in targets.lines().filter(wanted) {
        // New inputs go to a folder of their own: the corpus in the repository stays small.
        let (found, seeds) = (format!("fuzz/found/{target}"), format!("fuzz/corpus/{target}"));
        fs::create_dir_all(root().join(&found))?;
        let known = Path::new(&seeds);
        fs::create_dir_all(root().join(known))?;
        run(&mut fuzz(&["run", target, &found, &seeds, "--", &seconds, "-max_len=4096"]))?;
    }
    Ok(())
}

fn has_fuzz(mut fuzz: Command) -> bool {
    fuzz.arg("--version").output().is_ok_and(|output| output.status.success())
}
