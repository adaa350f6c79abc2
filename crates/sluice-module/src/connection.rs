//! Loaded libraries as a connection filter: `module`.
//!
//! Owns: the settings, and the filter of a worker with the connections that it has a part in. Refuses to know: what libraries do in
//! a hook, and how bytes are moved. Keeps: a library sees the end of every connection that it saw begin; without a hook for bytes,
//! connections are spliced as without it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{ConnInfo, Name, Node, Plain, Setting, Shape, Spanned};
use sluice_io::{
    Admit, ByteFilter, ConnectionFilter, ConnectionFilterPlan, DatagramFilter, WorkerCx,
};
use sluice_l4::filters::{CheckContext, FilterFactory, long_form_of};
use sluice_sys::module::Module;
use sluice_telemetry::metrics::SeriesLabels;

use self::instance::{ConnectionInstance, Opening, RunningConnections};
use crate::config::CheckedConfig;
use crate::in_use::OnModuleError;
use crate::library;
use crate::text::ModuleText;

mod bytes;
mod datagram_step;
mod datagrams;
mod instance;
mod run;

sluice_core::section! {
    /// Runs a connection filter of a loaded library, in C, C++, Rust or another language (`sluice_filter.h`).
    pub struct LoadedConnectionModule {
        /// The library. Checking a configuration loads it, which runs code of it; it is never unloaded.
        pub library: Spanned<PathBuf>,
        /// The filter of the library; without it, the name of the file without `lib` and `.so`.
        pub name: Option<Name>,
        /// What the filter is configured with: a text; maps and lists become JSON.
        pub config: Option<ModuleText>,
        /// What becomes of a connection for which the filter fails.
        pub on_error: OnModuleError = "fail",
    }
}

/// The connection filter `module`.
#[derive(Clone, Copy, Debug)]
pub struct ModuleConnectionFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ModuleConnectionFactory {
    fn name(&self) -> &'static str {
        "module"
    }

    fn help(&self) -> &'static str {
        "Runs a connection filter of a loaded library."
    }

    fn shape(&self) -> Shape {
        LoadedConnectionModule::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<LoadedConnectionModule>(settings)
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let written: LoadedConnectionModule = context.bind(settings)?;
        let LoadedConnectionModule { library: path, name, config, on_error } = written;
        let file = context.path(&path.value, "library")?;
        let (at, diags) = (context.at, &mut *context.diags);
        let module = library::open(&path, &file, at, diags)?;
        if !module.filters_connections() {
            let what = "filters no connections: it has neither `connection_opened` nor a hook for bytes or datagrams";
            library::lacks(&path, what, at, diags)
                .help("if it filters HTTP, list it under `http.filters`");
            return None;
        }
        let filter = name.map_or_else(|| library::name_of(module), |name| name.to_string());
        let text = config.as_ref().map(|text| &*text.0);
        let made = library::make(module, &filter, text, &path, at, diags)?;
        Some(Arc::new(ModuleConnectionPlan(ConnectionUse { filter, module, made, on_error })))
    }
}

/// What the filter of a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionUse {
    filter: String,
    module: &'static Module,
    made: Arc<CheckedConfig>,
    on_error: OnModuleError,
}

#[derive(Debug)]
struct ModuleConnectionPlan(ConnectionUse);

impl ConnectionFilterPlan for ModuleConnectionPlan {
    fn filters_bytes(&self) -> bool {
        self.0.module.filters_bytes()
    }

    fn filters_datagrams(&self) -> bool {
        self.0.module.filters_datagrams()
    }

    fn is_for_datagrams_only(&self) -> bool {
        self.0.module.is_for_datagrams_only()
    }

    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        series.get("filter").is_some_and(|filter| self.0.filter == filter)
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(ModuleConnectionFilter {
            running: Rc::new(RunningConnections::new(self.0.clone(), worker, owner)),
            open: Rc::default(),
        })
    }
}

/// The connections that are open, by their numbers.
type OpenParts = RefCell<HashMap<u64, Rc<RefCell<ConnectionInstance>>>>;

/// The filter of one worker.
#[derive(Debug)]
struct ModuleConnectionFilter {
    running: Rc<RunningConnections>,
    open: Rc<OpenParts>,
}

impl ConnectionFilter for ModuleConnectionFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let open = Rc::clone(&self.open);
        match self.running.begin(conn) {
            Opening::Decided(part, verdict) => {
                keep(&open, conn, part);
                Admit::Now(verdict)
            }
            Opening::Waits(part, wait) => Admit::wait(async move {
                wait.await;
                move |conn: &ConnInfo| {
                    let (part, verdict) = part.resume(conn);
                    keep(&open, conn, part);
                    verdict
                }
            }),
        }
    }

    fn ended(&self, conn: &ConnInfo) {
        let part = self.open.borrow_mut().remove(&conn.id);
        if let Some(part) = part {
            part.borrow_mut().end(conn);
        }
    }

    fn moved(&self, from: &ConnInfo, to: &ConnInfo) {
        let mut open = self.open.borrow_mut();
        if let Some(part) = open.remove(&from.id) {
            part.borrow_mut().moved(to);
            open.insert(to.id, part);
        }
    }

    fn byte_filter(&self, conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        if !self.running.plan.module.filters_bytes() {
            return None;
        }
        let part = Rc::clone(self.open.borrow().get(&conn.id)?);
        Some(Box::new(bytes::ModuleBytes(part)))
    }

    fn datagram_filter(&self, flow: &ConnInfo) -> Option<Box<dyn DatagramFilter>> {
        if !self.running.plan.module.filters_datagrams() {
            return None;
        }
        let part = Rc::clone(self.open.borrow().get(&flow.id)?);
        Some(Box::new(datagrams::ModuleDatagrams(part)))
    }
}

/// Keeps what a library has of a connection that is served.
fn keep(open: &OpenParts, conn: &ConnInfo, part: Option<ConnectionInstance>) {
    if let Some(part) = part {
        open.borrow_mut().insert(conn.id, Rc::new(RefCell::new(part)));
    }
}
