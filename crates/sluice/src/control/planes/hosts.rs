//! Virtual hosts that requests ask for (VHDS).
//!
//! Owns: which hosts are asked for because a request needs them, who waits for them, and by which other names they are known.
//! Refuses to know: requests, streams. Keeps: a name that nobody waits for and nothing came for is asked for no longer; how many
//! are asked for is bounded.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::limits::Limit;
use sluice_xds::{PartKey, XdsResource, XdsType};
use tokio::sync::oneshot;

use super::Planes;
use crate::control::Control;

sluice_telemetry::metrics! {
    HOST_DEMANDS = "sluice_xds_host_demands_total", Counter, ["result"], "Requests that asked a control plane for their virtual host, by result: there, missing (the plane has none, or none in time) or refused (as many are asked for as may).";
    DEMANDED_HOSTS = "sluice_xds_demanded_hosts", Gauge, [], "Virtual hosts that control planes are asked for by name.";
}

/// The hosts that are asked for by name: `TABLE/HOST`.
#[derive(Debug, Default)]
pub(super) struct HostDemands {
    asked: RefCell<BTreeSet<Arc<str>>>,
    waiting: RefCell<BTreeMap<Arc<str>, Vec<oneshot::Sender<bool>>>>,
    /// The resource that has another name, too.
    aliases: RefCell<BTreeMap<Arc<str>, Arc<str>>>,
}

/// What a response says of hosts by name.
#[derive(Debug)]
pub(super) struct HostsAnswered {
    /// Those that came: their names, and the other names of each.
    there: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Those that there is nothing of.
    missing: Vec<Arc<str>>,
}

impl HostsAnswered {
    /// `None` if the response is about something else.
    pub(super) fn of(
        kind: XdsType,
        resources: &[XdsResource],
        removed: &[String],
        absent: Vec<String>,
    ) -> Option<Self> {
        if kind != XdsType::VirtualHost {
            return None;
        }
        let there = resources.iter().map(|of| {
            let aliases = of.aliases.iter().map(|alias| alias.as_str().into());
            (Arc::from(of.name.as_str()), aliases.collect())
        });
        let missing = removed.iter().cloned().chain(absent).map(Arc::from);
        Some(Self { there: there.collect(), missing: missing.collect() })
    }
}

impl Planes {
    /// Takes a question about a host. The caller has the turn.
    pub(super) fn take_host(
        self: &Rc<Self>,
        control: &Rc<Control>,
        name: Arc<str>,
        answer: oneshot::Sender<bool>,
    ) {
        let count = |result| control.shard.counter(&HOST_DEMANDS, &[result]).increment();
        let known = self.has_host(&name);
        let key = PartKey { kind: XdsType::VirtualHost, name: Arc::clone(&name) };
        if known || !self.inventory.borrow().is_used(&key) {
            count(if known { "there" } else { "missing" });
            // Who asked may have given up, here and below.
            let _ = answer.send(known);
            return;
        }
        self.prune_hosts(control, &BTreeSet::new());
        let most = control.worker.limits.size(Limit::OnDemandHosts);
        let mut asked = self.demands.hosts.asked.borrow_mut();
        let is_new = !asked.contains(&name);
        if is_new && asked.len() >= most {
            count("refused");
            let _ = answer.send(false);
            return;
        }
        let mut waiting = self.demands.hosts.waiting.borrow_mut();
        waiting.entry(Arc::clone(&name)).or_default().push(answer);
        if is_new {
            asked.insert(name);
            drop((asked, waiting));
            self.want_hosts(control);
        }
    }

    /// Whether a host is there, under its own name or another one.
    fn has_host(&self, name: &Arc<str>) -> bool {
        let inventory = self.inventory.borrow();
        let aliases = self.demands.hosts.aliases.borrow();
        let resource = aliases.get(name);
        std::iter::once(name).chain(resource).any(|of| inventory.has(XdsType::VirtualHost, of))
    }

    /// Answers the questions that a response is about.
    pub(super) fn answer_hosts(self: &Rc<Self>, control: &Rc<Control>, hosts: &HostsAnswered) {
        {
            let inventory = self.inventory.borrow();
            let mut aliases = self.demands.hosts.aliases.borrow_mut();
            let renamed: BTreeSet<&Arc<str>> = hosts.there.iter().map(|(name, _)| name).collect();
            aliases
                .retain(|_, of| !renamed.contains(of) && inventory.has(XdsType::VirtualHost, of));
            for (name, others) in &hosts.there {
                if inventory.has(XdsType::VirtualHost, name) {
                    aliases.extend(others.iter().map(|of| (Arc::clone(of), Arc::clone(name))));
                }
            }
        }
        let there = hosts.there.iter().flat_map(|(name, others)| others.iter().chain([name]));
        for name in there.chain(&hosts.missing) {
            let waiting = self.demands.hosts.waiting.borrow_mut().remove(name);
            let is_there = self.has_host(name);
            let result = if is_there { "there" } else { "missing" };
            for one in waiting.into_iter().flatten() {
                control.shard.counter(&HOST_DEMANDS, &[result]).increment();
                let _ = one.send(is_there);
            }
        }
        self.prune_hosts(control, &hosts.missing.iter().cloned().collect());
    }

    /// Asks no longer for what nobody waits for and nothing came for, or what the plane does not have.
    fn prune_hosts(self: &Rc<Self>, control: &Rc<Control>, missing: &BTreeSet<Arc<str>>) {
        let demands = &self.demands.hosts;
        demands.waiting.borrow_mut().retain(|_, all| {
            let before = all.len();
            all.retain(|one| !one.is_closed());
            let gone = (before - all.len()) as u64;
            control.shard.counter(&HOST_DEMANDS, &["missing"]).add(gone);
            !all.is_empty()
        });
        let stays = |name: &Arc<str>| {
            let waits = demands.waiting.borrow().contains_key(name);
            waits || (!missing.contains(name) && self.has_host(name))
        };
        let before = demands.asked.borrow().len();
        demands.asked.borrow_mut().retain(stays);
        if demands.asked.borrow().len() != before {
            self.want_hosts(control);
        }
    }

    fn want_hosts(self: &Rc<Self>, control: &Rc<Control>) {
        let count = self.demands.hosts.asked.borrow().len() as u64;
        control.shard.gauge(&DEMANDED_HOSTS, &[]).set(count);
        self.subscribed.set(None);
        self.subscribe(control);
    }

    /// The hosts of these tables, each with a slash behind it, that are asked for by name.
    pub(super) fn hosts_asked_of(&self, groups: &BTreeSet<String>) -> BTreeSet<String> {
        let asked = self.demands.hosts.asked.borrow();
        let of_group =
            |name: &&Arc<str>| name.rfind('/').is_some_and(|at| groups.contains(&name[..=at]));
        asked.iter().filter(of_group).map(ToString::to_string).collect()
    }
}
