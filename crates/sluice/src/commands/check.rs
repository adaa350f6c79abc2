//! `sluice check`: every error and warning, with its place; names of endpoints are looked up.

use std::io::{ErrorKind, IsTerminal as _};
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use sluice_config::{Loaded, load, load_stdin, render};
use sluice_core::{Diagnostic, Diags, ListenAddress, Node};
use sluice_model::Config;
use sluice_model::store::{Staged, Store};
use sluice_upstream::dns::{DnsName, why_unresolved};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::print;
use crate::Extensions;
use crate::cli::{Check, EXIT_CONFIG, Format};
use crate::control::{ConfigBuilder, ConfigForm};

pub(crate) fn run(options: &Check, extensions: Extensions) -> ExitCode {
    let path = options.path();
    let loaded = read(&path);
    let sources = loaded.sources.clone();
    let (mut elsewhere, root) = (Diags::new(), loaded.root.clone());
    loaded.config.iter().for_each(|config| addresses(config, &mut elsewhere));
    let built =
        ConfigBuilder::new(extensions, ConfigForm::Native).build_loaded(loaded, &Store::default());
    let (errors, warnings, findings) = match built {
        Ok(mut built) => {
            built.diags.extend(elsewhere, |_| {});
            if let Some(root) = root.filter(|_| !options.offline) {
                unresolved(&built.staged, &root, &mut built.diags);
            }
            sorted(built.diags)
        }
        Err(rejected) => sorted(rejected.loaded.diags),
    };
    let usable = errors == 0 && (warnings == 0 || !options.strict);
    match options.format {
        Format::Json => {
            let findings = render::json(&findings, &sources);
            let summary =
                serde_json::json!({ "errors": errors, "warnings": warnings, "findings": findings });
            print(&format!("{summary:#}\n"));
        }
        Format::Text => {
            let colour = std::io::stdout().is_terminal();
            let show = if options.all { render::text } else { render::brief };
            print(&show(&findings, &sources, colour));
            let verdict = if usable { "usable" } else { "not usable" };
            let counts = render::counts(errors, warnings);
            print(&format!("{}: {verdict}; {counts}\n", path.display()));
        }
    }
    if usable { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) }
}

/// Reads the configuration at a path; `-` is standard input.
pub(super) fn read(path: &Path) -> Loaded {
    if path == Path::new("-") { load_stdin() } else { load(path) }
}

/// Warns of addresses that this machine does not have: a listener on one does not start here. The check binds to port
/// 0, so it succeeds even if another process listens on the address.
fn addresses(config: &Config, diags: &mut Diags) {
    let at = sluice_core::Path::ROOT.key("listeners");
    for (place, listener) in config.listeners.places() {
        for address in listener.all_addresses() {
            let (ListenAddress::Tcp(socket) | ListenAddress::Udp(socket)) = &address.value else {
                continue;
            };
            let there = UdpSocket::bind((socket.ip(), 0));
            if there.is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable) {
                let listener = at.index(place);
                let message = format!("this machine does not have the address {}", socket.ip());
                diags
                    .warning("not-here", address.span, listener.key("address"), message)
                    .help("Sluice does not start on a machine without it; `ip address` lists the addresses");
            }
        }
    }
}

/// The time for all look-ups.
const LOOKUP_TIME: Duration = Duration::from_secs(2);

/// Look-ups at the same time.
const LOOKUPS_MAX: usize = 64;

/// Warns of host names of endpoints that do not exist or have no address. A name server that fails or is slow is no
/// fault of the configuration.
fn unresolved(staged: &Staged, root: &Node, diags: &mut Diags) {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
    let (mut lookups, slots) = (JoinSet::new(), Rc::new(Semaphore::new(LOOKUPS_MAX)));
    let (local, mut places) = (LocalSet::new(), Vec::new());
    for (cluster, endpoint, place) in staged.endpoints() {
        let Some(name) = DnsName::of(&endpoint.address) else { continue };
        let (plan, number, slots) = (cluster.dns.clone(), places.len(), Rc::clone(&slots));
        places.push((name.clone(), place));
        let lookup = async move {
            let _slot = slots.acquire().await;
            (number, why_unresolved(&plan, &name).await)
        };
        lookups.spawn_local_on(lookup, &local);
    }
    let mut report = |(number, why): (usize, Option<String>)| {
        let (Some(why), (name, place)) = (why, &places[number]) else { return };
        let mut found = Diags::new();
        found
            .warning(
                "unresolved-name",
                None,
                &place.field,
                format!("`{name}` does not resolve: {why}"),
            )
            .help("correct the name, or add it to the DNS; `--offline` skips this check");
        place.from.adopt(found, root, diags);
    };
    runtime.block_on(local.run_until(async {
        let all = async {
            while let Some(ended) = lookups.join_next().await {
                ended.into_iter().for_each(&mut report);
            }
        };
        // What is not known by then is not reported.
        let _ = timeout(LOOKUP_TIME, all).await;
    }));
}

fn sorted(diags: Diags) -> (usize, usize, Vec<Diagnostic>) {
    let (errors, warnings) = diags.counts();
    (errors, warnings, diags.into_sorted())
}
