use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_io::WorkerCx;
use sluice_l7::Reply;
use sluice_l7::filters::{Cx, FilterFactory, FilterPlan, HttpFilter, Step};

sluice_core::reasons! {
    TEAPOT = "teapot.brewing", Handle, Local, "-", "The filter `teapot` answered: coffee was asked for.";
}

sluice_core::section! {
    /// Refuses to brew coffee.
    pub struct Teapot {
        /// The header that asks for it.
        pub header: String = "x-coffee",
    }
}

#[derive(Debug)]
struct Factory;

impl FilterFactory for Factory {
    fn name(&self) -> &'static str {
        "teapot"
    }

    fn help(&self) -> &'static str {
        "Refuses to brew coffee."
    }

    fn shape(&self) -> Shape {
        Teapot::shape()
    }

    fn check(&self, settings: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Arc<dyn FilterPlan>> {
        Some(Arc::new(Plan(Teapot::bind(settings, at, diags)?)))
    }
}

#[derive(Debug)]
struct Plan(Teapot);

impl FilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Filter { header: self.0.header.clone() })
    }
}

#[derive(Debug)]
struct Filter {
    header: String,
}

impl HttpFilter for Filter {
    fn request_head(&self, _cx: &mut Cx<'_>, head: &mut Head) -> Step {
        if head.values(self.header.as_bytes()).next().is_none() {
            return Step::Continue;
        }
        Step::reply(Reply::new(418, TEAPOT, "teapot", "short and stout\n"))
    }
}

pub fn main() -> std::process::ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.http.register(Arc::new(Factory));
    sluice::main_with(extensions)
}
