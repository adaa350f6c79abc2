//! A response, taken apart.
//!
//! Owns: envelopes, names, times to live, and resources that nobody could use. Refuses to know: what was asked for, what a
//! resource says. Keeps: one resource that cannot be read leaves the others alone.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message as _;

use super::XdsResource;
use crate::messages::{AnyMessage, ENVELOPE, NamedMessage, ResourceEnvelope, TtlMessage};
use crate::{ResourceFault, XdsType};

/// A response as it is taken apart.
#[derive(Debug, Default)]
pub(super) struct Taking {
    pub(super) resources: Vec<XdsResource>,
    pub(super) removed: Vec<String>,
    /// Names that there is nothing of.
    pub(super) absent: Vec<String>,
    pub(super) ttls: Vec<(String, Option<Duration>)>,
    pub(super) faults: Vec<TakenFault>,
    names: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct TakenFault {
    pub(super) fault: ResourceFault,
    /// Whether the resource has a name.
    pub(super) named: bool,
}

impl Taking {
    fn fault(&mut self, name: Option<String>, place: usize, problem: String) {
        let named = name.is_some();
        let name = name.unwrap_or_else(|| format!("resources[{place}]"));
        self.faults.push(TakenFault { fault: ResourceFault { name, problem }, named });
    }

    /// Takes a resource of the state-of-the-world form.
    pub(super) fn sotw(&mut self, kind: XdsType, place: usize, any: AnyMessage, version: &str) {
        if any.type_url != ENVELOPE {
            return self.resource(kind, place, None, version.to_owned(), any);
        }
        match ResourceEnvelope::decode(any.value) {
            Ok(envelope) => self.delta(
                kind,
                place,
                ResourceEnvelope { version: version.to_owned(), ..envelope },
            ),
            Err(error) => self.fault(None, place, format!("it cannot be decoded: {error}")),
        }
    }

    /// Takes one of the incremental form.
    pub(super) fn delta(&mut self, kind: XdsType, place: usize, envelope: ResourceEnvelope) {
        let ResourceEnvelope { version, resource, name, aliases, ttl } = envelope;
        let ttl = ttl.and_then(TtlMessage::time);
        match resource {
            // A resource without content renews the time to live of what is there.
            None if !name.is_empty() && ttl.is_some() => self.ttls.push((name, ttl)),
            // That is how a plane says that there is no such host.
            None if kind == XdsType::VirtualHost && !name.is_empty() => {
                self.absent.push(name);
                self.absent.extend(aliases);
            }
            None => self.fault((!name.is_empty()).then_some(name), place, "it is empty".to_owned()),
            Some(any) => {
                let before = self.resources.len();
                self.resource(kind, place, Some(name), version, any);
                if let Some(taken) = self.resources.get_mut(before) {
                    taken.aliases = aliases;
                    self.ttls.push((taken.name.clone(), ttl));
                }
            }
        }
    }

    fn resource(
        &mut self,
        kind: XdsType,
        place: usize,
        name: Option<String>,
        version: String,
        any: AnyMessage,
    ) {
        let name = name.filter(|name| !name.is_empty());
        if any.type_url != kind.url() {
            let problem = format!("it is of the type `{}`, not {}", any.type_url, kind.url());
            return self.fault(name, place, problem);
        }
        let inner = match NamedMessage::decode(any.value.clone()) {
            Ok(message) => message.name,
            Err(error) => return self.fault(name, place, format!("it cannot be decoded: {error}")),
        };
        // A virtual host does not say of which table it is.
        let inner = if kind == XdsType::VirtualHost { String::new() } else { inner };
        if inner.is_empty() && name.is_none() {
            return self.fault(None, place, "it has no name".to_owned());
        }
        if let Some(name) = name.as_ref().filter(|name| !inner.is_empty() && **name != inner) {
            let problem = format!("its own name is `{inner}`; send it under that name");
            return self.fault(Some(name.clone()), place, problem);
        }
        let name = name.unwrap_or(inner);
        if !self.names.insert(name.clone()) {
            self.resources.retain(|other| other.name != name);
            let problem = "the response has two resources of this name; send one".to_owned();
            return self.fault(Some(name), place, problem);
        }
        self.resources.push(XdsResource { name, version, body: any.value, aliases: Vec::new() });
    }
}
