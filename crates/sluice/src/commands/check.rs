//! `sluice check`: every error and warning, with its place.

use std::io::{ErrorKind, IsTerminal as _};
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;

use sluice_config::{Loaded, load, load_stdin, render};
use sluice_core::{Diagnostic, Diags, ListenAddress};
use sluice_model::Config;
use sluice_model::store::Store;

use super::print;
use crate::Extensions;
use crate::cli::{Check, EXIT_CONFIG, Format};
use crate::control::{ConfigBuilder, ConfigForm};

pub(crate) fn run(options: &Check, extensions: Extensions) -> ExitCode {
    let path = options.path();
    let loaded = read(&path);
    let sources = loaded.sources.clone();
    let mut elsewhere = Diags::new();
    loaded.config.iter().for_each(|config| addresses(config, &mut elsewhere));
    let built =
        ConfigBuilder::new(extensions, ConfigForm::Native).build_loaded(loaded, &Store::default());
    let (errors, warnings, findings) = match built {
        Ok(mut built) => {
            built.diags.extend(elsewhere, |_| {});
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

fn sorted(diags: Diags) -> (usize, usize, Vec<Diagnostic>) {
    let (errors, warnings) = diags.counts();
    (errors, warnings, diags.into_sorted())
}
