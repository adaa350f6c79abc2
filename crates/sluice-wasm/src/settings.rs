//! The settings of `wasm`, and how those of a rule join those around it.
//!
//! Owns: what is written, what of it can be used, and the defaults. Refuses to know: requests, and how guests run. Keeps: a guest
//! was started and has accepted its configuration before it is in force; what a rule leaves out is as around it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use sluice_core::settings::{Named, Size};
use sluice_core::values::ValueDef;
use sluice_core::{Name, Node, Plain, Setting, Shape, Span, Spanned};
use sluice_io::WorkerCx;
use sluice_l7::filters::{
    CheckContext, FilterFactory, FilterOwner, HttpFilter, HttpFilterPlan, long_form_of,
};
use sluice_module::ModuleText;
use sluice_telemetry::metrics::SeriesLabels;
use sluice_upstream::Cluster;

use crate::filter::WasmFilter;
use crate::in_use::{GuestBodies, GuestUse, ModuleSource, OnGuestError};
use crate::limits::GuestLimits;
use crate::module::{CompiledModule, FileModule, sha256_of};
use crate::plugin::{PluginFacts, VmSetup};
use crate::values;
use crate::vm::Vm;

sluice_core::section! {
    /// Runs a guest in WebAssembly on requests and responses, with the interface of proxy-wasm. A rule or virtual host may
    /// configure it differently, and leaves out what the settings around it say.
    pub struct Wasm {
        /// The file of the module, read again when it changes, unless `sha256` is given.
        pub file: Option<Spanned<PathBuf>>,
        /// The module itself, in base64.
        pub inline: Option<String>,
        /// The SHA-256 of the module, in hexadecimal: any other is an error.
        pub sha256: Option<String>,
        /// What the guest is configured with: a text; maps and lists become JSON.
        pub config: Option<ModuleText>,
        /// The name of the guest, in records and metrics, and for itself; the name of the file without `.wasm` if omitted.
        pub name: Option<String>,
        /// Which of several guests in the module this is; empty if omitted.
        pub root_id: Option<String>,
        /// What its instances are made with.
        pub vm: Option<WasmVm>,
        /// The clusters that the guest may call (`proxy_http_call`).
        pub clusters: Option<Vec<Spanned<Name>>>,
        /// What the guest does with bodies; `edit` if omitted.
        pub bodies: Option<GuestBodies>,
        /// The most bytes of a body that the guest holds, and that it may set: a request with a larger one gets 413, a larger
        /// response becomes 500. 1MiB if omitted.
        pub body_max: Option<Size>,
        /// Whether the guest gets the body while it has the headers wait, in one piece; otherwise it gets it once they go on.
        /// False if omitted.
        pub headers_wait_for_body: Option<bool>,
        /// The processor time that a call of the guest may use; 100ms if omitted.
        pub cpu: Option<Duration>,
        /// The memory of an instance, from 64KiB; 64MiB if omitted.
        pub memory: Option<Size>,
        /// What becomes of a request whose guest fails; `fail` if omitted.
        pub on_error: Option<OnGuestError>,
        /// How long an instance that failed is not replaced, doubled each time that it fails again, up to 1m; 1s if omitted.
        pub restart: Option<Duration>,
    }
}

sluice_core::section! {
    /// What instances of a module are made with. Guests for which it is equal share an instance on each worker.
    pub struct WasmVm {
        /// The name under which instances share data and queues.
        pub id: Option<String>,
        /// What an instance is configured with: a text; maps and lists become JSON.
        pub config: Option<ModuleText>,
        /// The environment variables that guests see.
        pub environment: Named<String>,
    }
}

/// The filter `wasm`.
#[derive(Clone, Copy, Debug)]
pub struct WasmFactory;

impl FilterFactory<dyn HttpFilterPlan> for WasmFactory {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn help(&self) -> &'static str {
        "Runs a guest in WebAssembly on requests and responses."
    }

    fn shape(&self) -> Shape {
        Wasm::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<Wasm>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        values::VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let wasm: Wasm = context.bind(settings)?;
        Some(Arc::new(WasmPlan::new(wasm, settings.span, context)?))
    }
}

/// The settings of one place, without defaults; then, those of several.
#[derive(Clone, Debug)]
struct WasmPlan {
    module: Option<(String, ModuleSource)>,
    config: Option<Bytes>,
    name: Option<String>,
    root_id: Option<String>,
    vm: Option<VmSetup>,
    clusters: Option<Vec<Arc<Cluster>>>,
    bodies: Option<GuestBodies>,
    body_max: Option<Size>,
    headers_wait_for_body: Option<bool>,
    cpu: Option<Duration>,
    memory: Option<Size>,
    on_error: Option<OnGuestError>,
    restart: Option<Duration>,
}

impl WasmPlan {
    fn new(wasm: Wasm, span: Span, context: &mut CheckContext<'_>) -> Option<Self> {
        let problems = [
            (wasm.cpu.is_some_and(|cpu| cpu.is_zero()), "cpu", "must not be zero"),
            (wasm.restart.is_some_and(|of| of.is_zero()), "restart", "must not be zero"),
            (wasm.memory.is_some_and(|of| of.0 < 64 << 10), "memory", "must be at least 64KiB"),
        ];
        for (_, key, problem) in problems.iter().filter(|(wrong, ..)| *wrong) {
            let message = format!("`{key}` {problem}");
            context.diags.error("bad-value", span, context.at.key(key), message);
        }
        if problems.iter().any(|(wrong, ..)| *wrong) {
            return None;
        }
        let on_chain = !matches!(context.owner, FilterOwner::Routes(_));
        let none = wasm.file.is_none() && wasm.inline.is_none();
        if wasm.file.is_some() && wasm.inline.is_some() || none && on_chain {
            let message = "the module comes from exactly one of `file` and `inline`";
            context.not_exactly_one(span, none, message);
            return None;
        }
        if none && wasm.sha256.is_some() {
            let message = "`sha256` is that of `file` or `inline`, which is missing";
            context.diags.error("missing-field", span, context.at.key("sha256"), message);
            return None;
        }
        let module = if none { None } else { Some(module(&wasm, span, context)?) };
        let clusters = match &wasm.clusters {
            None => None,
            Some(names) => {
                let each = names.iter().map(|name| context.cluster(name, "clusters"));
                Some(each.collect::<Option<Vec<_>>>()?)
            }
        };
        let bytes = |text: Option<ModuleText>| text.map(|text| Bytes::from(text.0));
        let plan = Self {
            module,
            config: bytes(wasm.config),
            name: wasm.name,
            root_id: wasm.root_id,
            vm: wasm.vm.map(|vm| VmSetup {
                id: vm.id.unwrap_or_default(),
                config: bytes(vm.config).unwrap_or_default(),
                environment: vm
                    .environment
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.value))
                    .collect(),
                limits: GuestLimits::default(),
            }),
            clusters,
            bodies: wasm.bodies,
            body_max: wasm.body_max,
            headers_wait_for_body: wasm.headers_wait_for_body,
            cpu: wasm.cpu,
            memory: wasm.memory,
            on_error: wasm.on_error,
            restart: wasm.restart,
        };
        plan.tried(span, context)
    }

    /// Starts the guest once, if this has all that it takes.
    fn tried(self, span: Span, context: &mut CheckContext<'_>) -> Option<Self> {
        let Some((_, source)) = &self.module else { return Some(self) };
        let Some(module) = source.current() else { return Some(self) };
        let started = Vm::start(&module, &Arc::new(self.setup()), None);
        let done = started.and_then(|vm| vm.root(&Arc::new(self.plugin(""))).map(drop));
        if let Err(failure) = done {
            let message = format!("the guest does not start: {}", failure.message);
            context
                .diags
                .error("bad-module", span, *context.at, message)
                .help("correct the guest, or its `config`; what it wrote to the log says more");
            return None;
        }
        Some(self)
    }

    fn setup(&self) -> VmSetup {
        let default = GuestLimits::default();
        let size = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
        let limits = GuestLimits {
            cpu: self.cpu.unwrap_or(default.cpu),
            memory: self.memory.map_or(default.memory, size),
            restart: self.restart.unwrap_or(default.restart),
        };
        VmSetup { limits, ..self.vm.clone().unwrap_or_default() }
    }

    fn plugin(&self, listener: &str) -> PluginFacts {
        let of_file = self.module.as_ref().map_or("?", |(name, _)| name);
        let body_max =
            self.body_max.map_or(1 << 20, |of| usize::try_from(of.0).unwrap_or(usize::MAX));
        PluginFacts {
            name: self.name.clone().unwrap_or_else(|| of_file.to_owned()),
            root_id: self.root_id.clone().unwrap_or_default(),
            config: self.config.clone().unwrap_or_default(),
            listener: listener.to_owned(),
            clusters: self.clusters.clone().unwrap_or_default(),
            body_max,
        }
    }
}

/// The module and the name of its file.
fn module(
    wasm: &Wasm,
    span: Span,
    context: &mut CheckContext<'_>,
) -> Option<(String, ModuleSource)> {
    let stem = |path: &PathBuf| path.file_stem().map(|of| of.to_string_lossy().into_owned());
    let name = wasm.file.as_ref().and_then(|path| stem(&path.value));
    let name = name.unwrap_or_else(|| "inline".into());
    let (key, content) = match (&wasm.file, &wasm.inline) {
        (Some(path), _) if wasm.sha256.is_none() => {
            return Some((name, ModuleSource::File(context.file::<FileModule>(path, "file")?)));
        }
        (Some(path), _) => match std::fs::read(context.path(&path.value, "file")?) {
            Ok(content) => ("file", content),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.value.display());
                context.diags.error("bad-file", path.span, context.at.key("file"), message);
                return None;
            }
        },
        (None, inline) => {
            let text = inline.iter().flat_map(|text| text.bytes());
            let text: Vec<u8> = text.filter(|byte| !byte.is_ascii_whitespace()).collect();
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
    if let Some(wanted) = &wasm.sha256
        && !wanted.eq_ignore_ascii_case(&found)
    {
        let message = format!("the SHA-256 of the module is {found}");
        let finding = context.diags.error("bad-value", span, context.at.key("sha256"), message);
        finding.help("another module was expected; find out why it changed before you change this");
        return None;
    }
    match CompiledModule::of(&content) {
        Ok(module) => Some((name, ModuleSource::Fixed(module))),
        Err(problem) => {
            let message = format!("cannot use this module: {problem}");
            context.diags.error("bad-module", span, context.at.key(key), message);
            None
        }
    }
}

impl HttpFilterPlan for WasmPlan {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn std::any::Any = under;
        let under = under.downcast_ref::<Self>()?.clone();
        let own = self.clone();
        Some(Arc::new(Self {
            module: own.module.or(under.module),
            config: own.config.or(under.config),
            name: own.name.or(under.name),
            root_id: own.root_id.or(under.root_id),
            vm: own.vm.or(under.vm),
            clusters: own.clusters.or(under.clusters),
            bodies: own.bodies.or(under.bodies),
            body_max: own.body_max.or(under.body_max),
            headers_wait_for_body: own.headers_wait_for_body.or(under.headers_wait_for_body),
            cpu: own.cpu.or(under.cpu),
            memory: own.memory.or(under.memory),
            on_error: own.on_error.or(under.on_error),
            restart: own.restart.or(under.restart),
        }))
    }

    fn lacks(&self) -> Option<String> {
        self.module.is_none().then(|| "the `file` of the module".into())
    }

    fn edits_target(&self) -> bool {
        true
    }

    fn counts_in(&self, _: &SeriesLabels<'_>) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let listener = owner.split('/').next().unwrap_or_default();
        let missing = || "no settings around the rule have a module".to_owned();
        let plan = GuestUse {
            module: self.module.as_ref().map(|(_, source)| source.clone()).ok_or_else(missing),
            setup: Arc::new(self.setup()),
            plugin: Arc::new(self.plugin(listener)),
            bodies: self.bodies.unwrap_or(GuestBodies::Edit),
            on_error: self.on_error.unwrap_or(OnGuestError::Fail),
            headers_wait_for_body: self.headers_wait_for_body.unwrap_or(false),
        };
        Rc::new(WasmFilter::new(plan, worker))
    }
}
