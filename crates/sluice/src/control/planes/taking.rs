//! Responses of control planes are taken.
//!
//! Owns: which resources of a response are new, in which portions they are read and applied, what a plane is told of them.
//! Refuses to know: streams, what a resource says. Keeps: each resource is judged alone; what a response says is applied in
//! portions of a bounded size where one resource does not depend on another.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::Moment;
use sluice_envoy::sources::ResourceSource;
use sluice_xds::{
    NeedUntil, OwnerKey, OwnerKind, PartKey, READY_CLUSTERS_MAX, ResourceFault, Versioned,
    XdsResponse, XdsType,
};

use super::applying::ApplyRound;
use super::hosts::HostsAnswered;
use super::mapper::Decoded;
use super::{Planes, RESPONSES, XdsContent};
use crate::control::Control;

impl Planes {
    /// Takes a response of a plane; returns what was not accepted.
    pub(super) async fn take(
        self: &Rc<Self>,
        control: &Rc<Control>,
        response: XdsResponse,
    ) -> Vec<ResourceFault> {
        let turn = self.turn.lock().await;
        let XdsResponse { kind, version, resources, removed, absent, complete, mut faults } =
            response;
        let mut there: HashSet<String> = faults.iter().map(|fault| fault.name.clone()).collect();
        let now = self.clock.now();
        let mut new = Vec::new();
        let hosts = HostsAnswered::of(kind, &resources, &removed, absent);
        self.arrive(kind);
        for resource in resources {
            there.insert(resource.name.clone());
            let version: Arc<str> = resource.version.as_str().into();
            let same = |content: &XdsContent| content.body == resource.body;
            if !self.inventory.borrow_mut().renew(kind, &resource.name, &version, same) {
                new.push((resource.name, version, resource.body));
            }
        }
        for fault in &faults {
            self.refuse(kind, &fault.name, &version, &fault.problem);
        }
        let missing = if kind == XdsType::Cluster { removed.clone() } else { Vec::new() };
        let mut gone = removed;
        if complete {
            gone.extend(self.missing(kind, &there));
        }
        // What is gone leaves its key to others.
        self.remove_members(kind, &gone);
        let portion = if kind == XdsType::Scope { usize::MAX } else { READY_CLUSTERS_MAX };
        let mut round = ApplyRound::default();
        let mut new = new.into_iter();
        while new.len() > 0 {
            let portion: Vec<_> = new.by_ref().take(portion).collect();
            self.read(kind, portion, &mut faults).await;
            // Listeners may take addresses of each other.
            if new.len() > 0 && matches!(kind, XdsType::Cluster | XdsType::Assignment) {
                self.advance(control, kind, Vec::new(), now, &mut round).await;
            }
        }
        self.advance(control, kind, gone, now, &mut round).await;
        let own = round.refused.iter().filter(|(of, ..)| *of == kind);
        faults.extend(own.map(|(_, name, problem)| ResourceFault {
            name: name.to_string(),
            problem: problem.clone(),
        }));
        self.stand_in(control, kind, &faults, &mut round).await;
        self.finish(control, &round).await;
        let result = if faults.is_empty() { "accepted" } else { "rejected" };
        control.shard.counter(&RESPONSES, &[kind.discovery(), result]).increment();
        self.answered.borrow_mut().insert(kind);
        if !missing.is_empty() {
            self.answer_demands(control, &missing);
        }
        if let Some(hosts) = hosts {
            self.answer_hosts(control, &hosts);
        }
        drop(turn);
        self.subscribe(control);
        self.changed.notify_one();
        faults
    }

    /// Reads resources and adds them to those that are there.
    async fn read(
        &self,
        kind: XdsType,
        portion: Vec<(String, Arc<str>, Bytes)>,
        faults: &mut Vec<ResourceFault>,
    ) {
        let decoded = self.with_mapper(move |mapper| {
            let decode = |(name, version, body): (String, Arc<str>, Bytes)| {
                let decoded = mapper.decode(kind, &body);
                // As received, it keeps the memory of the whole message.
                (name, version, Bytes::copy_from_slice(&body), decoded)
            };
            portion.into_iter().map(decode).collect::<Vec<_>>()
        });
        let decoded = decoded.await;
        // Scopes may swap their keys.
        let scopes =
            decoded.iter().filter(|(.., of)| of.as_ref().is_ok_and(|of| of.scope.is_some()));
        scopes.for_each(|(name, ..)| self.demands.scopes.release(name));
        for (name, version, body, decoded) in decoded {
            let decoded = decoded.and_then(|decoded| {
                let scope = decoded.scope.as_ref();
                match scope.and_then(|scope| self.conflict_of_scope(&name, scope)) {
                    None => Ok(decoded),
                    Some(problem) => {
                        self.demands.scopes.reclaim(&name);
                        Err(problem)
                    }
                }
            });
            let problem = match decoded {
                Ok(decoded) => {
                    if self.offer(kind, &name, &version, decoded, body, false) {
                        continue;
                    }
                    format!("the bootstrap has a {kind} of this name; rename one of the two")
                }
                Err(problem) => problem,
            };
            self.refuse(kind, &name, &version, &problem);
            faults.push(ResourceFault { name, problem });
        }
    }

    /// The clusters, listeners or scopes that a complete response does not have any more.
    fn missing(&self, kind: XdsType, there: &HashSet<String>) -> Vec<String> {
        let inventory = self.inventory.borrow();
        if kind == XdsType::Scope {
            let group = PartKey::scopes();
            let names = inventory.members(&group);
            return names
                .filter(|name| !there.contains(&***name))
                .map(ToString::to_string)
                .collect();
        }
        let Some(of) = OwnerKind::of(kind) else { return Vec::new() };
        let names = inventory.names(of).filter(|name| !there.contains(&***name));
        names.map(ToString::to_string).collect()
    }

    /// A plane has said what there is of a type, where that is needed rather than single parts.
    fn arrive(&self, kind: XdsType) {
        let mut inventory = self.inventory.borrow_mut();
        let groups = inventory.needed().filter(|key| key.kind == kind && key.is_group());
        let groups: Vec<PartKey> = groups.cloned().collect();
        groups.iter().for_each(|group| inventory.arrive(group));
    }

    /// Removes what is needed only as long as it is there.
    pub(super) fn remove_members(&self, kind: XdsType, gone: &[String]) {
        let mut inventory = self.inventory.borrow_mut();
        for name in gone {
            let is_gone = inventory.remove_part(&PartKey { kind, name: name.as_str().into() });
            if kind == XdsType::Scope {
                self.demands.scopes.forget(name);
            }
            if is_gone && let Some(last) = &self.last_good {
                last.note_change();
            }
        }
    }

    /// Adds a resource that was read; `false` if the bootstrap has one of its name.
    pub(super) fn offer(
        &self,
        kind: XdsType,
        name: &str,
        version: &Arc<str>,
        decoded: Decoded,
        body: Bytes,
        fixed: bool,
    ) -> bool {
        let Decoded { message, mut needs, demand, scope, warnings, has_secret } = decoded;
        if let Some(demand) = demand {
            self.demands.source.borrow_mut().get_or_insert(demand);
        }
        for warning in warnings {
            tracing::warn!("{kind} `{name}`: {warning}");
        }
        let now = self.clock.now();
        self.note_reported_as(kind, name, &message);
        let content = XdsContent { read: Some(message).into(), body, has_secret };
        let (version, owner) = (Arc::clone(version), OwnerKind::of(kind));
        let part = PartKey { kind, name: name.into() };
        // Where the parts of what nobody needs come from does not matter.
        if owner.is_none() && !self.inventory.borrow().is_used(&part) {
            return true;
        }
        if let Some(scope) = scope {
            self.note_scope(name, scope, &mut needs);
        }
        let needs = self.note_sources(needs, now);
        let Some(kind) = owner else {
            let versioned = Versioned { version, since: now, content, needs };
            self.inventory.borrow_mut().offer_part(part, versioned);
            return true;
        };
        let versioned = Versioned { version, since: now, content, needs: Box::default() };
        let key = OwnerKey { kind, name: name.into() };
        self.inventory.borrow_mut().offer(key, versioned, needs, fixed)
    }

    /// Notes where parts come from; returns until when each is waited for.
    pub(super) fn note_sources(
        &self,
        needs: Vec<(PartKey, ResourceSource)>,
        now: Moment,
    ) -> Box<[NeedUntil]> {
        let mut sources = self.part_sources.borrow_mut();
        let noted = needs.into_iter().map(|(part, ResourceSource { from, fetch_timeout })| {
            let until = fetch_timeout.map_or(Moment::NEVER, |time| now.after(time));
            let before = sources.insert(part.clone(), from.clone());
            if before.is_some_and(|before| before != from) {
                self.subscribed.set(None);
            }
            NeedUntil { part, until }
        });
        noted.collect()
    }

    pub(super) fn refuse(&self, kind: XdsType, name: &str, version: &str, problem: &str) {
        tracing::warn!("{kind} `{name}` of the control plane is not accepted: {problem}");
        let now = self.clock.now();
        self.inventory.borrow_mut().refuse(kind, name, version, problem, now);
    }
}
