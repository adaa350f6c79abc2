//! Modules.
//!
//! Owns: what is compiled of a file, and what is refused before it runs. Refuses to know: instances. Keeps: equal content is
//! compiled once, as long as something uses it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use sluice_core::limits::Limit;
use sluice_l7::filters::Content;
use wasmtime::{InstancePre, Module};

use crate::abi::{AbiVersion, VERSIONS};
use crate::hooks::GuestHook;
use crate::state::HostState;
use crate::{engine, hooks, host};

/// Modules by the hash of their content.
static COMPILED: LazyLock<Mutex<HashMap<String, Weak<CompiledModule>>>> =
    LazyLock::new(Mutex::default);

/// A module that can be instantiated.
pub(crate) struct CompiledModule {
    /// The hash of its content, in hexadecimal.
    pub(crate) sha256: String,
    pub(crate) version: AbiVersion,
    pub(crate) instances: InstancePre<HostState>,
}

impl std::fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CompiledModule({})", self.sha256)
    }
}

/// The SHA-256 of some content, in hexadecimal.
pub(crate) fn sha256_of(content: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, content).as_ref())
}

impl CompiledModule {
    /// Compiles a module, unless it is compiled already.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(content: &[u8]) -> Result<Arc<Self>, String> {
        let sha256 = sha256_of(content);
        let lock = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&sha256).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = Arc::new(Self::compile(content, sha256.clone())?);
        let mut all = lock();
        all.retain(|_, of| of.strong_count() > 0);
        all.insert(sha256, Arc::downgrade(&made));
        Ok(made)
    }

    fn compile(content: &[u8], sha256: String) -> Result<Self, String> {
        if !content.starts_with(b"\0asm") {
            return Err("it is no WebAssembly module: it does not begin with `\\0asm`".into());
        }
        let engine = engine::engine()?;
        let said = |error: &wasmtime::Error| format!("{error:#}").replace('\n', " ");
        let module = Module::new(engine, content).map_err(|error| said(&error))?;
        let version = VERSIONS.iter().find(|(name, _)| module.get_export(name).is_some());
        let version = version.map(|(_, version)| *version).ok_or(
            "it has no function `proxy_abi_version_0_2_1`, `proxy_abi_version_0_2_0` or \
             `proxy_abi_version_0_1_0`: it was not made for proxy-wasm, or for a version that is not supported",
        )?;
        if module.get_export("memory").and_then(|of| of.memory().cloned()).is_none() {
            return Err("it exports no memory named `memory`".into());
        }
        hooks::check(&module)?;
        let mut linker = host::linker(engine).map_err(|error| said(&error))?;
        host::wasi::link_absent(&mut linker, &module).map_err(|error| said(&error))?;
        let instances = linker.instantiate_pre(&module).map_err(|error| said(&error))?;
        Ok(Self { sha256, version, instances })
    }

    /// Whether it has a function for the bytes of connections, or for the end of one of their sides.
    pub(crate) fn sees_bytes(&self) -> bool {
        let hooks = [GuestHook::DownstreamData, GuestHook::UpstreamData, GuestHook::UpstreamClose];
        hooks.iter().any(|hook| self.instances.module().get_export(hook.name()).is_some())
    }
}

/// A module of a file that is read again when it changes.
#[derive(Debug)]
pub(crate) struct FileModule(pub(crate) Arc<CompiledModule>);

impl Content for FileModule {
    const LIMIT: Limit = Limit::WasmBytes;

    fn parse(content: &[u8]) -> Result<Self, String> {
        CompiledModule::of(content).map(Self)
    }
}
