//! The process log: what of it is written, at the start and later.
//!
//! Owns: the filter by level and target, and its checks. Refuses to know: who asks for another filter, and for how long.
//! Keeps: a filter that means nothing is named, never obeyed in silence; the log is never left without a filter.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::EnvFilter;

use crate::cli::Format;

/// The default filter. The QUIC library warns of what peers send, such as tokens that are too old: that would let any
/// client fill the log.
const DEFAULT: &str = "info,quinn_proto=error";

/// The part of the default that stays when an operator sets a level for everything.
const QUIET: &str = "quinn_proto=error";

/// What is written whatever the filter says: that the filter has changed.
const ALWAYS: &str = "sluice::control::log_level=info";

/// The crates that write to the log.
const TARGETS: &[&str] = &[
    "sluice",
    "sluice_admin",
    "sluice_codec",
    "sluice_config",
    "sluice_core",
    "sluice_envoy",
    "sluice_expr",
    "sluice_io",
    "sluice_l4",
    "sluice_l7",
    "sluice_lua",
    "sluice_model",
    "sluice_module",
    "sluice_quic",
    "sluice_sys",
    "sluice_telemetry",
    "sluice_tls",
    "sluice_upstream",
    "sluice_wasm",
    "sluice_xds",
    "quinn",
    "quinn_proto",
    "hickory_net",
    "hickory_proto",
    "hickory_resolver",
];

/// The words of a level, for errors.
const LEVELS: &str = "a level (error, warn, info, debug, trace, off) or TARGET=LEVEL, as in `warn,sluice_upstream=debug`";

/// The process log of a running Sluice.
pub(crate) struct ProcessLog {
    at_start: String,
    reload: Box<dyn Fn(EnvFilter) -> Result<(), String>>,
}

impl fmt::Debug for ProcessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessLog").field("at_start", &self.at_start).finish_non_exhaustive()
    }
}

impl ProcessLog {
    /// Starts the log on standard error, with the filter that `SLUICE_LOG` asks for, or else with this level.
    pub(crate) fn start(format: Format, level: Option<&str>) -> Self {
        let asked = std::env::var("SLUICE_LOG").ok();
        let of_level = level.map(|level| match level {
            "off" | "error" => level.to_owned(),
            level => format!("{level},{QUIET}"),
        });
        let (at_start, trouble) = filter_at_start(asked.or(of_level).as_deref());
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter_of(&at_start))
            .with_writer(std::io::stderr);
        // A second subscriber can only come from a test harness, which then does the logging.
        let reload: Box<dyn Fn(EnvFilter) -> Result<(), String>> = match format {
            Format::Json => {
                let builder = builder.json().with_filter_reloading();
                let handle = builder.reload_handle();
                let _ = builder.try_init();
                Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
            }
            Format::Text => {
                let builder = builder
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_target(false)
                    .with_filter_reloading();
                let handle = builder.reload_handle();
                let _ = builder.try_init();
                Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
            }
        };
        if let Some(trouble) = trouble {
            tracing::warn!("{trouble}");
        }
        Self { at_start, reload }
    }

    /// One that writes nothing.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self { at_start: "off".into(), reload: Box::new(|_| Ok(())) }
    }

    /// The filter at the start.
    pub(crate) fn at_start(&self) -> &str {
        &self.at_start
    }

    /// Puts another filter in force, or again the one of the start. Returns the filter in force.
    ///
    /// # Errors
    /// A part of it means nothing; then the filter stays as it is.
    pub(crate) fn set(&self, wanted: Option<&str>) -> Result<String, String> {
        let filter = match wanted {
            Some(wanted) => laid_over(&self.at_start, wanted)?,
            None => self.at_start.clone(),
        };
        (self.reload)(filter_of(&filter))?;
        Ok(filter)
    }
}

fn filter_of(directives: &str) -> EnvFilter {
    EnvFilter::new(format!("{ALWAYS},{directives}"))
}

/// The filter at the start, and the problem with the requested one. Invalid parts are omitted.
fn filter_at_start(asked: Option<&str>) -> (String, Option<String>) {
    let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else {
        return (DEFAULT.to_owned(), None);
    };
    let parts = asked.split(',').map(str::trim).filter(|part| !part.is_empty());
    let (right, wrong): (Vec<&str>, Vec<&str>) = parts.partition(|part| is_directive(part));
    let filter = if right.is_empty() { DEFAULT.to_owned() } else { right.join(",") };
    let trouble = (!wrong.is_empty())
        .then(|| format!("SLUICE_LOG: `{}` is ignored; write {LEVELS}", wrong.join(",")));
    (filter, trouble)
}

/// A filter that an operator asks for: a level of its own replaces the one at the start, levels of targets alone are
/// added to it.
fn laid_over(at_start: &str, wanted: &str) -> Result<String, String> {
    let parts: Vec<&str> = wanted.split(',').map(str::trim).collect();
    if let Some(wrong) = parts.iter().find(|part| !is_directive(part)) {
        return Err(format!("`{wrong}` is not a level; write {LEVELS}"));
    }
    let levels = parts.iter().filter_map(|part| level(part.rsplit('=').next()?));
    if levels.clone().any(|level| level > STATIC_MAX_LEVEL) {
        return Err(format!("this build of Sluice contains nothing finer than {STATIC_MAX_LEVEL}"));
    }
    let own = parts.iter().rev().find_map(|part| level(part));
    let base = match own {
        Some(level) if level > LevelFilter::ERROR => QUIET,
        Some(_) => return Ok(parts.join(",")),
        None => at_start,
    };
    // Of two directives for one target, the later counts.
    Ok(format!("{base},{}", parts.join(",")))
}

fn level(text: &str) -> Option<LevelFilter> {
    // The library takes nothing for `error`.
    (!text.is_empty()).then(|| text.parse().ok()).flatten()
}

/// Whether a part of a filter is valid: the library takes a bare word for a target, and an unknown target that is not a
/// level is a typo.
fn is_directive(part: &str) -> bool {
    let known = |target: &str| {
        let is_module = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let name = target.split("::").next().unwrap_or_default();
        TARGETS.contains(&name) && target.split("::").all(is_module)
    };
    match part.split_once('=') {
        Some((target, text)) => known(target) && level(text).is_some(),
        None => level(part).is_some() || known(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_filter_that_means_nothing_is_named_and_left_out() {
        for fine in [
            "info",
            "WARN",
            "off",
            "warn,sluice_upstream=debug",
            "sluice",
            "quinn=trace",
            "",
            "info,",
        ] {
            assert_eq!(filter_at_start(Some(fine)).1, None, "{fine}");
        }
        for wrong in ["bogus=x", "bogus", "inof", "info,sluice=loud", "nginx=debug"] {
            let (filter, trouble) = filter_at_start(Some(wrong));
            assert!(trouble.is_some_and(|text| text.contains("is ignored")), "{wrong}");
            assert_eq!(EnvFilter::new(filter).max_level_hint(), Some(LevelFilter::INFO), "{wrong}");
        }
        assert_eq!(filter_at_start(None), (DEFAULT.to_owned(), None));
    }

    #[track_caller]
    fn check(at_start: &str, wanted: &str, expected: &str) {
        match laid_over(at_start, wanted) {
            Ok(filter) => assert_eq!(EnvFilter::new(filter).to_string(), expected, "{wanted}"),
            Err(problem) => assert!(problem.contains(expected), "{wanted}: {problem}"),
        }
    }

    #[test]
    fn what_an_operator_asks_for_replaces_the_level_or_is_added_to_it() {
        check(DEFAULT, "debug", "quinn_proto=error,debug");
        check(DEFAULT, "debug,quinn_proto=debug", "quinn_proto=debug,debug");
        check("warn,sluice_l7=debug", "info", "quinn_proto=error,info");
        check(DEFAULT, "error", "error");
        check(DEFAULT, "off", "off");
        check(DEFAULT, "sluice_upstream=debug", "sluice_upstream=debug,quinn_proto=error,info");
        check(
            "warn",
            "sluice_upstream=debug, sluice=info",
            "sluice_upstream=debug,sluice=info,warn",
        );
        check("sluice_upstream=debug", "sluice_upstream=info", "sluice_upstream=info");
    }

    #[test]
    fn every_crate_of_the_process_can_be_named() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for entry in std::fs::read_dir(crates).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap().replace('-', "_");
            // These are for tests and developers.
            let others = ["sluice_testkit", "sluice_abi", "sluice_sdk"];
            if name.starts_with("sluice") && !others.contains(&&*name) {
                assert!(TARGETS.contains(&&*name), "{name}");
            }
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        check(DEFAULT, "loud", "`loud` is not a level; write a level (error");
        check(DEFAULT, "debug,nginx=info", "`nginx=info` is not a level");
        check(DEFAULT, "", "`` is not a level");
        check(DEFAULT, "debug,", "`` is not a level");
        check(DEFAULT, "sluice_l4=", "`sluice_l4=` is not a level");
        check(DEFAULT, "sluice_upsteam=debug", "is not a level");
        check(DEFAULT, "sluice_l7[=debug", "is not a level");
        check(DEFAULT, "rustls=debug", "is not a level");
    }
}
