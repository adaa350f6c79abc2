//! Route tables with their indexes and filters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sluice_core::{Diags, Name, Path};
use sluice_l4::filters::{FilterOwner, check_key};
use sluice_l7::routes::{self, Override, OverrideSet, Overrides};
use sluice_l7::runtime::RuntimeKind;
use sluice_l7::{RouteCell, RouteTable};
use sluice_upstream::Cluster;

use super::{Compiler, unknown_filter};
use crate::model;
use crate::model::routes::{Action, FilterOverride, Rule, VirtualHost};

/// The cells that hold route tables, by name: every caller of a name gets the same cell, whether a table is in it yet
/// or not.
#[derive(Debug, Default)]
pub struct RouteCells(Mutex<HashMap<Name, Weak<RouteCell>>>);

impl RouteCells {
    /// The cell of that name; a new one holds an empty table.
    pub fn reference(&self, name: &Name) -> Arc<RouteCell> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cells.get(name).and_then(Weak::upgrade) {
            return known;
        }
        cells.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(RouteCell::new(Arc::clone(name), Arc::new(RouteTable::empty())));
        cells.insert(Arc::clone(name), Arc::downgrade(&cell));
        cell
    }
}

impl Compiler<'_> {
    pub(crate) fn routes(
        &self,
        name: &Name,
        table: &model::RouteTable,
        diags: &mut Diags,
    ) -> Option<Arc<RouteTable>> {
        let mut build = TableBuilder {
            compiler: self,
            name,
            clusters: Vec::new(),
            places: HashMap::new(),
            overrides: vec![OverrideSet { owner: "".into(), said: Overrides::new() }],
        };
        let mut hosts = Some(Vec::new());
        for (place, host) in table.virtual_hosts.iter().enumerate() {
            let at = Path::ROOT.index(place);
            match (build.virtual_host(host, &at, diags), &mut hosts) {
                (Some(host), Some(all)) => all.push(host),
                _ => hosts = None,
            }
        }
        let TableBuilder { clusters, overrides, .. } = build;
        let directory = Arc::clone(&self.around.clusters);
        match RouteTable::build(hosts?, clusters, directory, overrides) {
            Ok(built) => {
                self.note_runtime_keys(&built);
                Some(Arc::new(built))
            }
            Err(twice) => {
                for (host, first, second) in twice {
                    // The last of them in the second virtual host, for it may be the first as well.
                    let named = |place: usize, last: bool| {
                        let hosts = &table.virtual_hosts[place].hosts;
                        let own = |of: &&_| **of == host;
                        let index = if last {
                            hosts.iter().rposition(|of| own(&of))
                        } else {
                            hosts.iter().position(|of| own(&of))
                        };
                        let place = Path::ROOT.index(place);
                        place.key("hosts").index(index.unwrap_or(0)).to_string()
                    };
                    let message = format!("the host `{host}` is declared twice");
                    diags
                        .error("duplicate-name", None, named(second, true), message)
                        .other_at(named(first, false), "the other one");
                }
                None
            }
        }
    }

    /// Notes the runtime values that the rules of a table and their filters read.
    fn note_runtime_keys(&self, table: &RouteTable) {
        let mut keys = self.runtime_keys.borrow_mut();
        for rule in table.virtual_hosts.iter().flat_map(|host| &host.rules) {
            let share = rule.conditions.as_ref().and_then(|conditions| conditions.runtime.as_ref());
            let of_mirrors = rule.options.mirrors.iter().map(|mirror| &mirror.share);
            let of_shares = share.into_iter().chain(of_mirrors).filter_map(|of| of.key.clone());
            keys.extend(of_shares.map(|key| (key, RuntimeKind::Percent)));
            if let routes::Action::Split(shares) = &rule.action {
                let of_shares = shares.iter().filter_map(|share| share.runtime.as_deref());
                keys.extend(of_shares.map(|key| (key.to_owned(), RuntimeKind::Number)));
            }
        }
        for (_, filter) in table.overrides.iter().flat_map(|set| &set.said) {
            if let Some(plan) = filter.own_plan() {
                let of_plan = plan.runtime_keys().into_iter();
                keys.extend(of_plan.map(|(key, kind)| (key.to_owned(), kind)));
            }
        }
    }
}

/// A route table being built.
struct TableBuilder<'a, 'b> {
    compiler: &'a Compiler<'b>,
    /// The name of the table.
    name: &'a Name,
    /// Clusters named by rules, in the order in which they were first named.
    clusters: Vec<Arc<Cluster>>,
    /// The index in `clusters` of each of them.
    places: HashMap<Name, u32>,
    overrides: Vec<OverrideSet>,
}

/// The filter settings of a virtual host, with their index in the table.
struct Outer {
    number: u32,
    said: Overrides,
}

impl TableBuilder<'_, '_> {
    fn virtual_host(
        &mut self,
        host: &VirtualHost,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<routes::VirtualHost> {
        let list = at.key("rules");
        let said = self.said_of_filters(&host.filters, &at.key("filters"), diags);
        let mut rules = said.as_ref().map(|_| Vec::new());
        let said = said.unwrap_or_default();
        let first = host.hosts.first().map_or_else(|| "*".to_owned(), ToString::to_string);
        // No rule has this name: rules without a name are named after their index.
        let number = self.number(format!("{first}/*").into(), said.clone())?;
        let outer = Outer { number, said };
        for (place, rule) in host.rules.iter().enumerate() {
            match (self.rule(rule, &outer, &list.index(place), diags), &mut rules) {
                (Some(built), Some(all)) => all.push(built),
                _ => rules = None,
            }
        }
        let mut built = routes::VirtualHost::new(host.hosts.clone(), rules?);
        built.require_tls = host.require_tls;
        built.scope.clone_from(&host.scope);
        Some(built)
    }

    fn rule(
        &mut self,
        rule: &Rule,
        outer: &Outer,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<routes::Rule> {
        let filters = at.key("filters");
        let overrides = self.rule_filters(&rule.name, &rule.filters, outer, &filters, diags);
        let action = match &rule.action {
            Action::Cluster(name) => routes::Action::Cluster(self.cluster(name)?),
            Action::Split(shares) => {
                let share = |share: &model::routes::Share| {
                    Some(routes::Share {
                        cluster: self.cluster(&share.cluster)?,
                        weight: share.weight,
                        runtime: share.runtime.clone(),
                        endpoint: share.endpoint.clone(),
                    })
                };
                routes::Action::Split(Box::new(shares.iter().map(share).collect::<Option<_>>()?))
            }
            Action::ByHeader(header) => routes::Action::ByHeader(header.clone()),
            Action::ByExpression(expression) => routes::Action::ByExpression(expression.clone()),
            Action::Redirect(redirect) => routes::Action::Redirect(redirect.clone()),
            Action::Direct(direct) => routes::Action::Direct(direct.clone()),
        };
        Some(routes::Rule {
            name: Arc::clone(&rule.name),
            path: rule.path.clone(),
            conditions: rule.conditions.clone(),
            action,
            options: Arc::clone(&rule.options),
            overrides: overrides?,
        })
    }

    /// The index of a cluster in this table.
    fn cluster(&mut self, name: &Name) -> Option<u32> {
        if let Some(known) = self.places.get(name) {
            return Some(*known);
        }
        let place = u32::try_from(self.clusters.len()).ok()?;
        self.clusters.push(self.compiler.around.clusters.reference(name));
        self.places.insert(Arc::clone(name), place);
        Some(place)
    }

    /// The index of the filter settings of a rule, combined with those of its virtual host.
    fn rule_filters(
        &mut self,
        rule: &Name,
        own: &[FilterOverride],
        outer: &Outer,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<u32> {
        if own.is_empty() {
            return Some(outer.number);
        }
        let own = self.said_of_filters(own, at, diags)?;
        let mut all = outer.said.clone();
        for (name, said) in own {
            match all.iter_mut().find(|(of, _)| *of == name) {
                Some((_, outer)) => *outer = said.within(outer),
                None => all.push((name, said)),
            }
        }
        self.number(Arc::clone(rule), all)
    }

    /// Stores a set of filter settings and returns its index; 0 is the empty set.
    fn number(&mut self, owner: Name, said: Overrides) -> Option<u32> {
        if said.is_empty() {
            return Some(0);
        }
        self.overrides.push(OverrideSet { owner, said });
        u32::try_from(self.overrides.len() - 1).ok()
    }

    fn said_of_filters(
        &self,
        own: &[FilterOverride],
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Overrides> {
        let filters = &self.compiler.around.http_filters;
        let mut set = Some(Overrides::new());
        for FilterOverride { filter, settings } in own {
            let here = at.key(filter);
            let Some(factory) = filters.get(filter) else {
                let known: Vec<&str> = filters.iter().map(|factory| factory.name()).collect();
                unknown_filter("HTTP filter", filter, &known, &here, diags);
                set = None;
                continue;
            };
            if check_key(filter, std::iter::empty(), &here, diags).is_none() {
                set = None;
                continue;
            }
            let said = match settings {
                None => Some(Override::Skip),
                Some(settings) => {
                    let owner = FilterOwner::Routes(self.name);
                    let plan = self.compiler.checked(&**factory, settings, owner, &here, diags);
                    plan.map(|plan| match plan.says_replace() {
                        true => Override::Instead(plan),
                        false => Override::Over(plan),
                    })
                }
            };
            match (said, &mut set) {
                (Some(said), Some(all)) => all.push((filter.as_str().into(), said)),
                _ => set = None,
            }
        }
        set
    }
}
