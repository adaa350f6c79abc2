//! The settings of `lua`, and how those of a rule join those around it.
//!
//! Owns: what is written, what of it can be used, and the defaults. Refuses to know: requests, and how scripts run. Keeps: a
//! setting that a rule leaves out is that of the settings around it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::{Named, Size};
use sluice_core::values::ValueDef;
use sluice_core::{Name, Node, Plain, Setting, Shape, Span, Spanned};
use sluice_io::WorkerCx;
use sluice_l7::filters::{CheckContext, FilterFactory, HttpFilter, HttpFilterPlan, long_form_of};
use sluice_telemetry::metrics::SeriesLabels;
use sluice_upstream::Cluster;

use crate::exposed::{Exposed, FreeValues};
use crate::filter::LuaFilter;
use crate::in_use::{LuaUse, OnScriptError};
use crate::kind::ScriptKind;
use crate::limits::ScriptLimits;
use crate::ops;
use crate::script::{LuaScript, ScriptSource, ScriptText};

sluice_core::section! {
    /// Runs scripts in Lua on requests and responses. A rule or virtual host may run another script, and leaves out what
    /// the settings around it say.
    pub struct Lua {
        /// The script.
        pub source: Option<String>,
        /// The file of the script, read again when it changes.
        pub file: Option<Spanned<PathBuf>>,
        /// Scripts by name, for rules.
        pub sources: Named<NamedScript>,
        /// The one of `sources` that runs, in place of `source` or `file`.
        pub run: Option<Name>,
        /// The clusters that scripts may call (`httpCall`).
        pub clusters: Option<Vec<Spanned<Name>>>,
        /// Values that scripts get from `filterContext()`.
        pub context: Option<FreeValues>,
        /// Values that scripts get from `metadata()`.
        pub metadata: Option<FreeValues>,
        /// The largest body that `body()` holds: a request with a larger one gets 413, a larger response becomes 500. 1MiB if
        /// omitted.
        pub body_max: Option<Size>,
        /// The number of instructions that a script may run before it waits or ends; 1000000 if omitted.
        pub instructions: Option<u64>,
        /// The processor time that it may use meanwhile; 100ms if omitted.
        pub cpu: Option<Duration>,
        /// The memory of the script on each worker, for all requests, from 1MiB; 16MiB if omitted.
        pub memory: Option<Size>,
        /// What becomes of a request whose script fails; `fail` if omitted.
        pub on_error: Option<OnScriptError>,
        /// Whether the route is selected again if a script changes headers of the request; true if omitted.
        pub reroute: Option<bool>,
        /// Whether scripts are compiled to machine code. `instructions` and `cpu` then hold nothing up: only for scripts
        /// that are trusted to end. False if omitted.
        pub jit: Option<bool>,
    }
}

sluice_core::section! {
    /// A script that rules run by its name.
    pub struct NamedScript {
        /// The script.
        pub source: Option<String>,
        /// The file of the script, read again when it changes.
        pub file: Option<Spanned<PathBuf>>,
    }
}

/// The filter `lua`.
#[derive(Clone, Copy, Debug)]
pub struct LuaFactory;

impl FilterFactory<dyn HttpFilterPlan> for LuaFactory {
    fn name(&self) -> &'static str {
        "lua"
    }

    fn help(&self) -> &'static str {
        "Runs scripts in Lua on requests and responses."
    }

    fn shape(&self) -> Shape {
        Lua::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<Lua>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        ops::VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let lua: Lua = context.bind(settings)?;
        Some(Arc::new(LuaPlan::new(lua, settings.span, context)?))
    }
}

/// Which script runs.
#[derive(Clone, Debug)]
enum ChosenScript {
    Own(Arc<LuaScript>),
    Named(Name),
}

/// The settings of one place, without defaults; then, those of several.
#[derive(Clone, Debug)]
struct LuaPlan {
    chosen: Option<ChosenScript>,
    sources: BTreeMap<Name, Arc<LuaScript>>,
    clusters: Option<Vec<Arc<Cluster>>>,
    context: Option<FreeValues>,
    metadata: Option<FreeValues>,
    body_max: Option<Size>,
    instructions: Option<u64>,
    cpu: Option<Duration>,
    memory: Option<Size>,
    on_error: Option<OnScriptError>,
    reroute: Option<bool>,
    jit: Option<bool>,
}

impl LuaPlan {
    fn new(lua: Lua, span: Span, context: &mut CheckContext<'_>) -> Option<Self> {
        if !are_limits_usable(&lua, span, context) {
            return None;
        }
        let limits = limits(lua.instructions, lua.cpu, lua.memory, lua.jit);
        let sources = sources(&lua, limits, context)?;
        let given = [lua.source.is_some(), lua.file.is_some(), lua.run.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            let message = "a script comes from one of `source`, `file` and `run`";
            context.not_exactly_one(span, false, message);
            return None;
        }
        let chosen = match &lua.run {
            Some(name) => Some(ChosenScript::Named(name.clone())),
            None => script(lua.source.as_deref(), lua.file.as_ref(), "inline", limits, context)?
                .map(ChosenScript::Own),
        };
        if chosen.is_none() && sources.is_empty() && is_on_chain(context) {
            let message = "there is no script: `source`, `file` or `sources` is missing";
            context.not_exactly_one(span, true, message);
            return None;
        }
        if let Some(ChosenScript::Named(name)) = &chosen
            && !sources.contains_key(name)
            && is_on_chain(context)
        {
            let message = format!("there is no `{name}` in `sources`");
            context.diags.error("unknown-name", span, context.at.key("run"), message);
            return None;
        }
        let clusters = match &lua.clusters {
            None => None,
            Some(names) => {
                let each = names.iter().map(|name| context.cluster(name, "clusters"));
                Some(each.collect::<Option<Vec<_>>>()?)
            }
        };
        Some(Self {
            chosen,
            sources,
            clusters,
            context: lua.context,
            metadata: lua.metadata,
            body_max: lua.body_max,
            instructions: lua.instructions,
            cpu: lua.cpu,
            memory: lua.memory,
            on_error: lua.on_error,
            reroute: lua.reroute,
            jit: lua.jit,
        })
    }

    fn script(&self) -> Option<Result<Arc<LuaScript>, String>> {
        Some(match self.chosen.as_ref()? {
            ChosenScript::Own(script) => Ok(Arc::clone(script)),
            ChosenScript::Named(name) => self
                .sources
                .get(name)
                .cloned()
                .ok_or_else(|| format!("the settings around the rule have no script `{name}`")),
        })
    }
}

fn is_on_chain(context: &CheckContext<'_>) -> bool {
    !matches!(context.owner, sluice_l7::filters::FilterOwner::Routes(_))
}

pub(crate) fn limits(
    instructions: Option<u64>,
    cpu: Option<Duration>,
    memory: Option<Size>,
    jit: Option<bool>,
) -> ScriptLimits {
    let default = ScriptLimits::default();
    ScriptLimits {
        instructions: instructions.unwrap_or(default.instructions),
        cpu: cpu.unwrap_or(default.cpu),
        memory: memory.map_or(default.memory, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
        jit: jit.unwrap_or(default.jit),
    }
}

/// Whether bounds leave room for any script; reports those that do not.
pub(crate) fn are_bounds_usable(
    (instructions, cpu, memory): (Option<u64>, Option<Duration>, Option<Size>),
    span: Span,
    context: &mut CheckContext<'_>,
) -> bool {
    let problems = [
        (instructions.is_some_and(|count| count < 1000), "instructions", "must be at least 1000"),
        (cpu.is_some_and(|cpu| cpu.is_zero()), "cpu", "must not be zero"),
        (memory.is_some_and(|size| size.0 < 1 << 20), "memory", "must be at least 1MiB"),
    ];
    for (_, key, problem) in problems.iter().filter(|(wrong, ..)| *wrong) {
        let message = format!("`{key}` {problem}");
        context.diags.error("bad-value", span, context.at.key(key), message);
    }
    problems.iter().all(|(wrong, ..)| !wrong)
}

fn are_limits_usable(lua: &Lua, span: Span, context: &mut CheckContext<'_>) -> bool {
    let bounds = (lua.instructions, lua.cpu, lua.memory);
    if lua.jit == Some(true) && (lua.instructions.is_some() || lua.cpu.is_some()) {
        let message = "`instructions` and `cpu` hold up no script that is compiled";
        let finding = context.diags.error("useless-setting", span, context.at.key("jit"), message);
        finding.help("remove them, or `jit`");
        return false;
    }
    are_bounds_usable(bounds, span, context)
}

fn sources(
    lua: &Lua,
    limits: ScriptLimits,
    context: &mut CheckContext<'_>,
) -> Option<BTreeMap<Name, Arc<LuaScript>>> {
    let at = context.at.key("sources");
    let mut usable = true;
    let mut all = BTreeMap::new();
    for (name, Spanned { value, span }) in lua.sources.iter() {
        let here = at.key(name);
        let mut context = context.within(&here);
        if value.source.is_some() == value.file.is_some() {
            let message = "a script needs exactly one of `source` and `file`";
            context.not_exactly_one(*span, value.source.is_none(), message);
            usable = false;
            continue;
        }
        match script(value.source.as_deref(), value.file.as_ref(), name, limits, &mut context) {
            Some(Some(script)) => drop(all.insert(name.clone(), script)),
            _ => usable = false,
        }
    }
    usable.then_some(all)
}

/// The script of `source` or `file`, if there is one; `None` if it cannot be used.
#[allow(clippy::option_option, reason = "a missing script is no error here")]
fn script(
    source: Option<&str>,
    file: Option<&Spanned<PathBuf>>,
    name: &str,
    limits: ScriptLimits,
    context: &mut CheckContext<'_>,
) -> Option<Option<Arc<LuaScript>>> {
    if let Some(path) = file {
        let name = path.value.file_name().map_or_else(|| name.into(), |of| of.to_string_lossy());
        let source = ScriptSource::File(context.file::<ScriptText>(path, "file")?);
        let kind = ScriptKind::Requests;
        return Some(Some(Arc::new(LuaScript { name: name.into_owned(), kind, source })));
    }
    let Some(text) = source else { return Some(None) };
    let kind = ScriptKind::Requests;
    match ScriptText::check(kind, name, text.as_bytes(), limits) {
        Ok(text) => {
            let source = ScriptSource::Inline(Arc::new(text));
            Some(Some(Arc::new(LuaScript { name: name.to_owned(), kind, source })))
        }
        Err(problem) => {
            let message = format!("cannot use this script: {problem}");
            context.diags.error("bad-script", None, context.at.key("source"), message);
            None
        }
    }
}

impl HttpFilterPlan for LuaPlan {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn std::any::Any = under;
        let under = under.downcast_ref::<Self>()?.clone();
        let mut sources = under.sources;
        sources.extend(self.sources.clone());
        let own = self.clone();
        Some(Arc::new(Self {
            chosen: own.chosen.or(under.chosen),
            sources,
            clusters: own.clusters.or(under.clusters),
            context: own.context.or(under.context),
            metadata: own.metadata.or(under.metadata),
            body_max: own.body_max.or(under.body_max),
            instructions: own.instructions.or(under.instructions),
            cpu: own.cpu.or(under.cpu),
            memory: own.memory.or(under.memory),
            on_error: own.on_error.or(under.on_error),
            reroute: own.reroute.or(under.reroute),
            jit: own.jit.or(under.jit),
        }))
    }

    fn edits_target(&self) -> bool {
        matches!(self.script(), Some(Ok(script)) if script.edits_target())
    }

    fn counts_in(&self, _: &SeriesLabels<'_>) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let of = self.clone();
        let script = self.script();
        let name = script.as_ref().and_then(|script| script.as_ref().ok()).map(|of| &*of.name);
        let exposed = Exposed {
            name: name.unwrap_or("?").to_owned(),
            clusters: of.clusters.unwrap_or_default(),
            context: of.context.unwrap_or_default(),
            metadata: of.metadata.unwrap_or_default(),
            reroute: of.reroute.unwrap_or(true),
        };
        let plan = LuaUse {
            script,
            exposed: Arc::new(exposed),
            body_max: of
                .body_max
                .map_or(1 << 20, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            limits: limits(of.instructions, of.cpu, of.memory, of.jit),
            on_error: of.on_error.unwrap_or(OnScriptError::Fail),
        };
        Rc::new(LuaFilter::new(plan, worker, owner))
    }
}
