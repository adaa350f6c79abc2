//! The interpreter: LuaJIT, or Lua 5.4 where LuaJIT has no port.
//!
//! Owns: what differs between the two. Refuses to know: scripts. Keeps: a script that uses what both have does the same in
//! both.

use mlua::StdLib;
use mlua::state::GcIncParams;

#[cfg(all(feature = "luajit", feature = "lua54"))]
compile_error!(
    "`luajit` and `lua54` exclude each other: with `lua54`, turn the default features off"
);

#[cfg(not(any(feature = "luajit", feature = "lua54")))]
compile_error!("an interpreter is missing: the feature `luajit` or `lua54`");

/// Whether the interpreter can compile scripts to machine code.
pub(crate) const COMPILES: bool = cfg!(feature = "luajit");

/// Whether each coroutine has a hook of its own, which it gets from the one that creates it.
pub(crate) const HOOK_PER_COROUTINE: bool = cfg!(feature = "lua54");

/// A chunk that runs before the sandbox.
pub(crate) const BEFORE_SANDBOX: &str =
    if cfg!(feature = "lua54") { include_str!("lua54.lua") } else { "" };

/// The libraries that scripts have. Without its own, the compiler stays off.
pub(crate) fn libraries(compiles: bool) -> StdLib {
    StdLib::TABLE | StdLib::STRING | StdLib::MATH | own_libraries(compiles)
}

#[cfg(feature = "luajit")]
fn own_libraries(compiles: bool) -> StdLib {
    StdLib::BIT | if compiles { StdLib::JIT } else { StdLib::NONE }
}

/// `bit` is in the chunk; coroutines are a library of their own.
#[cfg(not(feature = "luajit"))]
fn own_libraries(_: bool) -> StdLib {
    StdLib::COROUTINE
}

/// How fast memory is collected. LuaJIT does not collect when memory runs out: it must not fall behind large strings.
pub(crate) fn pace() -> GcIncParams {
    GcIncParams::default().pause(150).step_multiplier(if COMPILES { 100_000 } else { 400 })
}
