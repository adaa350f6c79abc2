//! Loaded libraries: they are mapped here, and called here.
//!
//! Owns: the libraries of the process, their tables, and the objects that they make. Refuses to know: what a filter is.
//! Keeps: a library is never unmapped, since its threads and what it registered elsewhere may outlive every
//! configuration; the same file is loaded once; an object is freed once, and after everything that was made with it; what
//! a library passes is checked as far as that is possible.
//!
//! That a library keeps to the rules of `sluice_filter.h` cannot be checked. Safe code relies on it, as it relies on every
//! library that the program is linked with.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_abi::{
    AbiConfig, AbiRequest, AbiText, HookFn, INIT, InitFn, MAJOR, MINOR, ModuleTable, TableStart,
    result,
};

mod balancer;
pub mod call;
mod connection;
mod host;
pub mod mailbox;
mod record;
mod text;

pub use balancer::{BadPick, BalancerCall, EndpointFact, EndpointNumber, ModuleBalancer};
pub use call::{
    ConfigCall, ConnectionCall, HeaderPart, HostAnswer, HostRefusal, ModuleCall, RequestFact,
};
pub use connection::{ConnectionHook, DatagramHook, ModuleConnection};

/// The most bytes of a table. One that claims more is no table.
const TABLE_MAX: u32 = 64 * 1024;

/// The most bytes of the name of a library.
const NAME_MAX: usize = 256;

/// A loaded library.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    name: String,
    table: ModuleTable,
}

/// Why a library cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// It cannot be loaded; the words of the system.
    Load(String),
    /// It does not export the function that every library of Sluice has.
    NoInit,
    /// It refuses this version of the interface.
    Refused,
    /// It has another major version.
    Version(u16, u16),
    /// Its table cannot be one; why.
    Table(&'static str),
}

impl std::fmt::Display for ModuleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Load(problem) => f.write_str(problem),
            Self::NoInit => f.write_str(
                "it does not export `sluice_module_init`, as libraries for Sluice do (sluice_filter.h)",
            ),
            Self::Refused => write!(
                f,
                "it refuses version {MAJOR}.{MINOR} of the interface, which this Sluice has; build it for that version"
            ),
            Self::Version(major, minor) => write!(
                f,
                "it has version {major}.{minor} of the interface, and this Sluice has {MAJOR}.{MINOR}; build it for that version"
            ),
            Self::Table(problem) => write!(f, "its table of functions {problem}"),
        }
    }
}

impl std::error::Error for ModuleError {}

/// A file, by device, number and time of change: a file that replaces another is another.
type FileIdentity = (u64, u64, i64, i64);

/// The libraries of the process.
static LOADED: Mutex<Option<HashMap<FileIdentity, &'static Module>>> = Mutex::new(None);

impl Module {
    /// Loads a library, or returns it if it is loaded already. This runs code of the library.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn open(path: &Path) -> Result<&'static Self, ModuleError> {
        let of_system = |error: std::io::Error| ModuleError::Load(error.to_string());
        // With a slash in it, so that no other folder is searched.
        let path = path.canonicalize().map_err(of_system)?;
        let file = path.metadata().map_err(of_system)?;
        let identity = (file.dev(), file.ino(), file.mtime(), file.mtime_nsec());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        if let Some(module) = loaded.get(&identity) {
            return Ok(module);
        }
        let init = init_of(&path)?;
        // SAFETY: `sluice_module_init` has this type by the header; the table of the host is static. The black-box tests of
        // `modules` load libraries.
        let table = unsafe { init(&raw const host::HOST) };
        let module: &'static Self = Box::leak(Box::new(Self::with_table(path, table)?));
        loaded.insert(identity, module);
        Ok(module)
    }

    /// A library that is linked with the program, or part of it.
    ///
    /// # Errors
    /// It cannot be used.
    ///
    /// # Safety
    /// The function, and those of the table that it returns, keep to the rules of `sluice_filter.h`.
    pub unsafe fn linked(name: &str, init: InitFn) -> Result<&'static Self, ModuleError> {
        // SAFETY: by the promise of the caller; the table of the host is static.
        let table = unsafe { init(&raw const host::HOST) };
        Ok(Box::leak(Box::new(Self::with_table(name.into(), table)?)))
    }

    /// Checks and copies a table.
    fn with_table(path: PathBuf, table: *const ModuleTable) -> Result<Self, ModuleError> {
        if table.is_null() {
            return Err(ModuleError::Refused);
        }
        if !table.is_aligned() {
            return Err(ModuleError::Table("is not aligned"));
        }
        // SAFETY: every table begins so, in every version; it is valid by the rules of the header.
        let TableStart { size, major, minor } = unsafe { table.cast::<TableStart>().read() };
        if major != MAJOR {
            return Err(ModuleError::Version(major, minor));
        }
        let least = std::mem::offset_of!(ModuleTable, config_free);
        if size > TABLE_MAX || (size as usize) < least {
            return Err(ModuleError::Table("has a size that cannot be right"));
        }
        let mut own = ModuleTable::EMPTY;
        let known = (size as usize).min(size_of::<ModuleTable>());
        // Entries are of the size of a pointer: half of one is none.
        let known = known - known % size_of::<usize>();
        // SAFETY: the library's table has at least `known` bytes, and so has ours; they are plain data of the same layout,
        // in which any pattern of entries that a library sets is valid.
        unsafe { std::ptr::copy_nonoverlapping(table.cast::<u8>(), (&raw mut own).cast(), known) };
        if own.config_new.is_none() {
            return Err(ModuleError::Table("has no `config_new`"));
        }
        // SAFETY: the text is valid by the rules of the header.
        let name = unsafe { text::read(own.name, NAME_MAX) };
        let name = name.map_err(|_| ModuleError::Table("has no usable name"))?;
        Ok(Self { path, name: text::one_line(name, NAME_MAX), table: own })
    }

    /// Name and version of the library, as it says; empty if it does not.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an object of the text of a configuration, for one of the filters of the library. This runs code of the
    /// library, as all that follows does.
    ///
    /// # Errors
    /// What the library says against it; perhaps nothing.
    pub fn config(
        &'static self,
        filter: &str,
        text: &[u8],
        call: &mut dyn ConfigCall,
    ) -> Result<ModuleConfig, Refused> {
        let Some(new) = self.table.config_new else { return Err(Refused) };
        let mut object = std::ptr::null_mut();
        let made = call::enter_config(call, |config: AbiConfig| {
            let (filter, text) = (AbiText::of(filter.as_bytes()), AbiText::of(text));
            // SAFETY: the function has this type by the header; the texts and the place are valid during the call.
            unsafe { new(config, filter, text, &raw mut object) }
        });
        // What a library leaves behind when it refuses is its own to free.
        if made == result::OK { Ok(ModuleConfig { module: self, object }) } else { Err(Refused) }
    }

    const fn hook(&self, hook: ModuleHook) -> Option<HookFn> {
        match hook {
            ModuleHook::RequestHeaders => self.table.request_headers,
            ModuleHook::RequestBody => self.table.request_body,
            ModuleHook::RequestTrailers => self.table.request_trailers,
            ModuleHook::ResponseHeaders => self.table.response_headers,
            ModuleHook::ResponseBody => self.table.response_body,
            ModuleHook::ResponseTrailers => self.table.response_trailers,
        }
    }
}

/// The library refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A hook of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ModuleHook {
    /// The headers of a request.
    RequestHeaders = 0,
    /// A piece of its body.
    RequestBody = 1,
    /// Its trailers.
    RequestTrailers = 2,
    /// The headers of a response.
    ResponseHeaders = 3,
    /// A piece of its body.
    ResponseBody = 4,
    /// Its trailers.
    ResponseTrailers = 5,
}

/// An object that a library made of a configuration.
#[derive(Debug)]
pub struct ModuleConfig {
    module: &'static Module,
    object: *mut c_void,
}

// SAFETY: by the rules of the header, a configuration is used and freed by any thread.
unsafe impl Send for ModuleConfig {}
// SAFETY: as above; by several threads at once.
unsafe impl Sync for ModuleConfig {}

impl ModuleConfig {
    /// The library.
    pub const fn module(&self) -> &'static Module {
        self.module
    }

    /// Begins a request with that number, which no other of this process has.
    ///
    /// # Errors
    /// What the library returned in place of 0.
    pub fn begin(
        self: &Arc<Self>,
        number: u64,
        call: &mut dyn ModuleCall,
    ) -> Result<ModuleRequest, i32> {
        let mut state = std::ptr::null_mut();
        if let Some(new) = self.module.table.request_new {
            let object = self.object;
            let made = call::enter(number, call, |request| {
                // SAFETY: the function has this type by the header; the place is valid during the call.
                unsafe { new(request, object, &raw mut state) }
            });
            if made != result::OK {
                return Err(made);
            }
        }
        Ok(ModuleRequest { config: Arc::clone(self), number, state, ended: false })
    }
}

impl Drop for ModuleConfig {
    fn drop(&mut self) {
        if let Some(free) = self.module.table.config_free {
            // SAFETY: the object is that of this library; requests hold the configuration, so that none has it any more.
            unsafe { free(self.object) }
        }
    }
}

/// A request, as a library knows it. Stays on its thread.
#[derive(Debug)]
pub struct ModuleRequest {
    config: Arc<ModuleConfig>,
    number: u64,
    state: *mut c_void,
    ended: bool,
}

impl ModuleRequest {
    /// Its number.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Runs a hook and returns what it returned; `None` if the library has no such hook. `end` says whether nothing of the
    /// message follows.
    pub fn hook(&mut self, hook: ModuleHook, call: &mut dyn ModuleCall, end: bool) -> Option<i32> {
        Some(self.run(self.config.module.hook(hook)?, call, i32::from(end)))
    }

    /// As [`Self::hook`], once what `hook` waited for has happened.
    pub fn resumed(&mut self, hook: ModuleHook, call: &mut dyn ModuleCall) -> Option<i32> {
        Some(self.run(self.config.module.table.resumed?, call, hook as i32))
    }

    fn run(&mut self, hook: HookFn, call: &mut dyn ModuleCall, argument: i32) -> i32 {
        let (object, state) = (self.config.object, self.state);
        call::enter(self.number, call, |request| {
            // SAFETY: the function has this type by the header; the objects are the library's own, and were not freed.
            unsafe { hook(request, object, state, argument) }
        })
    }

    /// Ends the request.
    pub fn end(mut self, call: &mut dyn ModuleCall) {
        self.ended = true;
        if let Some(end) = self.config.module.table.request_end {
            let (object, state) = (self.config.object, self.state);
            call::enter(self.number, call, |request| {
                // SAFETY: as in `run`; `ended` sees to it that this is the only time.
                unsafe { end(request, object, state) }
            });
        }
    }
}

impl Drop for ModuleRequest {
    fn drop(&mut self) {
        if let Some(end) = self.config.module.table.request_end
            && !self.ended
        {
            // Nothing of the request is at hand: functions of the host say so.
            let request = AbiRequest { id: self.number };
            call::outside(|| {
                // SAFETY: as in `end`.
                unsafe { end(request, self.config.object, self.state) }
            });
        }
    }
}

/// Maps a library for good and returns its first function.
fn init_of(path: &Path) -> Result<InitFn, ModuleError> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| ModuleError::Load("the path has a zero in it".to_owned()))?;
    // SAFETY: the name ends with a zero. Initialisers of the library run; they are trusted as the library is.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(ModuleError::Load(last_error()));
    }
    // SAFETY: the library is mapped, and the name ends with a zero.
    let symbol = unsafe { libc::dlsym(library, INIT.as_ptr()) };
    if symbol.is_null() {
        return Err(ModuleError::NoInit);
    }
    // SAFETY: the function has this type by the header; a pointer to data and one to code are alike on these systems.
    Ok(unsafe { std::mem::transmute::<*mut c_void, InitFn>(symbol) })
}

/// What the loader says about its last failure on this thread.
fn last_error() -> String {
    // SAFETY: the function may be called at any time.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the library cannot be loaded".to_owned();
    }
    // SAFETY: the text ends with a zero, and stays until the next call of the loader on this thread.
    let text = unsafe { CStr::from_ptr(text) };
    text::one_line(text.to_bytes(), 1024)
}

// The table is Send and Sync but for the pointer in its name, which is read once, above.
// SAFETY: no thread follows that pointer again.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

#[cfg(test)]
mod tests;
