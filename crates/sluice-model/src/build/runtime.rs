//! Runtime values: those of the configuration, and those of the file that it names.

use std::collections::BTreeSet;

use sluice_core::{Diags, Path};
use sluice_l7::RouteTable;
use sluice_l7::routes::{Action, Override};
use sluice_l7::runtime::RuntimeMap;

use super::Build;
use crate::sections::Config;

impl Build<'_> {
    /// The values of the configuration, and those of its file.
    pub(super) fn runtime(
        &mut self,
        config: &Config,
        diags: &mut Diags,
    ) -> (RuntimeMap, RuntimeMap) {
        let section = &config.runtime;
        let own = section.values.0.clone();
        let Some(path) = &section.file else { return (own, RuntimeMap::new()) };
        let file = self.file(path);
        let at = Path::ROOT.key("runtime");
        match std::fs::read_to_string(&file) {
            Ok(text) => match parse(&text) {
                Ok(values) => (own, values),
                Err((line, message)) => {
                    let message = format!("{}:{line}: {message}", file.display());
                    diags.error("bad-file", path.span, at.key("file"), message);
                    (own, RuntimeMap::new())
                }
            },
            Err(error) => {
                let message = format!("cannot read {}: {error}", file.display());
                diags
                    .error("bad-file", path.span, at.key("file"), message)
                    .help("create it, even if empty; it is read again when it changes");
                (own, RuntimeMap::new())
            }
        }
    }
}

/// Adds the names of the runtime values that the rules of a table and their filters read.
pub(super) fn keys_of_routes(table: &RouteTable, keys: &mut BTreeSet<String>) {
    for rule in table.virtual_hosts.iter().flat_map(|host| &host.rules) {
        let share = rule.conditions.as_ref().and_then(|conditions| conditions.runtime.as_ref());
        keys.extend(share.and_then(|share| share.key.clone()));
        if let Action::Split(shares) = &rule.action {
            keys.extend(
                shares.iter().filter_map(|share| share.runtime.as_deref()).map(str::to_owned),
            );
        }
    }
    for (_, filter) in table.overrides.iter().flat_map(|set| &set.said) {
        if let Override::Over(plan) | Override::Instead(plan) = filter {
            keys.extend(plan.runtime_keys().into_iter().map(str::to_owned));
        }
    }
}

/// Parses `name: value` lines; empty lines and those that begin with `#` are skipped.
fn parse(text: &str) -> Result<RuntimeMap, (usize, String)> {
    let mut values = RuntimeMap::new();
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err((place + 1, format!("expected `name: value`, not `{line}`")));
        };
        let value = value.trim().trim_matches('"').to_owned();
        if values.insert(name.trim().to_owned(), value).is_some() {
            return Err((place + 1, format!("`{}` is set twice", name.trim())));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let values = parse("# shares\n\nshop.canary: 5%\nfail: \"true\"\n").unwrap();
        assert_eq!(values["shop.canary"], "5%");
        assert_eq!(values["fail"], "true");
        assert_eq!(parse("a: 1\nb").unwrap_err().0, 2);
        assert!(parse("a: 1\na: 2").unwrap_err().1.contains("twice"));
    }
}
