//! The settings of the process: whatever is configured and is not a resource.
//!
//! Owns: access logs, the admin interface, drain, limits, runtime values. Refuses to know: when they take effect.
//! Keeps: what is configured stays beside what it was compiled to, so that two configurations can be compared.

use std::path::{Path as FilePath, PathBuf};

use sluice_core::limits::Limit;
use sluice_core::{Diags, Path, Spanned};
use sluice_l4::record;
use sluice_l7::runtime::RuntimeMap;
use sluice_telemetry::log::{SinkPlan, SinkTarget};
use sluice_telemetry::{Operator, RecordKind, Template};
use sluice_upstream::events::{HEALTH_OPERATORS, HEALTH_TEXT};

use crate::own_name::own_name;
use crate::sections::{
    AccessLog, Admin, Config, ControlPlane, Drain, LimitValues, LogFormat, LogKind, LogSink,
    RuntimeSection,
};
use sluice_core::settings::Members;

/// The settings of the process.
#[derive(Debug)]
pub struct Process {
    /// The admin interface.
    pub admin: Option<Admin>,
    /// Graceful shutdown.
    pub drain: Drain,
    /// Limits.
    pub limits: LimitValues,
    /// The access logs, as configured.
    pub access_log: Members<AccessLog>,
    /// Runtime values, as configured.
    pub runtime: RuntimeSection,
    /// The access logs.
    pub sinks: Vec<SinkPlan>,
    /// The runtime values of the configuration, and those of its file.
    pub runtime_values: (RuntimeMap, RuntimeMap),
    /// The file of runtime values.
    pub runtime_file: Option<PathBuf>,
    /// The control plane, with a name for this process.
    pub control_plane: Option<ControlPlane>,
}

impl Process {
    /// Takes the settings of a configuration, whose relative paths are resolved against `folder`. Errors are added to
    /// `diags`.
    pub fn of(config: &Config, folder: &FilePath, diags: &mut Diags) -> Self {
        let Config {
            admin,
            listeners: _,
            clusters: _,
            node: _,
            routes: _,
            secrets: _,
            maps: _,
            xds,
            runtime,
            access_log,
            drain,
            limits,
        } = config;
        let sinks = sinks(access_log, folder, limits, diags);
        let runtime_file = runtime.file.as_ref().map(|path| folder.join(&path.value));
        let of_file = runtime_file.as_deref().zip(runtime.file.as_ref());
        let of_file = of_file.map(|(file, path)| values_of(file, path, diags));
        let own = runtime.values.0.iter().map(|(name, value)| (name.clone(), value.value.clone()));
        let runtime_values = (own.collect(), of_file.unwrap_or_default());
        Self {
            admin: admin.clone(),
            drain: drain.clone(),
            limits: limits.clone(),
            access_log: access_log.clone(),
            runtime: runtime.clone(),
            sinks,
            runtime_values,
            runtime_file,
            control_plane: xds.as_ref().map(|xds| named(&xds.value, config)),
        }
    }

    /// The names of the sections that differ, apart from the access logs.
    pub fn differences(&self, new: &Self) -> Vec<&'static str> {
        // Sections are listed by name: a change in a forgotten one would never be applied.
        let Self {
            admin,
            drain,
            limits,
            access_log: _,
            runtime,
            sinks: _,
            runtime_values,
            runtime_file: _,
            control_plane,
        } = self;
        let sections = [
            ("admin", *admin != new.admin),
            ("drain", *drain != new.drain),
            ("limits", *limits != new.limits),
            ("runtime", *runtime != new.runtime || *runtime_values != new.runtime_values),
            ("xds", *control_plane != new.control_plane),
        ];
        sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// The control plane, which is told the name of this process: its own, or else that among others of its kind.
fn named(xds: &ControlPlane, config: &Config) -> ControlPlane {
    let mut found = xds.clone();
    if found.id.is_none() {
        let span = found.cluster.span;
        found.id = own_name(config).map(|value| Spanned { value, span });
    }
    found
}

/// The values in a runtime file.
fn values_of(file: &FilePath, path: &Spanned<PathBuf>, diags: &mut Diags) -> RuntimeMap {
    let at = Path::ROOT.key("runtime");
    let at = at.key("file");
    match std::fs::read_to_string(file) {
        Ok(text) => match parse(&text) {
            Ok(values) => return values,
            Err((line, message)) => {
                let message = format!("{}:{line}: {message}", file.display());
                diags.error("bad-file", path.span, at, message);
            }
        },
        Err(error) => {
            let message = format!("cannot read {}: {error}", file.display());
            diags
                .error("bad-file", path.span, at, message)
                .help("create it, even if empty; it is read again when it changes");
        }
    }
    RuntimeMap::new()
}

/// Every operator that any record supports, those of connections first.
pub fn operators() -> Vec<&'static Operator> {
    let own = sluice_l7::record::OPERATORS;
    let new = own.iter().filter(|own| !record::operators().any(|of| of.name == own.name));
    // One that parses its argument knows more of a request.
    let parsing = |of: &str| own.iter().copied().find(|own| own.name == of && own.parse.is_some());
    let mut all: Vec<&'static Operator> =
        record::operators().map(|of| parsing(of.name).unwrap_or(of)).chain(new.copied()).collect();
    let of_health = HEALTH_OPERATORS.iter().copied();
    let new = of_health.filter(|of| !all.iter().any(|known| known.name == of.name));
    all.extend(new.collect::<Vec<_>>());
    all
}

/// Every operator with the records that support it: `connection` (and flows), `request` and `health`, or `all`.
pub fn operators_of() -> impl Iterator<Item = (&'static Operator, String)> {
    operators().into_iter().map(|operator| {
        let same = |of: &Operator| of.name == operator.name;
        let requests = sluice_l7::record::OPERATORS;
        let kinds = [
            ("connection", record::operators().any(same)),
            ("request", requests.iter().copied().any(same)),
            ("health", HEALTH_OPERATORS.iter().copied().any(same)),
        ];
        let known: Vec<&str> =
            kinds.iter().filter(|(_, knows)| *knows).map(|(kind, _)| *kind).collect();
        let all = known.len() == kinds.len();
        (operator, if all { "all".to_owned() } else { known.join(", ") })
    })
}

fn sinks(
    logs: &Members<AccessLog>,
    folder: &FilePath,
    limits: &LimitValues,
    diags: &mut Diags,
) -> Vec<SinkPlan> {
    let at = Path::ROOT.key("access_log");
    let mut sinks = Vec::new();
    for (index, log) in logs.places() {
        let at = at.index(index);
        sinks.extend(sink(log, folder, limits, &at, diags));
    }
    sinks
}

/// The line that `format: text` writes.
fn default_text(kinds: &[LogKind]) -> &'static str {
    match kinds {
        [LogKind::Request] => sluice_l7::record::DEFAULT_TEXT,
        [LogKind::Health] => HEALTH_TEXT,
        _ => record::DEFAULT_TEXT,
    }
}

fn sink(
    log: &Spanned<AccessLog>,
    folder: &FilePath,
    limits: &LimitValues,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<SinkPlan> {
    let operators = operators();
    let template = match &log.format.value {
        LogFormat::Json(fields) => {
            let fields = fields.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            Template::fields(fields, &operators)
        }
        LogFormat::Line(line) => match line.as_str() {
            "json" => Template::json(&operators)
                .with(sluice_l7::record::DEFAULT_HEADERS.iter().copied(), &operators),
            "text" => Template::text(default_text(&log.kinds), &operators),
            text if text.contains('%') => Template::text(text, &operators),
            text => Err(format!("expected json, text or a line with %OPERATOR%s, not `{text}`")),
        },
    };
    let at_format = at.key("format");
    let template = template
        .map_err(|message| diags.error("bad-value", log.format.span, at_format, message))
        .ok();
    let kinds = log.kinds.iter().map(|kind| match kind {
        LogKind::Connection => RecordKind::Connection.bit(),
        LogKind::Flow => RecordKind::Flow.bit(),
        LogKind::Request => RecordKind::Request.bit(),
        LogKind::Health => RecordKind::Health.bit(),
    });
    let kinds = kinds.reduce(|a, b| a | b).unwrap_or(!RecordKind::Health.bit());
    let target = match &log.sink.value {
        LogSink::Text(text) if text == "stdout" => SinkTarget::Stdout,
        LogSink::Text(text) if text == "stderr" => SinkTarget::Stderr,
        LogSink::Text(path) => SinkTarget::File(folder.join(path)),
        LogSink::Library(library) => {
            let queued = limits.0.size(Limit::LoggerQueue);
            let at = at.key("sink");
            SinkTarget::Other(sluice_module::logger(
                library,
                folder,
                queued,
                &at.key("module"),
                diags,
            )?)
        }
    };
    if let SinkTarget::File(path) = &target
        && path.is_dir()
    {
        let message = format!("{} is a folder", path.display());
        diags.error("bad-file", log.sink.span, at.key("sink"), message).help("name a file in it");
        return None;
    }
    if let SinkTarget::File(path) = &target
        && !path.parent().is_some_and(FilePath::is_dir)
    {
        diags
            .error(
                "bad-file",
                log.sink.span,
                at.key("sink"),
                format!("the folder of {} does not exist", path.display()),
            )
            .help("create the folder, or use `stdout` or `stderr`");
        return None;
    }
    Some(SinkPlan { target, kinds, template: template? })
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
