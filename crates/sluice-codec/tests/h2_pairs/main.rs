//! Our HTTP/2 against that of the crate `h2`, both ways, over pipes in memory that cut bytes anywhere.
//!
//! What is exchanged follows from a seed, so either side knows what it has to receive. `SLUICE_SEED=7` runs one seed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the seed is shown if a test fails")]

mod ours;
mod plan;
mod theirs;

use std::rc::Rc;

use ours::Ours;
use plan::Plan;
use sluice_codec::h1::Role;
use tokio::task::LocalSet;

/// Seeds of each test.
const SEEDS: u64 = 60;

#[allow(clippy::print_stdout, reason = "shown if a test fails, or does not end")]
fn each_seed(run: impl AsyncFn(u64)) {
    let one = std::env::var("SLUICE_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for seed in seeds {
        println!("seed {seed}");
        LocalSet::new().block_on(&runtime, run(seed));
    }
}

/// A pipe whose ends cut what passes.
fn pipe(seed: u64) -> (tokio::io::DuplexStream, tokio::io::DuplexStream) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0xf00d);
    tokio::io::duplex(random.usize(1..40_000))
}

#[test]
fn our_server_serves_their_client() {
    each_seed(async |seed| {
        let (here, there) = pipe(seed);
        let plan = Rc::new(Plan::new(seed));
        let ours = Ours::new(Role::Server, seed);
        let driven = tokio::task::spawn_local(ours.clone().drive(here, seed));
        let serving = tokio::task::spawn_local(ours.clone().serve(plan.clone()));
        theirs::request_all(there, plan).await;
        driven.await.unwrap();
        serving.await.unwrap();
        ours.assert_nothing_left();
    });
}

#[test]
fn our_client_uses_their_server() {
    each_seed(async |seed| {
        let (here, there) = pipe(seed);
        let plan = Rc::new(Plan::new(seed));
        let ours = Ours::new(Role::Client, seed);
        let driven = tokio::task::spawn_local(ours.clone().drive(here, seed));
        let serving = tokio::task::spawn_local(theirs::serve(there, plan.clone()));
        ours.clone().request_all(plan).await;
        ours.with(|machine| machine.wind_down());
        driven.await.unwrap();
        serving.await.unwrap();
        ours.assert_nothing_left();
    });
}
