//! `allow` and `deny`: filters on the source address.
//!
//! Owns: the blocks, or the name of the table that has them. Refuses to know: what else a table says of an address. Keeps: the
//! cost of a decision does not depend on the size of a table.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::settings::{FieldShape, Plain};
use sluice_core::{
    Cidr, ConnInfo, Diags, Name, Node, Path, Setting, Shape, Spanned, Value, Verdict,
};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};

use super::lookup::LiveMap;
use super::{CheckContext, FilterFactory, long_form_of};
use crate::reasons;

/// `allow: [127.0.0.0/8]`: only these sources may connect; `deny: [192.0.2.0/24]`: these may not.
/// `deny: { map: listed }`: the blocks are the keys of a lookup table.
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
        AddressList::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<AddressList>(settings)
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let listed = match context.bind::<AddressList>(settings)? {
            AddressList::Map(name) => ListedAddresses::Map(context.map(&name, AddressList::KEY)?),
            AddressList::Blocks(blocks) if blocks.is_empty() => {
                let message = "expected at least one address block";
                context.diags.error("missing-field", settings.span, context.at, message);
                return None;
            }
            AddressList::Blocks(blocks) => ListedAddresses::Blocks(blocks.into()),
        };
        Some(Arc::new(AddressFilter { listed, allow: matches!(self, Self::Allow) }))
    }
}

/// The settings: blocks, or a table.
#[derive(Clone, Debug, PartialEq)]
enum AddressList {
    Blocks(Vec<Cidr>),
    Map(Spanned<Name>),
}

impl AddressList {
    const KEY: &'static str = "map";
}

impl Setting for AddressList {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        match &node.value {
            Value::Map(entries)
                if let [entry] = entries.as_slice()
                    && &*entry.key == Self::KEY =>
            {
                Spanned::bind(&entry.node, &at.key(Self::KEY), diags).map(Self::Map)
            }
            _ => Vec::bind(node, at, diags).map(Self::Blocks),
        }
    }

    fn shape() -> Shape {
        let map = FieldShape {
            key: Self::KEY,
            doc: "A table under `maps` whose keys are the blocks.".into(),
            required: true,
            default: None,
            shape: Name::shape(),
        };
        Shape::Either(vec![Vec::<Cidr>::shape(), Shape::Tagged(vec![map])])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Blocks(blocks) => blocks.show(),
            Self::Map(name) => Plain::Map(vec![(Self::KEY.into(), name.show())]),
        }
    }
}

/// The filter itself; it has no state, so that plan and filter are the same type.
#[derive(Clone, Debug)]
struct AddressFilter {
    listed: ListedAddresses,
    allow: bool,
}

#[derive(Clone, Debug)]
enum ListedAddresses {
    Blocks(Arc<[Cidr]>),
    Map(LiveMap),
}

impl ConnectionFilterPlan for AddressFilter {
    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(self.clone())
    }
}

impl ConnectionFilter for AddressFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        // A unix socket has no address to check; its file mode controls who may open it.
        let Some(ip) = conn.source().ip() else { return Admit::Now(Verdict::Continue) };
        match &self.listed {
            ListedAddresses::Blocks(blocks) => match blocks.iter().find(|block| block.holds(ip)) {
                Some(block) if !self.allow => conn.note(format_args!("deny: {block}")),
                None if self.allow => conn.note(format_args!("allow: no block contains {ip}")),
                _ => return Admit::Now(Verdict::Continue),
            },
            ListedAddresses::Map(map) => {
                let name = map.name();
                match map.get(&ip.to_canonical().to_string()) {
                    Some(_) if !self.allow => conn.note(format_args!("deny: map {name}: {ip}")),
                    None if self.allow => conn.note(format_args!("allow: map {name} lacks {ip}")),
                    _ => return Admit::Now(Verdict::Continue),
                }
            }
        }
        Admit::Now(Verdict::Reject(reasons::DENIED))
    }
}
