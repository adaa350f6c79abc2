//! The settings of the connection filter `lua`.
//!
//! Owns: what is written, what of it can be used, and the defaults. Refuses to know: how scripts run. Keeps: whether the script
//! sees bytes is known when the configuration is checked, since only a relay has them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::Size;
use sluice_core::values::ValueDef;
use sluice_core::{Name, Node, Plain, Setting, Shape, Span, Spanned};
use sluice_io::ConnectionFilterPlan;
use sluice_l4::filters::{CheckContext, FilterFactory, long_form_of};

use super::plan::ConnLuaPlan;
use crate::connection_run;
use crate::exposed::FreeValues;
use crate::in_use::OnScriptError;
use crate::kind::ScriptKind;
use crate::limits::ScriptLimits;
use crate::script::{ConnScriptText, LuaScript, ScriptSource, ScriptText};
use crate::settings::{are_bounds_usable, limits};

/// The most counters of one filter.
const COUNTERS: usize = 64;

sluice_core::section! {
    /// Runs a script in Lua on connections: exactly one of `source` and `file`.
    pub struct ConnectionLua {
        /// The script.
        pub source: Option<String>,
        /// The file of the script, read again when it changes.
        pub file: Option<Spanned<PathBuf>>,
        /// Values that the script gets from `filterContext()`.
        pub context: Option<FreeValues>,
        /// The names that the script may count under (`count`); at most 64.
        pub counters: Vec<Name>,
        /// The number of instructions that a function may run; 1000000 if omitted.
        pub instructions: Option<u64>,
        /// The processor time that it may use; 100ms if omitted.
        pub cpu: Option<Duration>,
        /// The memory of the script on each worker, for all connections, from 1MiB; 16MiB if omitted.
        pub memory: Option<Size>,
        /// What becomes of a connection whose script fails: it is closed, or goes on without the script.
        pub on_error: OnScriptError = "fail",
    }
}

/// The connection filter `lua`.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLuaFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionLuaFactory {
    fn name(&self) -> &'static str {
        "lua"
    }

    fn help(&self) -> &'static str {
        "Runs a script in Lua on connections."
    }

    fn shape(&self) -> Shape {
        ConnectionLua::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionLua>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        connection_run::VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let lua: ConnectionLua = context.bind(settings)?;
        Some(Arc::new(plan(lua, settings.span, context)?))
    }
}

/// The plan of one use.
fn plan(lua: ConnectionLua, span: Span, context: &mut CheckContext<'_>) -> Option<ConnLuaPlan> {
    let bounds = (lua.instructions, lua.cpu, lua.memory);
    if !are_bounds_usable(bounds, span, context) {
        return None;
    }
    if lua.counters.len() > COUNTERS {
        let message = format!("there are more than {COUNTERS} counters");
        context.diags.error("bad-value", span, context.at.key("counters"), message);
        return None;
    }
    let limits = limits(lua.instructions, lua.cpu, lua.memory, None);
    let script = script(&lua, span, limits, context)?;
    Some(ConnLuaPlan {
        sees_bytes: script.text().is_some_and(|text| text.has_second),
        script: Arc::new(script),
        limits,
        context: Arc::new(lua.context.unwrap_or_default()),
        counters: lua.counters.into(),
        on_error: lua.on_error,
    })
}

fn script(
    lua: &ConnectionLua,
    span: Span,
    limits: ScriptLimits,
    context: &mut CheckContext<'_>,
) -> Option<LuaScript> {
    let kind = ScriptKind::Connections;
    match (&lua.source, &lua.file) {
        (None, Some(path)) => {
            let name = path.value.file_name().unwrap_or(path.value.as_os_str());
            let name = name.to_string_lossy().into_owned();
            let source = ScriptSource::ConnFile(context.file::<ConnScriptText>(path, "file")?);
            Some(LuaScript { name, kind, source })
        }
        (Some(text), None) => match ScriptText::check(kind, "inline", text.as_bytes(), limits) {
            Ok(text) => {
                let source = ScriptSource::Inline(Arc::new(text));
                Some(LuaScript { name: "inline".into(), kind, source })
            }
            Err(problem) => {
                let message = format!("cannot use this script: {problem}");
                context.diags.error("bad-script", None, context.at.key("source"), message);
                None
            }
        },
        (source, _) => {
            let message = "a script needs exactly one of `source` and `file`";
            context.not_exactly_one(span, source.is_none(), message);
            None
        }
    }
}
