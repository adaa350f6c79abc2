//! `/logging`: the level of the process log, by Envoy's loggers.
//!
//! Owns: which parts of Sluice a logger of Envoy is. Refuses to know: what is written. Keeps: a logger or level that is not
//! known is refused, and nothing changes.

use std::fmt::Write as _;

use super::{EnvoyPages, PageText, Parameters, TEXT};

/// Loggers of Envoy, and the parts of Sluice that write what they would.
const LOGGERS: [(&str, &[&str]); 22] = [
    ("admin", &["sluice_admin"]),
    ("client", &["sluice_codec"]),
    ("config", &["sluice_config", "sluice_envoy", "sluice_model", "sluice_xds"]),
    ("connection", &["sluice_io", "sluice_l4"]),
    ("dns", &["hickory_net", "hickory_proto", "hickory_resolver"]),
    ("filter", &["sluice_l4"]),
    ("hc", &["sluice_upstream"]),
    ("http", &["sluice_l7"]),
    ("http2", &["sluice_codec"]),
    ("jwt", &["sluice_l7"]),
    ("lua", &["sluice_lua"]),
    ("main", &["sluice"]),
    ("misc", &["sluice_core"]),
    ("pool", &["sluice_l7"]),
    ("quic", &["sluice_quic", "quinn"]),
    ("rbac", &["sluice_l7"]),
    ("router", &["sluice_l7"]),
    ("runtime", &["sluice"]),
    ("secret", &["sluice_tls"]),
    ("stats", &["sluice_telemetry"]),
    ("udp", &["sluice_l4"]),
    ("upstream", &["sluice_upstream"]),
];

/// Envoy's levels, and those here.
const LEVELS: [(&str, &str); 7] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warning", "warn"),
    ("error", "error"),
    ("critical", "error"),
    ("off", "off"),
];

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\nusage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\nusage: /logging?level=<level> (change all levels)\nlevels: trace debug info warning error critical off";

impl EnvoyPages {
    pub(super) fn logging(&self, parameters: &Parameters) -> PageText {
        let wanted = wanted(parameters).map_err(|problem| (400, self.refusal(&problem)))?;
        if !wanted.is_empty() {
            self.set_levels(&wanted).map_err(|problem| (400, self.refusal(&problem)))?;
        }
        Ok((TEXT, self.active()))
    }

    fn refusal(&self, problem: &str) -> String {
        format!("error: {problem}\n\n{USAGE}\n{}", self.active())
    }

    fn set_levels(&self, wanted: &[(&'static str, &'static str)]) -> Result<(), String> {
        let mut next = self.loggers.borrow().clone();
        next.extend(wanted.iter().copied());
        // The base comes first, and what is more exact behind it.
        let own =
            |level: &str| LEVELS.iter().find(|(name, _)| *name == level).map_or("", |(_, own)| own);
        let all = own(next.get("main").copied().unwrap_or_else(|| self.base()));
        let mut filter = all.to_owned();
        for (logger, targets) in LOGGERS {
            let Some(level) = next.get(logger) else { continue };
            for target in targets {
                let _ = write!(filter, ",{target}={}", own(level));
            }
        }
        self.control.set_log_level(&filter, None)?;
        *self.loggers.borrow_mut() = next;
        Ok(())
    }

    /// The level of loggers that were not set.
    fn base(&self) -> &'static str {
        let at_start = self.control.process_log.at_start();
        let first = at_start.split(',').find(|part| !part.contains('=')).unwrap_or("info");
        LEVELS.iter().find(|(_, own)| *own == first).map_or("info", |(name, _)| name)
    }

    fn active(&self) -> String {
        let set = self.loggers.borrow();
        let level = |logger| set.get(logger).copied().unwrap_or_else(|| self.base());
        let lines: Vec<String> =
            LOGGERS.iter().map(|(logger, _)| format!("  {logger}: {}\n", level(*logger))).collect();
        format!("active loggers:\n{}", lines.concat())
    }
}

/// The loggers that are to change, and their levels.
fn wanted(parameters: &Parameters) -> Result<Vec<(&'static str, &'static str)>, String> {
    let mut found = Vec::new();
    for (name, value) in parameters.iter() {
        match name {
            "level" => {
                let level = level(value)?;
                found.extend(LOGGERS.iter().map(|(logger, _)| (*logger, level)));
            }
            "paths" => {
                for pair in value.split(',').filter(|pair| !pair.is_empty()) {
                    let (name, value) = pair.split_once(':').ok_or("empty logger level")?;
                    found.push((logger(name)?, level(value)?));
                }
            }
            "group" => return Err("there are no groups of loggers".into()),
            name => found.push((logger(name)?, level(value)?)),
        }
    }
    Ok(found)
}

fn logger(name: &str) -> Result<&'static str, String> {
    let found = LOGGERS.iter().find(|(logger, _)| *logger == name).map(|(logger, _)| *logger);
    found.ok_or_else(|| format!("unknown logger name `{name}`"))
}

fn level(name: &str) -> Result<&'static str, String> {
    let name = if name == "warn" { "warning" } else { name };
    let found = LEVELS.iter().find(|(level, _)| *level == name).map(|(level, _)| *level);
    found.ok_or_else(|| "unknown logger level".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_by_logger_or_for_all() {
        let read = |query| wanted(&Parameters::read(query));
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("upstream=debug"), Ok(vec![("upstream", "debug")]));
        assert_eq!(
            read("paths=http:trace,router:warn"),
            Ok(vec![("http", "trace"), ("router", "warning")])
        );
        assert_eq!(read("level=off").unwrap().len(), LOGGERS.len());
        for wrong in ["level=loud", "nosuch=info", "paths=http", "group=a:info", "paths=x:info"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
