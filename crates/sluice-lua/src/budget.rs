//! What a script may use of its worker before it waits or ends.
//!
//! Owns: the count of instructions, the processor time, and the hook that stops a script. Refuses to know: what the script
//! does. Keeps: once a budget is used up, every further instruction of the run fails, so that a script that catches the
//! error gets nothing done with it.
//!
//! LuaJIT calls the hook every [`STRIDE`] instructions of the interpreter, in whichever coroutine they are; functions in C
//! are one instruction each. Those whose work grows with their arguments are wrapped by the sandbox and charge for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use mlua::debug::Debug;
use mlua::{HookTriggers, Lua, VmState};
use sluice_sys::process::thread_cpu;

use crate::limits::ScriptLimits;

/// Instructions between two looks at the budget.
const STRIDE: u32 = 200;

/// The name of Sluice's own chunks.
pub(crate) const OWN_CHUNK: &str = "=[sluice]";

/// The budget of one state: of the run that is going on in it.
#[derive(Debug)]
pub(crate) struct ScriptBudget {
    /// Compiled code calls no hook.
    off: bool,
    instructions: u64,
    cpu: Duration,
    left: Cell<u64>,
    /// Processor time of the thread at the first look of this run: a short run never asks for it.
    began: Cell<Option<Duration>>,
    exhausted: RefCell<Option<UsedUp>>,
    /// From so much memory on, the place of the script is noted: when memory has run out, nobody can tell it.
    noted_from: usize,
    near: RefCell<Option<String>>,
    /// How often the hook is called.
    every: Cell<u32>,
}

/// What ran out, and where.
#[derive(Clone, Debug)]
pub(crate) struct UsedUp {
    pub(crate) what: String,
    /// File and line, as in `a.lua:12`; `?` outside of the script.
    pub(crate) place: String,
}

impl ScriptBudget {
    /// `off` bounds nothing but single patterns.
    pub(crate) fn new(limits: ScriptLimits) -> Rc<Self> {
        let ScriptLimits { instructions, cpu, memory, jit: off } = limits;
        let (left, began, exhausted, every, near) = Default::default();
        let noted_from = memory / 2;
        Rc::new(Self { off, instructions, cpu, left, began, exhausted, every, noted_from, near })
    }

    /// Begins a run.
    ///
    /// # Errors
    /// The hook cannot be set for lack of memory.
    pub(crate) fn begin(self: &Rc<Self>, lua: &Lua) -> mlua::Result<()> {
        self.left.set(self.instructions);
        self.began.set(None);
        self.exhausted.take();
        self.near.take();
        if self.off || self.every.get() == STRIDE { Ok(()) } else { self.watch(lua, STRIDE) }
    }

    /// Has the hook called every so many instructions.
    fn watch(self: &Rc<Self>, lua: &Lua, every: u32) -> mlua::Result<()> {
        let budget = Rc::clone(self);
        self.every.set(every);
        let triggers = HookTriggers::new().every_nth_instruction(every);
        lua.set_global_hook(triggers, move |lua, at| budget.look(lua, at, every))
    }

    /// Charges for work that is not done in instructions.
    pub(crate) fn charge(self: &Rc<Self>, lua: &Lua, amount: u64) -> mlua::Result<()> {
        if self.off {
            return Ok(());
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(amount));
        // The next instruction then fails.
        if amount >= left { self.watch(lua, 1) } else { Ok(()) }
    }

    /// What is left, for work that counts its own steps.
    pub(crate) fn left(&self) -> u64 {
        self.left.get()
    }

    /// What ran out in this run, if anything did.
    pub(crate) fn exhausted(&self) -> Option<UsedUp> {
        self.exhausted.borrow().clone()
    }

    /// Where the script was when much memory was in use, if it was seen there.
    pub(crate) fn near(&self) -> Option<String> {
        self.near.borrow().clone()
    }

    fn look(self: &Rc<Self>, lua: &Lua, at: &Debug<'_>, every: u32) -> mlua::Result<VmState> {
        let before = self.left.get();
        self.left.set(before.saturating_sub(u64::from(every)));
        if lua.used_memory() > self.noted_from {
            *self.near.borrow_mut() = place(at).or_else(|| script_place(lua));
        }
        if before > u64::from(every) && !self.is_late() && self.exhausted.borrow().is_none() {
            return Ok(VmState::Continue);
        }
        if self.exhausted.borrow().is_none() {
            let what = if self.left.get() == 0 {
                format!("{} instructions", self.instructions)
            } else {
                format!("{} ms of processor time", self.cpu.as_millis())
            };
            let place = place(at).or_else(|| script_place(lua)).unwrap_or_else(|| "?".into());
            *self.exhausted.borrow_mut() = Some(UsedUp { what, place });
        }
        if every > 1 {
            self.watch(lua, 1)?;
        }
        Err(mlua::Error::runtime("the script has used up its budget"))
    }

    fn is_late(&self) -> bool {
        let now = thread_cpu();
        match self.began.get() {
            Some(began) => now.saturating_sub(began) > self.cpu,
            None => {
                self.began.set(Some(now));
                false
            }
        }
    }
}

/// File and line of a frame, unless it is of Sluice or in C.
fn place(at: &Debug<'_>) -> Option<String> {
    let source = at.source();
    let own = source.source.as_deref() == Some(OWN_CHUNK) || source.what == "C";
    let line = at.current_line().filter(|_| !own)?;
    Some(format!("{}:{line}", source.short_src?))
}

/// File and line of the innermost frame of the script that is running.
pub(crate) fn script_place(lua: &Lua) -> Option<String> {
    const DEPTH: usize = 32;
    for level in 0..DEPTH {
        if let Some(place) = lua.inspect_stack(level, place)? {
            return Some(place);
        }
    }
    None
}
