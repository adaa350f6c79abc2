//! What part of the traffic of a cluster is dropped.
//!
//! Owns: the shares by category. Refuses to know: how it is decided what is dropped. Keeps: categories are in the order that
//! they are written in, since each applies to what earlier ones have left.

use sluice_core::fine_percent::{FinePercent, show_fine_percent};
use sluice_core::settings::{Plain, bind_entries, entries_of};
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_upstream::plan::DROP_CATEGORIES_MAX;

/// The longest name of a category, in bytes.
const CATEGORY_MAX: usize = 128;

/// Shares by category, as written: `{ overload: 10%, tests: 50% }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropShares(pub Vec<(String, FinePercent)>);

impl Setting for DropShares {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of categories and their percentages")?;
        if entries.len() > DROP_CATEGORIES_MAX {
            let message = format!("there are {} categories", entries.len());
            diags
                .error("bad-value", node.span, at, message)
                .help(format!("at most {DROP_CATEGORIES_MAX} are told apart; add up their shares"));
            return None;
        }
        let shares: Vec<_> = bind_entries(entries, at, diags, |entry, here, diags| {
            if entry.key.is_empty() || entry.key.len() > CATEGORY_MAX {
                let message = format!("the name of a category has 1 to {CATEGORY_MAX} bytes");
                diags.error("bad-value", entry.key_span, here, message);
                return None;
            }
            Some((entry.key.to_string(), FinePercent::bind(&entry.node, here, diags)?))
        })?;
        Some(Self(shares))
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(FinePercent::shape()))
    }

    fn show(&self) -> Plain {
        let entry = |(category, share): &(String, FinePercent)| {
            (category.clone(), Plain::Text(show_fine_percent(*share)))
        };
        Plain::Map(self.0.iter().map(entry).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}
