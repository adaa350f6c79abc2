//! `sluice check`: every error and warning, with its place.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use sluice_config::{load, render};
use sluice_core::{Diagnostic, Diags};

use super::print;
use crate::Extensions;
use crate::cli::{ConfigAndFormat, EXIT_CONFIG, Format};
use crate::control::Workshop;

pub(crate) fn run(options: &ConfigAndFormat, extensions: Extensions) -> ExitCode {
    let path = options.config.path();
    let loaded = load(&path);
    let sources = loaded.sources.clone();
    let (errors, warnings, findings) = match Workshop::new(extensions).build_loaded(loaded) {
        Ok(built) => sorted(built.diags),
        Err(rejected) => sorted(rejected.loaded.diags),
    };
    match options.format {
        Format::Json => {
            let findings = render::json(&findings, &sources);
            let summary =
                serde_json::json!({ "errors": errors, "warnings": warnings, "findings": findings });
            print(&format!("{summary:#}\n"));
        }
        Format::Text => {
            let colour = std::io::stdout().is_terminal();
            print(&render::text(&findings, &sources, colour));
            let verdict = if errors > 0 { "not usable" } else { "usable" };
            print(&format!(
                "{}: {verdict}; {errors} errors, {warnings} warnings\n",
                path.display()
            ));
        }
    }
    if errors > 0 { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS }
}

fn sorted(diags: Diags) -> (usize, usize, Vec<Diagnostic>) {
    let (errors, warnings) = diags.counts();
    (errors, warnings, diags.into_sorted())
}
