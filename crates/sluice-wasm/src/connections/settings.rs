//! The settings of the connection filter `wasm`.
//!
//! Owns: what is written, and the defaults. Refuses to know: connections, and how guests run. Keeps: whether the guest sees bytes is
//! known when the configuration is checked, since only a relay has them.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_core::settings::Size;
use sluice_core::values::ValueDef;
use sluice_core::{Name, Node, Plain, Setting, Shape, Spanned};
use sluice_io::{ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::filters::{CheckContext, FilterFactory, long_form_of};
use sluice_module::ModuleText;
use sluice_telemetry::metrics::SeriesLabels;

use super::filter::ConnWasmFilter;
use crate::in_use::{GuestBodies, GuestUse, ModuleSource, OnGuestError};
use crate::plugin::{PluginFacts, VmSetup};
use crate::settings::WasmVm;
use crate::source::{self, ModuleFrom};
use crate::values;

sluice_core::section! {
    /// Runs a guest in WebAssembly on connections, with the interface of proxy-wasm.
    pub struct ConnectionWasm {
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
        /// The most bytes of each direction that the guest holds back, and that it may set: a connection with more is cut off.
        /// 1MiB if omitted.
        pub held_max: Option<Size>,
        /// The processor time that a call of the guest may use; 100ms if omitted.
        pub cpu: Option<Duration>,
        /// The memory of an instance, from 64KiB; 64MiB if omitted.
        pub memory: Option<Size>,
        /// What becomes of a connection whose guest fails: it is closed, or goes on without the guest. `fail` if omitted.
        pub on_error: Option<OnGuestError>,
        /// How long an instance that failed is not replaced, doubled each time that it fails again, up to 1m; 1s if omitted.
        pub restart: Option<Duration>,
    }
}

/// The connection filter `wasm`.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionWasmFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionWasmFactory {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn help(&self) -> &'static str {
        "Runs a guest in WebAssembly on connections."
    }

    fn shape(&self) -> Shape {
        ConnectionWasm::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionWasm>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        values::VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let of: ConnectionWasm = context.bind(settings)?;
        let span = settings.span;
        source::check_bounds((of.cpu, of.restart, of.memory), span, context)?;
        let (file, inline, sha256) = (of.file.as_ref(), of.inline.as_deref(), of.sha256.as_deref());
        let from = ModuleFrom { file, inline, sha256 };
        let (name, module) = source::module(&from, true, span, context)??;
        let clusters = source::clusters(of.clusters.as_deref().unwrap_or_default(), context)?;
        let held_max = of.held_max.unwrap_or(Size(1 << 20));
        let plugin = PluginFacts {
            name: of.name.unwrap_or(name),
            root_id: of.root_id.unwrap_or_default(),
            config: of.config.map(|text| Bytes::from(text.0)).unwrap_or_default(),
            listener: String::new(),
            clusters,
            body_max: usize::try_from(held_max.0).unwrap_or(usize::MAX),
        };
        let limits = source::limits(of.cpu, of.memory, of.restart);
        let setup = VmSetup { limits, ..of.vm.map(WasmVm::into_setup).unwrap_or_default() };
        source::start_once(&module, &setup, &plugin, span, context)?;
        let sees_bytes = module.current().is_none_or(|module| module.sees_bytes());
        let on_error = of.on_error.unwrap_or(OnGuestError::Fail);
        Some(Arc::new(ConnWasmPlan {
            module,
            setup: Arc::new(setup),
            plugin,
            on_error,
            sees_bytes,
        }))
    }
}

/// One use of the filter.
#[derive(Clone, Debug)]
struct ConnWasmPlan {
    module: ModuleSource,
    setup: Arc<VmSetup>,
    /// Without its listener.
    plugin: PluginFacts,
    on_error: OnGuestError,
    /// Whether the module had a function for bytes when the configuration was checked.
    sees_bytes: bool,
}

impl ConnectionFilterPlan for ConnWasmPlan {
    fn filters_bytes(&self) -> bool {
        self.sees_bytes
    }

    fn counts_in(&self, _: &SeriesLabels<'_>) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        let listener = owner.split('/').next().unwrap_or_default().to_owned();
        let plan = GuestUse {
            module: Ok(self.module.clone()),
            setup: Arc::clone(&self.setup),
            plugin: Arc::new(PluginFacts { listener, ..self.plugin.clone() }),
            bodies: GuestBodies::Skip,
            on_error: self.on_error,
            headers_wait_for_body: false,
        };
        Rc::new(ConnWasmFilter::new(plan, self.sees_bytes, worker))
    }
}
