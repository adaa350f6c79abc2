//! One discovery stream, or a succession of them to the same plane.
//!
//! Owns: what was asked for, what was answered, nonces, versions, times to live. Refuses to know: connections, and what a
//! resource says. Keeps: one answer per response; a request carries the newest nonce of its type on this stream and no
//! other; while a response is not answered, nothing else is sent about its type; what was accepted is remembered across
//! streams, so that a plane sends only what is new.
//!
//! Source: "xDS REST and gRPC protocol" of Envoy's documentation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_core::Moment;

use crate::messages::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, ErrorDetail,
};
use crate::{ResourceFault, XdsType, nack};

mod taking;

#[cfg(test)]
mod tests;

use taking::Taking;

/// `INVALID_ARGUMENT`: what was sent cannot be used.
const REFUSED: i32 = 3;

/// The form of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiscoveryForm {
    /// Each response has all resources of its type that were asked for.
    Sotw,
    /// Each response has what changed.
    Delta,
}

/// The resources of a type that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedNames {
    /// All there are.
    All,
    /// Those with these names.
    These(BTreeSet<String>),
    /// Those whose names begin with one of these, of which a plane sends what it wants to; and by name what it may not have
    /// sent. For the incremental form.
    Below {
        /// Prefixes.
        groups: BTreeSet<String>,
        /// Names, or aliases.
        names: BTreeSet<String>,
    },
}

impl WantedNames {
    /// Whether a resource of this name is wanted.
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
            Self::Below { groups, .. } => {
                name.rfind('/').is_some_and(|at| groups.contains(&name[..=at]))
            }
        }
    }

    /// The names that a plane is told.
    fn named(&self) -> BTreeSet<String> {
        match self {
            Self::All => BTreeSet::new(),
            Self::These(names) | Self::Below { names, .. } => names.clone(),
        }
    }

    /// Whether nothing is wanted.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::All => false,
            Self::These(names) => names.is_empty(),
            Self::Below { groups, .. } => groups.is_empty(),
        }
    }
}

/// What a plane is told to send all there is in addition to names.
const WILDCARD: &str = "*";

/// A resource as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdsResource {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its message, encoded.
    pub body: Bytes,
    /// Other names that it may be asked for by.
    pub aliases: Vec<String>,
}

/// A response that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdsResponse {
    /// The type of all its resources.
    pub kind: XdsType,
    /// The version of the whole; empty if the plane does not say one.
    pub version: String,
    /// The resources that were asked for.
    pub resources: Vec<XdsResource>,
    /// Those that exist no longer.
    pub removed: Vec<String>,
    /// Names that were asked for and that there is nothing of.
    pub absent: Vec<String>,
    /// Whether what is neither among `resources` nor among `faults` is gone.
    pub complete: bool,
    /// Resources that cannot be used, whatever they say.
    pub faults: Vec<ResourceFault>,
}

/// A request to be sent.
#[derive(Clone, Debug, PartialEq)]
pub enum XdsRequest {
    /// In the state-of-the-world form.
    Sotw(DiscoveryRequest),
    /// In the incremental form.
    Delta(DeltaDiscoveryRequest),
}

/// A response as it was received.
#[derive(Clone, Debug, PartialEq)]
pub enum XdsMessage {
    /// In the state-of-the-world form.
    Sotw(DiscoveryResponse),
    /// In the incremental form.
    Delta(DeltaDiscoveryResponse),
}

/// The protocol of one stream after another to the same plane.
#[derive(Debug)]
pub struct StreamMachine {
    form: DiscoveryForm,
    /// The node, encoded.
    node: Bytes,
    /// Whether only the first request of a stream has the node.
    node_once: bool,
    node_sent: bool,
    open: bool,
    subscriptions: BTreeMap<XdsType, XdsSubscription>,
}

/// What is known of one type.
#[derive(Debug, Default)]
struct XdsSubscription {
    wanted: Option<WantedNames>,
    /// What the plane was asked for on this stream; `None` before the first request.
    told: Option<WantedNames>,
    /// Whether that is what is wanted: names are many, so they are compared when they change only.
    in_step: bool,
    /// The version of the whole that was accepted last.
    version: String,
    /// The nonce of the newest response on this stream.
    nonce: String,
    /// The response that has no answer yet.
    pending: Option<PendingResponse>,
    /// What is to be answered: nothing, or an error.
    answer: Option<Option<String>>,
    /// The versions of resources that were accepted.
    versions: BTreeMap<String, String>,
    /// When resources are no longer valid.
    expiries: BTreeMap<String, Moment>,
}

/// What an answer says about its response.
#[derive(Debug)]
struct PendingResponse {
    version: String,
    versions: Vec<(String, String)>,
    removed: Vec<String>,
    /// Whether its stream is still open.
    current: bool,
}

impl StreamMachine {
    /// A machine without a stream and without subscriptions. `node` is encoded; it is in the first request of each stream
    /// if `node_once`, otherwise in every request.
    pub const fn new(form: DiscoveryForm, node: Bytes, node_once: bool) -> Self {
        let subscriptions = BTreeMap::new();
        Self { form, node, node_once, node_sent: false, open: false, subscriptions }
    }

    /// The form of its streams.
    pub const fn form(&self) -> DiscoveryForm {
        self.form
    }

    /// Asks for resources, in place of those of the type that were asked for before. Returns whether a plane that has sent
    /// them before, when nobody wanted them, only learns of it on a new stream.
    pub fn want(&mut self, kind: XdsType, wanted: WantedNames) -> bool {
        let subscription = self.subscriptions.entry(kind).or_default();
        subscription.versions.retain(|name, _| wanted.has(name));
        subscription.expiries.retain(|name, _| wanted.has(name));
        let is_missed = match (&subscription.told, &wanted) {
            (
                Some(WantedNames::Below { groups: before, .. }),
                WantedNames::Below { groups, .. },
            ) => !groups.is_subset(before),
            _ => false,
        };
        subscription.in_step = subscription.told.as_ref() == Some(&wanted);
        subscription.wanted = Some(wanted);
        is_missed
    }

    /// Notes that a resource which was asked for is there already. The plane is told at the beginning of a stream; returns
    /// whether that was before, so that it does not know.
    pub fn remember(&mut self, kind: XdsType, name: &str, version: &str) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(&kind) else { return false };
        let is_wanted = subscription.wanted.as_ref().is_some_and(|wanted| wanted.has(name));
        if is_wanted {
            subscription.versions.insert(name.to_owned(), version.to_owned());
        }
        is_wanted && subscription.told.is_some()
    }

    /// Whether a resource lives only as long as it is renewed.
    pub fn expires(&self, kind: XdsType, name: &str) -> bool {
        self.subscriptions.get(&kind).is_some_and(|of| of.expiries.contains_key(name))
    }

    /// The version of a type that was accepted last; empty if none was.
    pub fn version(&self, kind: XdsType) -> &str {
        self.subscriptions.get(&kind).map_or("", |of| &of.version)
    }

    /// A stream was opened.
    pub fn opened(&mut self) {
        self.closed();
        self.open = true;
    }

    /// The stream has ended.
    pub fn closed(&mut self) {
        (self.open, self.node_sent) = (false, false);
        for subscription in self.subscriptions.values_mut() {
            (subscription.told, subscription.in_step) = (None, false);
            subscription.answer = None;
            subscription.nonce.clear();
            if let Some(pending) = &mut subscription.pending {
                pending.current = false;
            }
        }
    }

    /// The next request to be sent: an answer, or a change of what is asked for.
    pub fn poll_request(&mut self) -> Option<XdsRequest> {
        if !self.open {
            return None;
        }
        let mut of = self.subscriptions.iter_mut();
        let (kind, subscription) = of.find(|(_, of)| of.has_request())?;
        let with_node = !(self.node_once && self.node_sent);
        let node = with_node.then(|| self.node.clone());
        self.node_sent = true;
        Some(match self.form {
            DiscoveryForm::Sotw => XdsRequest::Sotw(subscription.sotw(*kind, node)),
            DiscoveryForm::Delta => XdsRequest::Delta(subscription.delta(*kind, node)),
        })
    }

    /// Takes a response, which must be answered before the next of its type; `None` if nobody asked for its type, or it is
    /// not of the form of this stream.
    pub fn receive(&mut self, message: XdsMessage, now: Moment) -> Option<XdsResponse> {
        let (url, nonce) = match &message {
            XdsMessage::Sotw(response) => (&response.type_url, &response.nonce),
            XdsMessage::Delta(response) => (&response.type_url, &response.nonce),
        };
        let kind = XdsType::of_url(url)?;
        let subscription = self.subscriptions.get_mut(&kind).filter(|of| of.told.is_some())?;
        nonce.clone_into(&mut subscription.nonce);
        let mut taking = Taking::default();
        let (version, complete) = match message {
            XdsMessage::Sotw(response) => {
                for (place, any) in response.resources.into_iter().enumerate() {
                    taking.sotw(kind, place, any, &response.version_info);
                }
                (response.version_info, kind.is_complete())
            }
            XdsMessage::Delta(response) => {
                for (place, envelope) in response.resources.into_iter().enumerate() {
                    taking.delta(kind, place, envelope);
                }
                taking.removed = response.removed_resources;
                (response.system_version_info, false)
            }
        };
        Some(subscription.begin(kind, version, complete, taking, now))
    }

    /// Answers the response of a type: it was accepted apart from `faults`.
    pub fn answer(&mut self, kind: XdsType, faults: &[ResourceFault]) {
        let Some(subscription) = self.subscriptions.get_mut(&kind) else { return };
        let Some(pending) = subscription.pending.take() else { return };
        let refused: BTreeSet<&str> = faults.iter().map(|fault| &*fault.name).collect();
        let accepted = pending.versions.into_iter();
        let accepted = accepted.filter(|(name, _)| !refused.contains(&**name));
        subscription.versions.extend(accepted);
        for name in &pending.removed {
            subscription.versions.remove(name);
            subscription.expiries.remove(name);
        }
        if faults.is_empty() {
            subscription.version = pending.version;
        }
        if pending.current {
            subscription.answer = Some((!faults.is_empty()).then(|| nack::text(kind, faults)));
        }
    }

    /// When the next resource is no longer valid.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.subscriptions.values().flat_map(|of| of.expiries.values()).min().copied()
    }

    /// The resources that are no longer valid; each is returned once.
    pub fn expire(&mut self, now: Moment) -> Vec<(XdsType, String)> {
        let mut expired = Vec::new();
        for (kind, subscription) in &mut self.subscriptions {
            let late = subscription.expiries.iter().filter(|(_, at)| **at <= now);
            let late: Vec<String> = late.map(|(name, _)| name.clone()).collect();
            for name in late {
                subscription.expiries.remove(&name);
                subscription.versions.remove(&name);
                expired.push((*kind, name));
            }
        }
        expired
    }
}

impl XdsSubscription {
    fn has_request(&self) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        // A subscription to nothing is not begun: planes take an empty list for all there are.
        let begins = self.told.is_some() || !wanted.is_nothing();
        self.answer.is_some() || (begins && !self.in_step && self.pending.is_none())
    }

    /// The plane is told what is wanted.
    fn tell(&mut self) {
        self.told.clone_from(&self.wanted);
        self.in_step = true;
    }

    fn error(&mut self) -> Option<ErrorDetail> {
        let message = self.answer.take().flatten()?;
        Some(ErrorDetail { code: REFUSED, message })
    }

    /// A request with everything that is asked for, which answers as well.
    fn sotw(&mut self, kind: XdsType, node: Option<Bytes>) -> DiscoveryRequest {
        self.tell();
        let names = self.told.iter().flat_map(WantedNames::named).collect();
        DiscoveryRequest {
            version_info: self.version.clone(),
            node,
            resource_names: names,
            type_url: kind.url().to_owned(),
            response_nonce: self.nonce.clone(),
            error_detail: self.error(),
        }
    }

    /// A request with what is asked for in addition or no longer.
    fn delta(&mut self, kind: XdsType, node: Option<Bytes>) -> DeltaDiscoveryRequest {
        let first = self.told.is_none();
        let named = |of: &Option<WantedNames>| of.iter().flat_map(WantedNames::named).collect();
        let (before, mut after): (BTreeSet<String>, BTreeSet<String>) =
            (named(&self.told), named(&self.wanted));
        // Names alone would be all that this plane sends on this stream.
        if first && !after.is_empty() && matches!(self.wanted, Some(WantedNames::Below { .. })) {
            after.insert(WILDCARD.to_owned());
        }
        let answers = self.answer.is_some();
        self.tell();
        DeltaDiscoveryRequest {
            node,
            type_url: kind.url().to_owned(),
            resource_names_subscribe: after.difference(&before).cloned().collect(),
            resource_names_unsubscribe: before.difference(&after).cloned().collect(),
            initial_resource_versions: if first { self.versions.clone() } else { BTreeMap::new() },
            // Only an answer has a nonce.
            response_nonce: if answers { self.nonce.clone() } else { String::new() },
            error_detail: self.error(),
        }
    }

    fn begin(
        &mut self,
        kind: XdsType,
        version: String,
        complete: bool,
        taking: Taking,
        now: Moment,
    ) -> XdsResponse {
        let Taking { mut resources, mut removed, absent, ttls, mut faults, .. } = taking;
        if let Some(wanted) = &self.wanted {
            resources.retain(|resource| wanted.has(&resource.name));
            removed.retain(|name| wanted.has(name));
            faults.retain(|fault| !fault.named || wanted.has(&fault.fault.name));
        }
        // A resource whose name cannot be read may be any of those that are there.
        let complete = complete && faults.iter().all(|fault| fault.named);
        for (name, ttl) in ttls {
            match ttl {
                Some(ttl) => self.expiries.insert(name, now.after(ttl)),
                None => self.expiries.remove(&name),
            };
        }
        let versions = resources.iter().map(|of| (of.name.clone(), of.version.clone())).collect();
        let faults: Vec<ResourceFault> = faults.into_iter().map(|of| of.fault).collect();
        if complete {
            let there: BTreeSet<&str> = resources.iter().map(|of| &*of.name).collect();
            let is_there =
                |name: &str| there.contains(name) || faults.iter().any(|of| of.name == name);
            removed = self.versions.keys().filter(|name| !is_there(name)).cloned().collect();
        }
        self.pending = Some(PendingResponse {
            version: version.clone(),
            versions,
            removed: removed.clone(),
            current: true,
        });
        self.answer = None;
        XdsResponse { kind, version, resources, removed, absent, complete, faults }
    }
}
