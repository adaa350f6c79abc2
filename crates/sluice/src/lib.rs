//! Sluice as a library: the command line, with custom filters.
//!
//! Owns: the command line, and which lower layers each command uses.
//! Refuses to know: how anything is done. Keeps: exit codes are documented and few; a binary with
//! third-party filters is identical in every other respect.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use sluice_config::KnownFilters;
use sluice_core::{Node, Plain, Shape};
use sluice_l4::filters::Filters;
use sluice_l7::HttpFilters;

mod cli;
mod commands;
mod control;
mod process_log;
mod worker;

/// The filters that configurations may name. The default is the set built into Sluice.
#[derive(Clone, Debug)]
pub struct Extensions {
    /// Connection filters.
    pub connection: Filters,
    /// HTTP filters.
    pub http: HttpFilters,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { connection: connection_filters(), http: http_filters() }
    }
}

fn connection_filters() -> Filters {
    let mut filters = sluice_l7::connection_filters::built_in();
    filters.register(std::sync::Arc::new(sluice_module::ModuleConnectionFactory));
    #[cfg(feature = "lua")]
    filters.register(std::sync::Arc::new(sluice_lua::ConnectionLuaFactory));
    #[cfg(feature = "wasm")]
    filters.register(std::sync::Arc::new(sluice_wasm::ConnectionWasmFactory));
    filters
}

fn http_filters() -> HttpFilters {
    let mut filters = sluice_l7::filters::built_in();
    filters.register(std::sync::Arc::new(sluice_module::ModuleFactory));
    #[cfg(feature = "lua")]
    filters.register(std::sync::Arc::new(sluice_lua::LuaFactory));
    #[cfg(feature = "wasm")]
    filters.register(std::sync::Arc::new(sluice_wasm::WasmFactory));
    filters
}

impl KnownFilters for Extensions {
    fn shapes(&self, name: &str) -> Vec<Shape> {
        FilterSets(&self.connection, &self.http).shapes(name)
    }

    fn long_form(&self, of_requests: bool, name: &str, settings: &Node) -> Option<Plain> {
        FilterSets(&self.connection, &self.http).long_form(of_requests, name, settings)
    }
}

/// The filters for connections, and those for requests.
struct FilterSets<'a>(&'a Filters, &'a HttpFilters);

impl KnownFilters for FilterSets<'_> {
    fn shapes(&self, name: &str) -> Vec<Shape> {
        let connection = self.0.get(name).map(|filter| filter.shape());
        connection.into_iter().chain(self.1.get(name).map(|filter| filter.shape())).collect()
    }

    fn long_form(&self, of_requests: bool, name: &str, settings: &Node) -> Option<Plain> {
        match of_requests {
            true => self.1.get(name)?.long_form(settings),
            false => self.0.get(name)?.long_form(settings),
        }
    }
}

/// Runs the command line with these filters. A `main` needs nothing else.
pub fn main_with(extensions: Extensions) -> ExitCode {
    let Extensions { connection, http } = &extensions;
    let of_all = sluice_l7::identity::VALUES;
    let of_relays = sluice_l4::named_clusters::VALUES;
    let of_filters = connection.values().chain(http.values());
    sluice_core::values::declare(of_filters.chain(of_all).chain(of_relays));
    #[cfg(feature = "envoy")]
    let result = match as_envoy() {
        Some((program, flags)) => commands::run_as_envoy(&flags, &program, extensions),
        None => commands::run(cli::Cli::parse(), extensions),
    };
    #[cfg(not(feature = "envoy"))]
    let result = commands::run(cli::Cli::parse(), extensions);
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&format!("sluice: {error:#}"));
            ExitCode::from(cli::EXIT_FAILED)
        }
    }
}

/// The name that the program was called by and its arguments, if that name is `envoy`.
#[cfg(feature = "envoy")]
fn as_envoy() -> Option<(String, Vec<String>)> {
    let mut all = std::env::args_os().map(|text| text.to_string_lossy().into_owned());
    let program = all.next()?;
    let name = std::path::Path::new(&program).file_name()?.to_str()?;
    (name == "envoy").then(|| (program.clone(), all.collect()))
}

/// Prints the final message of a failed command.
#[allow(clippy::print_stderr, reason = "it is the output of the command, not a log")]
fn say(text: &str) {
    eprintln!("{}", text.trim_end());
}

/// The page on extending Sluice, compiled and run as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extending.md")]
struct Extending;
