//! Filter settings of rules that the chain must complete.
//!
//! Owns: whether the settings of every rule are whole on each chain that uses the rule. Refuses to know: what a filter needs.
//! Keeps: among files, a rule whose filter could only refuse all requests is an error; from a control plane, where the
//! chain may come later than the rule, the filter refuses them until it does.

use std::sync::Arc;

use sluice_core::{Diags, Name, Path};
use sluice_l7::RouteTable;
use sluice_l7::routes::Override;

use super::{Compiled, Held, Staged, Store};
use crate::compile::FilteredChain;
use crate::model::{self, Kind, Resource};

/// The chains with HTTP that `source` configures, once the batch is in force.
pub(super) fn chains_of<'a>(
    store: &'a Store,
    staged: &'a Staged,
    source: &Arc<str>,
) -> Vec<&'a FilteredChain> {
    let replaced = |name: &Name| {
        let key = (Kind::Listener, Arc::clone(name));
        staged.set.contains_key(&key) || staged.removed.contains(&key)
    };
    let stay = store.held[Kind::Listener as usize].iter();
    let stay = stay.filter(|(name, _)| !replaced(name)).map(|(_, held)| held);
    let all = stay.chain(staged.set.values()).filter(|held| held.source == *source);
    all.filter_map(|held| held.inputs.as_deref()).flat_map(|inputs| &inputs.chains).collect()
}

/// Finds the filter settings of a route table that lack something on one of the chains that use it.
pub(super) fn lacking(name: &Name, held: &Held, chains: &[&FilteredChain]) -> Diags {
    let mut diags = Diags::new();
    if let (Resource::Routes(model), Compiled::Routes(_, table)) = (&held.resource, &held.compiled)
    {
        for chain in chains.iter().filter(|chain| chain.routes == *name) {
            lacking_on(chain, model, table, &mut diags);
        }
    }
    diags
}

fn lacking_on(
    chain: &FilteredChain,
    model: &model::RouteTable,
    table: &RouteTable,
    diags: &mut Diags,
) {
    let hosts = model.virtual_hosts.iter().zip(&table.virtual_hosts).enumerate();
    for (host, (written, built)) in hosts {
        let host = Path::ROOT.index(host);
        let list = host.key("rules");
        for (place, (rule, built)) in written.rules.iter().zip(&built.rules).enumerate() {
            let at = list.index(place);
            let set = table.overrides.get(built.overrides as usize);
            for (filter, said) in set.iter().flat_map(|set| &set.said) {
                let own = rule.filters.iter().any(|own| *own.filter == **filter);
                let at = if own { &at } else { &host };
                lacking_of(chain, filter, said, &at.key("filters").key(filter), diags);
            }
        }
    }
}

fn lacking_of(
    chain: &FilteredChain,
    filter: &str,
    said: &Override,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    // Most settings are whole by themselves.
    if said.own_plan().is_none_or(|own| own.lacks().is_none()) {
        return;
    }
    let of_chain = chain.filters.iter().find(|(name, _)| **name == *filter);
    let of_chain = of_chain.map(|(_, plan)| &**plan);
    let Some(what) = said.plan(of_chain).and_then(|plan| plan.lacks()) else { return };
    let at = at.to_string();
    // Rules share the settings of their virtual host, and chains share rules.
    if diags.iter().any(|finding| finding.path == at) {
        return;
    }
    let owner = &chain.owner;
    let (why, help) = match (said, of_chain) {
        (Override::Instead(_), _) => {
            ("which the virtual host leaves out", "remove `skip` there".to_owned())
        }
        (_, Some(_)) => ("which does not have it", "add it there".to_owned()),
        (_, None) => ("which has no such filter", format!("add `{filter}` to its `http.filters`")),
    };
    let message = format!("`{filter}` needs {what} from the chain `{owner}`, {why}");
    let finding = diags.error("missing-field", None, at, message).on_key();
    finding.help(format!("{help}, or say here what is missing"));
}
