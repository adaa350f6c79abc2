//! What a guest knows of a connection.
//!
//! Owns: a copy of its facts, and what the guest shares about it. Refuses to know: guests, and the bytes. Keeps: it is known as long as
//! the context of the guest lasts, wherever the guest runs.

use std::cell::{OnceCell, RefCell};

use sluice_core::SharedValues;
use sluice_core::connection::{ConnInfo, Peer, TlsFacts};
use sluice_core::values::ConnValues;
use sluice_l4::rbac::conn::ConnSubject;

use crate::call::CallResult;
use crate::{properties, values};

/// What is known of a connection. Copied: functions for bytes run where the connection itself is not at hand.
#[derive(Debug)]
pub(crate) struct GuestConnFacts {
    pub(crate) id: u64,
    source: Peer,
    peer: Peer,
    local: Peer,
    sni: Option<String>,
    tls: Option<Box<TlsFacts>>,
    /// What filters shared about it before.
    values: ConnValues,
    /// What the guest shares.
    own: RefCell<SharedValues>,
    /// Cluster and endpoint, once the connection has ended.
    reached: OnceCell<(String, String)>,
}

impl GuestConnFacts {
    pub(crate) fn of(info: &ConnInfo) -> Self {
        let ConnSubject { id, source, peer, local, sni, .. } = ConnSubject::of(info);
        Self {
            id,
            source,
            peer,
            local,
            sni: sni.map(str::to_owned),
            tls: info.tls.get().cloned(),
            values: info.values.clone(),
            own: RefCell::default(),
            reached: OnceCell::new(),
        }
    }

    /// The connection has ended.
    pub(crate) fn note_end(&self, info: &ConnInfo) {
        let cluster = info.cluster().map(ToString::to_string).unwrap_or_default();
        let endpoint =
            info.reached().and_then(|of| of.endpoint.borrow().as_deref().map(str::to_owned));
        let _ = self.reached.set((cluster, endpoint.unwrap_or_default()));
    }

    pub(crate) fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let own = || values::shared(&self.own.borrow(), path);
        let reached = |text: fn(&(String, String)) -> &String| {
            let text = self.reached.get().map(text).filter(|text| !text.is_empty());
            text.map(|text| text.clone().into_bytes())
        };
        match path {
            ["cluster_name"] | ["xds", "cluster_name"] => return reached(|(cluster, _)| cluster),
            ["upstream", "address"] => return reached(|(_, endpoint)| endpoint),
            _ => {}
        }
        let subject = ConnSubject {
            id: self.id,
            source: self.source,
            peer: self.peer,
            local: self.local,
            sni: self.sni.as_deref(),
            tls: self.tls.as_deref(),
            values: &self.values,
        };
        properties::of_connection(&subject, path).or_else(own)
    }

    pub(crate) fn share(&self, path: &[&str], value: &[u8]) -> CallResult<()> {
        values::share(&mut self.own.borrow_mut(), path, value)
    }

    /// Has the record and other filters see what the guest has shared; the first time that it is something counts.
    pub(crate) fn publish(&self, info: &ConnInfo) {
        if let Some(family) = self.own.borrow().get(&values::SHARED) {
            info.values.set(&values::SHARED, family.clone());
        }
    }
}
