use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{ConnInfo, Diags, Node, Path, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, FilterFactory, FilterPlan, WorkerCx};

// The reasons that this filter ends connections with: code, phase, side, Envoy's flag, help.
sluice_core::reasons! {
    ODD_PORT = "parity.odd_port", Filter, Local, "-", "The source port is odd, and `even_ports` is on.";
}

// The settings. Types, defaults, reference page and schema come from this one declaration.
sluice_core::section! {
    /// Only connections from even ports.
    pub struct EvenPorts {
        /// Ports from this one on are let through whatever they are.
        pub free_from: u16 = "60000",
    }
}

#[derive(Debug)]
struct Factory;

impl FilterFactory for Factory {
    fn name(&self) -> &'static str {
        "even_ports"
    }

    fn help(&self) -> &'static str {
        "Only connections from even source ports."
    }

    fn shape(&self) -> Shape {
        EvenPorts::shape()
    }

    fn check(&self, settings: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Arc<dyn FilterPlan>> {
        Some(Arc::new(Plan(EvenPorts::bind(settings, at, diags)?)))
    }
}

#[derive(Debug)]
struct Plan(EvenPorts);

impl FilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(Filter { free_from: self.0.free_from })
    }
}

#[derive(Debug)]
struct Filter {
    free_from: u16,
}

impl ConnectionFilter for Filter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let port = conn.source().socket().map_or(0, |source| source.port());
        let fits = port.is_multiple_of(2) || port >= self.free_from;
        Admit::Now(if fits { Verdict::Continue } else { Verdict::Reject(ODD_PORT) })
    }
}

pub fn main() -> std::process::ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.connection.register(Arc::new(Factory));
    sluice::main_with(extensions)
}
