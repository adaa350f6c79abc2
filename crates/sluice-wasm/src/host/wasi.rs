//! What guests take from WASI, the interface that their languages' libraries are made for.
//!
//! Owns: standard streams, which are lines in the log; the clock, randomness and environment. Refuses to know: files, sockets and
//! processes, which there are not. Keeps: a guest reaches nothing of the machine.
//!
//! Source: WASI preview 1, `wasi_snapshot_preview1.witx`.

use std::fmt;

use wasmtime::{Caller, ExternType, Linker, Module, Val, ValType};

use super::{log, time};
use crate::abi::Status;
use crate::guest::{Guest, HostFault, HostResult};
use crate::limits::LOG_LINE_BYTES;
use crate::state::HostState;

/// The names that the interface has had.
const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVALID: i32 = 28;
const NO_FUNCTION: i32 = 52;

/// The most pieces that a guest writes at once.
const PIECES: u32 = 1024;

/// A guest ended itself.
#[derive(Debug)]
struct GuestExit(i32);

impl fmt::Display for GuestExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it ended itself with status {}", self.0)
    }
}

impl std::error::Error for GuestExit {}

fn settle(done: HostResult) -> wasmtime::Result<i32> {
    match done {
        Ok(()) => Ok(0),
        Err(HostFault::Status(Status::InvalidMemoryAccess)) => Ok(FAULT),
        Err(HostFault::Status(Status::NotFound)) => Ok(BADF),
        Err(HostFault::Status(_)) => Ok(INVALID),
        Err(HostFault::Trap(error)) => Err(error),
    }
}

/// Adds the functions that do something.
pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    type Called<'a> = Caller<'a, HostState>;
    // C++ tells when its memory grew.
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_: i32| {})?;
    for module in MODULES {
        linker.func_wrap(
            module,
            "fd_write",
            |mut of: Called<'_>, fd: u32, pieces: u32, count: u32, written_at: u32| {
                settle(write(&mut Guest(&mut of), fd, pieces, count, written_at))
            },
        )?;
        linker.func_wrap(
            module,
            "clock_time_get",
            |mut of: Called<'_>, id: u32, _precision: u64, time_at: u32| {
                let mut guest = Guest(&mut of);
                let known = time::is_clock(id).map_err(HostFault::Status);
                settle(known.and_then(|()| time::now(&mut guest, time_at)))
            },
        )?;
        linker.func_wrap(module, "random_get", |mut of: Called<'_>, at: u32, length: u32| {
            settle(random(&mut Guest(&mut of), at, length))
        })?;
        linker.func_wrap(
            module,
            "environ_sizes_get",
            |mut of: Called<'_>, count_at: u32, bytes_at: u32| {
                settle(environment_sizes(&mut Guest(&mut of), count_at, bytes_at))
            },
        )?;
        linker.func_wrap(
            module,
            "environ_get",
            |mut of: Called<'_>, places: u32, texts: u32| {
                settle(environment(&mut Guest(&mut of), places, texts))
            },
        )?;
        linker.func_wrap(
            module,
            "args_sizes_get",
            |mut of: Called<'_>, count_at: u32, bytes_at: u32| {
                let mut guest = Guest(&mut of);
                let done = guest.write_u32(count_at, 0);
                settle(done.and_then(|()| guest.write_u32(bytes_at, 0)))
            },
        )?;
        linker.func_wrap(module, "args_get", |_: i32, _: i32| 0_i32)?;
        linker.func_wrap(module, "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(GuestExit(code)))
        })?;
    }
    Ok(())
}

/// Adds the other functions of WASI that a module imports; each returns that there is no such function.
pub(crate) fn link_absent(linker: &mut Linker<HostState>, module: &Module) -> wasmtime::Result<()> {
    let of_link = ["fd_write", "clock_time_get", "random_get", "environ_sizes_get", "environ_get"];
    let more = ["args_sizes_get", "args_get", "proc_exit"];
    let mut done: Vec<(String, String)> = Vec::new();
    for import in module.imports() {
        let (of, name) = (import.module(), import.name());
        let known = of_link.contains(&name) || more.contains(&name);
        let ExternType::Func(form) = import.ty() else { continue };
        let key = (of.to_owned(), name.to_owned());
        let is_plain = form.results().len() == 1
            && form.results().all(|result| matches!(result, ValType::I32));
        if !MODULES.contains(&of) || known || !is_plain || done.contains(&key) {
            continue;
        }
        let status = if name.starts_with("fd_") { BADF } else { NO_FUNCTION };
        linker.func_new(of, name, form, move |_, _, results| {
            if let Some(result) = results.first_mut() {
                *result = Val::I32(status);
            }
            Ok(())
        })?;
        done.push(key);
    }
    Ok(())
}

fn write(
    guest: &mut Guest<'_, '_>,
    fd: u32,
    pieces: u32,
    count: u32,
    written_at: u32,
) -> HostResult {
    let level = match fd {
        1 => 2,
        2 => 4,
        _ => return Err(Status::NotFound.into()),
    };
    if count > PIECES {
        return Err(Status::BadArgument.into());
    }
    let mut written = 0_u32;
    for index in 0..count {
        let at = pieces.checked_add(index * 8).ok_or(Status::InvalidMemoryAccess)?;
        let piece = guest.bytes(at, 8)?;
        let number = |from: usize| {
            piece[from..from + 4].iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
        };
        let (place, length) = (number(0), number(4));
        let text = guest.bytes(place, length)?;
        let text = text[..text.len().min(LOG_LINE_BYTES)].to_vec();
        guest.state_mut().written.extend_from_slice(&text);
        written = written.saturating_add(length);
    }
    // Lines are written as a whole; what is longer than one may be is cut.
    let state = guest.state_mut();
    while let Some(end) = state.written.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = state.written.drain(..=end).collect();
        log::write(state, level, String::from_utf8_lossy(&line).trim_end());
    }
    if state.written.len() > LOG_LINE_BYTES {
        let line = std::mem::take(&mut state.written);
        log::write(state, level, &String::from_utf8_lossy(&line));
    }
    guest.write_u32(written_at, written)
}

fn random(guest: &mut Guest<'_, '_>, at: u32, length: u32) -> HostResult {
    // The place is checked before so much is made.
    let length = guest.bytes(at, length)?.len();
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Status::InternalFailure)?;
    guest.write(at, &bytes)
}

fn environment_sizes(guest: &mut Guest<'_, '_>, count_at: u32, bytes_at: u32) -> HostResult {
    let environment = &guest.state().setup.environment;
    let bytes: usize = environment.iter().map(|text| text.len() + 1).sum();
    let number = |of: usize| u32::try_from(of).map_err(|_| Status::InternalFailure);
    let (count, bytes) = (number(environment.len())?, number(bytes)?);
    guest.write_u32(count_at, count)?;
    guest.write_u32(bytes_at, bytes)
}

fn environment(guest: &mut Guest<'_, '_>, places: u32, texts: u32) -> HostResult {
    let (mut place, mut text) = (places, texts);
    let setup = std::sync::Arc::clone(&guest.state().setup);
    for variable in &setup.environment {
        guest.write_u32(place, text)?;
        guest.write(text, variable.as_bytes())?;
        let length = u32::try_from(variable.len()).map_err(|_| Status::InternalFailure)?;
        let end = text.checked_add(length).ok_or(Status::InvalidMemoryAccess)?;
        guest.write(end, &[0])?;
        place = place.checked_add(4).ok_or(Status::InvalidMemoryAccess)?;
        text = end.checked_add(1).ok_or(Status::InvalidMemoryAccess)?;
    }
    Ok(())
}
