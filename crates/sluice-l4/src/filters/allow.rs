//! `allow` and `deny`: filters on the source address.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{Cidr, ConnInfo, Node, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};

use super::{CheckContext, FilterFactory};
use crate::reasons;

/// `allow: [127.0.0.0/8]`: only these sources may connect; `deny: [192.0.2.0/24]`: these may not.
#[derive(Debug)]
pub enum ListFactory {
    /// `allow`.
    Allow,
    /// `deny`.
    Deny,
}

impl FilterFactory<dyn ConnectionFilterPlan> for ListFactory {
    fn name(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Self::Allow => "Only sources in these blocks may connect.",
            Self::Deny => "Sources in these blocks may not connect.",
        }
    }

    fn shape(&self) -> Shape {
        Vec::<Cidr>::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let blocks = context.bind::<Vec<Cidr>>(settings)?;
        if blocks.is_empty() {
            let message = "expected at least one address block";
            context.diags.error("missing-field", settings.span, context.at, message);
            return None;
        }
        Some(Arc::new(Blocks { blocks: blocks.into(), allow: matches!(self, Self::Allow) }))
    }
}

/// The filter itself; it has no state, so that plan and filter are the same type.
#[derive(Clone, Debug)]
struct Blocks {
    blocks: Arc<[Cidr]>,
    allow: bool,
}

impl ConnectionFilterPlan for Blocks {
    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(self.clone())
    }
}

impl ConnectionFilter for Blocks {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        // A unix socket has no address to check; its file mode controls who may open it.
        let Some(ip) = conn.source().ip() else { return Admit::Now(Verdict::Continue) };
        match self.blocks.iter().find(|block| block.holds(ip)) {
            Some(block) if !self.allow => conn.note(format_args!("deny: {block}")),
            None if self.allow => conn.note(format_args!("allow: no block contains {ip}")),
            _ => return Admit::Now(Verdict::Continue),
        }
        Admit::Now(Verdict::Reject(reasons::DENIED))
    }
}
