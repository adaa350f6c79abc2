//! Same file, same behaviour: cases that run against Envoy and against Sluice with the same bootstrap, and must look the
//! same to clients, to endpoints and in the access log.
//!
//! The cases are in `tests/cases/envoy/`, a file for each area. What is different on purpose is named in the case and
//! described in `docs/envoy.md`. For each area, a feature is also taken out of the bootstrap that Sluice gets: its case must
//! then fail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sluice_testkit::tokens::SigningKey;
use sluice_testkit::{Authority, built_guests, guests};

use bootstrap::Places;
use client::Step;
use compare::Seen;
use origins::Origins;
use proxies::Proxy;
use script::{Area, Case};

mod bootstrap;
mod client;
mod compare;
mod origins;
mod proxies;
mod script;
mod statistics;
mod traces;

/// How long a test waits for what it would then report as missing.
const SOON: Duration = Duration::from_secs(10);

/// How many cases there are at least.
const CASES_LEAST: usize = 150;

/// How many each area has at least.
const CASES_OF_AREA: usize = 6;

/// How many scripts in Lua there are at least.
const SCRIPTS_LEAST: usize = 60;

/// A test for each area; `cargo xtask test peers` runs them.
macro_rules! areas {
    ($($area:ident)*) => {
        const AREAS: &[&str] = &[$(stringify!($area)),*];

        mod peers {
            $(
                #[test]
                fn $area() {
                    super::run(stringify!($area));
                }
            )*
        }
    };
}

areas! {
    aggregates authz breakers checks cors datagrams destinations faults filters hashing headers https hygiene jwt limits local_replies lua mirrors
    rates rbac records redirects replies retries rewrites routing scopes sdks taps tcp timeouts tls tunnels upgrades wasm
    wasm_connections wasm_grpc weights
}

#[test]
fn every_file_is_a_test_and_there_are_enough_cases() {
    let files = std::fs::read_dir(script::folder()).unwrap();
    let names = files.map(|file| file.unwrap().path().file_stem().unwrap().to_owned());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    let mut areas = AREAS.to_vec();
    areas.sort_unstable();
    assert_eq!(names, areas);
    let counts = areas.iter().map(|name| (name, script::read(name)));
    let mut all = 0;
    for (name, area) in counts {
        assert!(area.cases.len() >= CASES_OF_AREA, "{name} has {} cases", area.cases.len());
        assert!(!area.edits.is_empty(), "{name} has no feature switched off");
        all += area.cases.len();
    }
    assert!(all >= CASES_LEAST, "{all} cases");
    let scripts = script::read("lua").scripts.len();
    assert!(scripts >= SCRIPTS_LEAST, "{scripts} scripts");
}

#[test]
fn deviations_are_described() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/envoy.md");
    let page = std::fs::read_to_string(page).unwrap();
    for area in AREAS.iter().map(|name| script::read(name)) {
        for case in &area.cases {
            for named in &case.deviations {
                let row = format!("| {} |", named.what);
                assert!(page.contains(&row), "{}, {}: no row `{row}`", area.name, case.name);
            }
        }
    }
}

/// What both sides share.
struct Bench {
    origins: Origins,
    texts: BTreeMap<&'static str, String>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(area: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        authority.issue("a", &["a.test"]);
        authority.issue("b", &["b.test"]);
        authority.issue("client", &["spiffe://test/client"]);
        let origins = Origins::start(area, folder.path());
        let mut texts = tokens();
        texts.extend(signed());
        Self { origins, texts, folder }
    }

    fn fill<T>(&self, with: impl FnOnce(&Places<'_>) -> T) -> T {
        let endpoints = self.origins.addresses();
        with(&Places { endpoints: &endpoints, folder: self.folder.path(), texts: &self.texts })
    }

    /// Runs a case against a proxy.
    fn observe(&self, area: &Area, case: &Case, proxy: &mut Proxy) -> Seen {
        let addresses = self.origins.addresses();
        let names = addresses.iter().map(|(name, address)| ((*name).to_owned(), *address));
        let mut seen = Seen::new(case, names, &proxy.side());
        // What came late, of an earlier case.
        drop((self.origins.received.take(0), proxy.logged(0)));
        let mut all = area.http.iter().chain(&area.listeners).chain(&area.guests);
        let first = all.next().expect("a listener");
        let (mut records, mut often) = (0, false);
        for (number, line) in (1..).zip(&case.steps) {
            // What a service remembers of one proxy must not concern another.
            let line = self.fill(|places| places.fill(line)).replace("@side@", &proxy.side());
            let step = Step::parse(&line, self.folder.path());
            let to = proxy.addr(step.listener.as_ref().unwrap_or(&first.name));
            step.run(to, number, &mut seen);
            records += step.records();
            often |= step.repeats();
        }
        let mut received = self.origins.received.take(case.received);
        if case.received > 0 {
            // They come side by side.
            received.sort_by(|one, other| one.0.cmp(&other.0));
        }
        if case.traced > 0 {
            for (number, (name, trace)) in (1..).zip(proxy.traces(case.traced)) {
                traces::note(&format!("trace {number}"), &name, &trace, &mut seen);
            }
        }
        let logged = proxy.logged(case.logged.unwrap_or(records));
        if !often {
            for (number, (name, message)) in (1..).zip(&received) {
                seen.received(number, name, message);
            }
            (1..).zip(&logged).for_each(|(number, line)| seen.logged(number, line));
        }
        seen
    }
}

/// A set of keys, and tokens that are right or wrong.
fn tokens() -> BTreeMap<&'static str, String> {
    let (key, other) = (SigningKey::new("ES256", "one"), SigningKey::new("ES256", "one"));
    let claims = |issuer: &str, audience: &str, until: u64| json!({ "iss": issuer, "aud": audience, "sub": "ann", "exp": until });
    let (issuer, late) = ("https://issuer.test", 4_000_000_000);
    BTreeMap::from([
        ("jwks", json!({ "keys": [key.jwk()] }).to_string()),
        ("token", key.token(&claims(issuer, "web", late))),
        ("token_of_others", key.token(&claims(issuer, "others", late))),
        ("token_expired", key.token(&claims(issuer, "web", 1_000_000_000))),
        ("token_forged", other.token(&claims(issuer, "web", late))),
        ("token_foreign", key.token(&claims("https://else.test", "web", late))),
    ])
}

/// A public key and a signature of `hello`, in hexadecimal.
fn signed() -> [(&'static str, String); 2] {
    let key = SigningKey::new("RS256", "one");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [("public_key", hex(&key.public_der())), ("signature", hex(&key.sign(b"hello")))]
}

fn run(name: &str) {
    let area = script::read(name);
    let bench = Bench::new(name);
    for guest in &area.guests {
        let module = match bootstrap::language(guest) {
            Some(language) => built_guests::built(language, bench.folder.path()),
            None => Some(guests::guest(&bootstrap::functions(guest))),
        };
        let Some(module) = module else { return };
        std::fs::write(bench.folder.path().join(&guest.name).with_extension("wasm"), module)
            .unwrap();
    }
    let text = bench.fill(|places| bootstrap::text(&area, places));
    let folder = |side: &str| bench.folder.path().join(side);
    let mut envoy = Proxy::envoy(&folder("envoy"), &text);
    let mut sluice = Proxy::sluice(&folder("sluice"), &text);
    let only = std::env::var("CASE").unwrap_or_default();
    let mut failures = String::new();
    for case in area.cases.iter().filter(|case| case.name.contains(&only)) {
        let theirs = bench.observe(&area, case, &mut envoy);
        let ours = bench.observe(&area, case, &mut sluice);
        let found = compare::differences(case, &theirs, &ours);
        if !found.is_empty() {
            let _ = writeln!(failures, "{name}: {}\n{found}", case.name);
        }
        for edit in area.edits.iter().filter(|edit| edit.case == case.name) {
            assert!(text.contains(&edit.from), "the bootstrap does not contain `{}`", edit.from);
            let without = text.replace(&edit.from, &edit.to);
            let mut other = Proxy::sluice(&folder("without"), &without);
            let ours = bench.observe(&area, case, &mut other);
            if compare::differences(case, &theirs, &ours).is_empty() {
                let _ = writeln!(failures, "{name}: {} does not need `{}`\n", case.name, edit.from);
            }
        }
    }
    let known = |edit: &&script::Edit| area.cases.iter().all(|case| case.name != edit.case);
    assert!(!area.edits.iter().any(|edit| known(&edit)), "an edit names no case");
    let (theirs, ours) = (envoy.said(), sluice.said());
    assert!(failures.is_empty(), "\n{failures}\nEnvoy said:\n{theirs}\nSluice said:\n{ours}");
}
