//! Scripts, and the Lua states that run them on a worker.
//!
//! Owns: where the text of a script comes from, and which state belongs to it. Refuses to know: requests. Keeps: a script
//! was run once before it is in force, so that one that cannot be loaded is an error of the configuration, and a file that
//! cannot be loaded leaves the last one that could in use; requests in a state that is replaced end in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use sluice_io::WorkerCx;
use sluice_l7::filters::{Content, Fetched};

use crate::failure::ScriptFailure;
use crate::kind::ScriptKind;
use crate::limits::ScriptLimits;
use crate::state::LuaState;

/// The text of a script that can be loaded.
#[derive(Debug)]
pub(crate) struct ScriptText {
    text: Box<[u8]>,
    /// Whether it has the second function of its kind.
    pub(crate) has_second: bool,
}

/// As [`ScriptText`], for connections.
#[derive(Debug)]
pub(crate) struct ConnScriptText(Arc<ScriptText>);

impl ScriptText {
    /// Checks a text by loading it.
    ///
    /// # Errors
    /// What is wrong, with the line.
    pub(crate) fn check(
        kind: ScriptKind,
        name: &str,
        text: &[u8],
        limits: ScriptLimits,
    ) -> Result<Self, String> {
        let loaded = LuaState::load(kind, name, text, limits);
        let loaded = loaded.map_err(|failure: ScriptFailure| failure.message)?;
        Ok(Self { text: text.into(), has_second: loaded.has_hook(true) })
    }
}

impl Content for ScriptText {
    fn parse(content: &[u8]) -> Result<Self, String> {
        Self::check(ScriptKind::Requests, "line", content, ScriptLimits::default())
    }
}

impl Content for ConnScriptText {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let limits = ScriptLimits::default();
        let text = ScriptText::check(ScriptKind::Connections, "line", content, limits)?;
        Ok(Self(Arc::new(text)))
    }
}

/// Where a text comes from.
#[derive(Clone, Debug)]
pub(crate) enum ScriptSource {
    Inline(Arc<ScriptText>),
    File(Fetched<ScriptText>),
    ConnFile(Fetched<ConnScriptText>),
}

/// A script of a configuration.
#[derive(Debug)]
pub(crate) struct LuaScript {
    /// The file, or the name in the settings; errors begin with it.
    pub(crate) name: String,
    pub(crate) kind: ScriptKind,
    pub(crate) source: ScriptSource,
}

impl LuaScript {
    /// Its text, as it is now.
    pub(crate) fn text(&self) -> Option<Arc<ScriptText>> {
        match &self.source {
            ScriptSource::Inline(text) => Some(Arc::clone(text)),
            ScriptSource::File(file) => file.current(),
            ScriptSource::ConnFile(file) => file.current().map(|of| Arc::clone(&of.0)),
        }
    }

    /// Whether it seems to change the path or host of requests.
    pub(crate) fn edits_target(&self) -> bool {
        let Some(text) = self.text() else { return false };
        let names: [&[u8]; 4] = [b"\":path\"", b"':path'", b"\":authority\"", b"':authority'"];
        names.iter().any(|name| {
            memchr::memmem::find_iter(&text.text, name).any(|at| {
                let before = text.text[..at].trim_ascii_end();
                let before = before.strip_suffix(b"(").unwrap_or(before).trim_ascii_end();
                [&b":replace"[..], b":add"].iter().any(|method| before.ends_with(method))
            })
        })
    }
}

/// The states of a worker, by script and limits.
#[derive(Debug, Default)]
pub(crate) struct States(RefCell<HashMap<(usize, ScriptLimits), StateEntry>>);

#[derive(Debug)]
struct StateEntry {
    script: Weak<LuaScript>,
    text: Arc<ScriptText>,
    state: Result<Rc<LuaState>, ScriptFailure>,
}

impl States {
    /// The states of `worker`.
    pub(crate) fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(Self::default)
    }

    /// The state in which requests of a script begin; `replaced` is told why if it is another than before.
    pub(crate) fn state(
        &self,
        script: &Arc<LuaScript>,
        limits: ScriptLimits,
        replaced: impl FnOnce(&'static str),
    ) -> Result<Rc<LuaState>, ScriptFailure> {
        let key = (Arc::as_ptr(script) as usize, limits);
        let text = script.text().ok_or_else(|| {
            ScriptFailure::new(crate::failure::FailureKind::Error, "the script was not read yet")
        })?;
        let mut states = self.0.borrow_mut();
        let known = states.get(&key).filter(|entry| entry.script.strong_count() > 0);
        if let Some(entry) = known {
            let state = entry.state.as_ref();
            match state.map_or(None, |state| state.retired()) {
                None if Arc::ptr_eq(&entry.text, &text) => {
                    return state.cloned().map_err(Clone::clone);
                }
                None => replaced("changed"),
                Some(why) => replaced(why),
            }
        }
        let state = LuaState::load(script.kind, &script.name, &text.text, limits).map(Rc::new);
        states.retain(|_, entry| entry.script.strong_count() > 0);
        let entry = StateEntry { script: Arc::downgrade(script), text, state: state.clone() };
        states.insert(key, entry);
        state
    }
}
