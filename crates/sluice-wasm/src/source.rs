//! What the settings of filters and loggers have in common: where a module comes from, and what its instances are made with.
//!
//! Owns: how a module gets there when a configuration is checked, and what is refused then. Refuses to know: which filter it is for.
//! Keeps: a guest was started and has accepted its configuration before it is in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use sluice_core::settings::Size;
use sluice_core::{Name, Span, Spanned};
use sluice_l7::filters::CheckContext;
use sluice_upstream::Cluster;

use crate::in_use::ModuleSource;
use crate::limits::GuestLimits;
use crate::module::{CompiledModule, FileModule, sha256_of};
use crate::plugin::{PluginFacts, VmSetup};
use crate::vm::Vm;

/// Where a module comes from, as it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModuleFrom<'a> {
    pub(crate) file: Option<&'a Spanned<PathBuf>>,
    pub(crate) inline: Option<&'a str>,
    pub(crate) sha256: Option<&'a str>,
}

/// Checks processor time, restart and memory.
pub(crate) fn check_bounds(
    (cpu, restart, memory): (Option<Duration>, Option<Duration>, Option<Size>),
    span: Span,
    context: &mut CheckContext<'_>,
) -> Option<()> {
    let problems = [
        (cpu.is_some_and(|cpu| cpu.is_zero()), "cpu", "must not be zero"),
        (restart.is_some_and(|of| of.is_zero()), "restart", "must not be zero"),
        (memory.is_some_and(|of| of.0 < 64 << 10), "memory", "must be at least 64KiB"),
    ];
    for (_, key, problem) in problems.iter().filter(|(wrong, ..)| *wrong) {
        let message = format!("`{key}` {problem}");
        context.diags.error("bad-value", span, context.at.key(key), message);
    }
    (!problems.iter().any(|(wrong, ..)| *wrong)).then_some(())
}

/// The bounds of an instance.
pub(crate) fn limits(
    cpu: Option<Duration>,
    memory: Option<Size>,
    restart: Option<Duration>,
) -> GuestLimits {
    let default = GuestLimits::default();
    let size = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    GuestLimits {
        cpu: cpu.unwrap_or(default.cpu),
        memory: memory.map_or(default.memory, size),
        restart: restart.unwrap_or(default.restart),
    }
}

/// The clusters of these names.
pub(crate) fn clusters(
    names: &[Spanned<Name>],
    context: &mut CheckContext<'_>,
) -> Option<Vec<Arc<Cluster>>> {
    let each: Vec<_> = names.iter().map(|name| context.cluster(name, "clusters")).collect();
    each.into_iter().collect()
}

/// Starts the guest once, if its module is there.
pub(crate) fn start_once(
    source: &ModuleSource,
    setup: &VmSetup,
    plugin: &PluginFacts,
    span: Span,
    context: &mut CheckContext<'_>,
) -> Option<()> {
    let Some(module) = source.current() else { return Some(()) };
    let started = Vm::start(&module, &Arc::new(setup.clone()), None);
    let done = started.and_then(|vm| vm.root(&Arc::new(plugin.clone())).map(drop));
    let Err(failure) = done else { return Some(()) };
    let message = format!("the guest does not start: {}", failure.message);
    context
        .diags
        .error("bad-module", span, *context.at, message)
        .help("correct the guest, or its `config`; what it wrote to the log says more");
    None
}

/// The module and the name of its file; `Some(None)` if the settings name none, and need not (`required`).
#[allow(clippy::option_option, reason = "whether it is right, and whether there is one")]
pub(crate) fn module(
    from: &ModuleFrom<'_>,
    required: bool,
    span: Span,
    context: &mut CheckContext<'_>,
) -> Option<Option<(String, ModuleSource)>> {
    let ModuleFrom { file, inline, sha256 } = *from;
    let not_one = |none, context: &mut CheckContext<'_>| {
        let message = "the module comes from exactly one of `file` and `inline`";
        context.not_exactly_one(span, none, message);
        None
    };
    if file.is_some() && inline.is_some() {
        return not_one(false, context);
    }
    let name = file.and_then(|path| path.value.file_stem());
    let name = name.map_or_else(|| "inline".into(), |of| of.to_string_lossy().into_owned());
    let (key, content) = match (file, inline) {
        (None, None) => {
            without(sha256, span, context)?;
            return if required { not_one(true, context) } else { Some(None) };
        }
        (Some(path), _) if sha256.is_none() => {
            let file = context.file::<FileModule>(path, "file")?;
            return Some(Some((name, ModuleSource::File(file))));
        }
        (Some(path), _) => match std::fs::read(context.path(&path.value, "file")?) {
            Ok(content) => ("file", content),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.value.display());
                context.diags.error("bad-file", path.span, context.at.key("file"), message);
                return None;
            }
        },
        (None, Some(inline)) => {
            let text: Vec<u8> = inline.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            match BASE64.decode(&text) {
                Ok(content) => ("inline", content),
                Err(error) => {
                    let message = format!("this is no base64: {error}");
                    context.diags.error("bad-value", span, context.at.key("inline"), message);
                    return None;
                }
            }
        }
    };
    let found = sha256_of(&content);
    if let Some(wanted) = sha256
        && !wanted.eq_ignore_ascii_case(&found)
    {
        let message = format!("the SHA-256 of the module is {found}");
        let finding = context.diags.error("bad-value", span, context.at.key("sha256"), message);
        finding.help("another module was expected; find out why it changed before you change this");
        return None;
    }
    match CompiledModule::of(&content) {
        Ok(module) => Some(Some((name, ModuleSource::Fixed(module)))),
        Err(problem) => {
            let message = format!("cannot use this module: {problem}");
            context.diags.error("bad-module", span, context.at.key(key), message);
            None
        }
    }
}

/// Settings that name no module name nothing about one.
fn without(sha256: Option<&str>, span: Span, context: &mut CheckContext<'_>) -> Option<()> {
    if sha256.is_some() {
        let message = "`sha256` is that of `file` or `inline`, which is missing";
        context.diags.error("missing-field", span, context.at.key("sha256"), message);
        return None;
    }
    Some(())
}
