//! The settings of the HTTP filter `wasm`, and how those of a rule join those around it.
//!
//! Owns: what is written, what of it can be used, and the defaults. Refuses to know: requests, and how guests run. Keeps: a guest
//! was started and has accepted its configuration before it is in force; what a rule leaves out is as around it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
use crate::plugin::{PluginFacts, VmSetup};
use crate::source::{self, ModuleFrom};
use crate::values;

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
        /// The clusters that the guest may call (`proxy_http_call`, `proxy_grpc_call` and others).
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

impl WasmVm {
    pub(crate) fn into_setup(self) -> VmSetup {
        let variable = |(name, value): (&_, &Spanned<String>)| format!("{name}={}", value.value);
        VmSetup {
            id: self.id.unwrap_or_default(),
            config: self.config.map(|text| Bytes::from(text.0)).unwrap_or_default(),
            environment: self.environment.iter().map(variable).collect(),
            limits: GuestLimits::default(),
        }
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
        source::check_bounds((wasm.cpu, wasm.restart, wasm.memory), span, context)?;
        let (file, inline) = (wasm.file.as_ref(), wasm.inline.as_deref());
        let from = ModuleFrom { file, inline, sha256: wasm.sha256.as_deref() };
        let required = !matches!(context.owner, FilterOwner::Routes(_));
        let module = source::module(&from, required, span, context)?;
        let clusters = match &wasm.clusters {
            None => None,
            Some(names) => Some(source::clusters(names, context)?),
        };
        let bytes = |text: Option<ModuleText>| text.map(|text| Bytes::from(text.0));
        let plan = Self {
            module,
            config: bytes(wasm.config),
            name: wasm.name,
            root_id: wasm.root_id,
            vm: wasm.vm.map(WasmVm::into_setup),
            clusters,
            bodies: wasm.bodies,
            body_max: wasm.body_max,
            headers_wait_for_body: wasm.headers_wait_for_body,
            cpu: wasm.cpu,
            memory: wasm.memory,
            on_error: wasm.on_error,
            restart: wasm.restart,
        };
        if let Some((_, source)) = &plan.module {
            source::start_once(source, &plan.setup(), &plan.plugin(""), span, context)?;
        }
        Some(plan)
    }

    fn setup(&self) -> VmSetup {
        let limits = source::limits(self.cpu, self.memory, self.restart);
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
