//! Client certificates per host: which chain of a listener asks its clients for which certificates.
//!
//! Owns: the check whether a request names a host with other client authentication than that of its connection
//! (RFC 9110 §15.5.20). Refuses to know: certificates, and the response to the request. Keeps: hosts map to chains
//! through the index that also selects the chains of connections, so the two cannot diverge.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_core::{ConnInfo, Facts, TransportKind};
use sluice_l4::inspect::tls;
use sluice_l4::{ChainInput, ChainTable};

use crate::host_name::bare_host;

/// A number for what a chain asks of its clients; chains with the same authorities, revocations and mode share it.
pub type Requirement = u32;

/// An index over chains, with what each chain asks of its clients.
#[derive(Debug)]
pub struct ChainsByName {
    /// The index.
    pub table: ChainTable,
    /// What each chain of the index asks for, by its place there.
    pub requirements: Vec<Requirement>,
}

/// The chains of a listener whose chains do not all ask for the same.
#[derive(Debug)]
pub struct ListenerClientAuth {
    /// For TCP connections.
    pub tcp: ChainsByName,
    /// For QUIC connections, if the listener serves them.
    pub quic: Option<ChainsByName>,
}

/// The client authentication of a listener, as seen by one of its chains.
#[derive(Clone, Debug)]
pub struct OwnClientAuth {
    /// All chains of the listener.
    pub listener: Arc<ListenerClientAuth>,
    /// What this chain asked of the client.
    pub own: Requirement,
}

impl OwnClientAuth {
    /// Whether a request for `authority` on the connection `info` belongs to a chain that asks its clients for other
    /// certificates, namely the chain selected for a client that sends this host as its server name.
    ///
    /// A cleartext connection has no server name: its chain was selected without one, so no request on it is
    /// misdirected. A request without an authority names no host. Allocates only if the host has upper-case letters.
    pub fn misdirected(&self, authority: &str, info: &ConnInfo) -> bool {
        self.differs(authority, info, false)
    }

    /// The same for CONNECT, whose authority is the target of the tunnel: only a host that a chain names belongs to
    /// this listener.
    pub fn misdirected_tunnel(&self, authority: &str, info: &ConnInfo) -> bool {
        self.differs(authority, info, true)
    }

    fn differs(&self, authority: &str, info: &ConnInfo, named_only: bool) -> bool {
        if authority.is_empty() || info.tls.get().is_none() {
            return false;
        }
        let none = Facts::default();
        let facts = info.facts.get().map_or(&none, |facts| &**facts);
        let host = bare_host(authority);
        // A client that connects to an IP address sends no server name.
        let name = (!is_address(&host)).then_some(&*host);
        if name == facts.get(&tls::SNI) {
            return false;
        }
        let listener = &self.listener;
        let chains = listener
            .quic
            .as_ref()
            .filter(|_| facts.transport == TransportKind::Quic)
            .unwrap_or(&listener.tcp);
        let subject = ChainInput::of(info, facts);
        let chain = chains.table.find_named(&subject, name);
        if named_only && chain == chains.table.find_named(&subject, None) {
            return false;
        }
        chain.is_some_and(|chain| chains.requirements[chain] != self.own)
    }
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluice_core::Moment;
    use sluice_core::connection::{Peer, TlsFacts};
    use sluice_core::value::parse_name_pattern;
    use sluice_l4::Criteria;

    fn criteria(names: &[&str]) -> Criteria {
        let names = names.iter().map(|name| parse_name_pattern(name).unwrap()).collect();
        Criteria { names, ..Criteria::default() }
    }

    /// A TLS connection with the server name `name`.
    fn connection(name: Option<&str>, from: [u8; 4]) -> ConnInfo {
        let end = |ip: [u8; 4], port| Peer::Ip((ip, port).into());
        let info =
            ConnInfo::new(1, "l".into(), end(from, 5000), end([127, 0, 0, 1], 443), Moment::NEVER);
        let mut facts = Facts::new(Some(tls::TLS), TransportKind::Tls);
        if let Some(name) = name {
            facts.set(&tls::SNI, name.into());
        }
        info.facts.set(Box::new(facts)).unwrap();
        let tls = TlsFacts {
            version: "1.3",
            cipher: "c",
            alpn: None,
            client: None,
            resumed: false,
            early: false,
        };
        info.tls.set(Box::new(tls)).unwrap();
        info
    }

    fn chains(all: &[(Criteria, Requirement)]) -> ChainsByName {
        let (criteria, requirements): (Vec<_>, Vec<_>) = all.iter().cloned().unzip();
        ChainsByName { table: ChainTable::build(&criteria).unwrap(), requirements }
    }

    fn own(listener: &Arc<ListenerClientAuth>, own: Requirement) -> OwnClientAuth {
        OwnClientAuth { listener: Arc::clone(listener), own }
    }

    /// Public hosts, protected hosts, and one host that is protected by another authority.
    fn listener() -> Arc<ListenerClientAuth> {
        let tcp = chains(&[
            (criteria(&["public.test", "*.open.test"]), 0),
            (criteria(&["admin.test", "*.admin.test"]), 1),
            (criteria(&["a.open.test"]), 2),
        ]);
        Arc::new(ListenerClientAuth { tcp, quic: None })
    }

    #[test]
    fn a_host_of_a_chain_with_other_client_authentication_is_misdirected() {
        let listener = listener();
        let from_public = |host: &str| {
            own(&listener, 0).misdirected(host, &connection(Some("public.test"), [127, 0, 0, 2]))
        };
        for host in ["public.test", "Public.Test:443", "b.open.test", "nobody.test", "", "[::1]"] {
            assert!(!from_public(host), "{host}");
        }
        for host in [
            "admin.test",
            "ADMIN.test",
            "admin.test:8443",
            "admin.test.",
            "admin.test.:443",
            "x.admin.test",
            "a.open.test",
        ] {
            assert!(from_public(host), "{host}");
        }
        let long = format!("{}.admin.test", "a".repeat(400));
        assert!(from_public(&long), "a name that no hello could hold");
        let from_admin = |host: &str| {
            own(&listener, 1).misdirected(host, &connection(Some("admin.test"), [127, 0, 0, 2]))
        };
        assert!(!from_admin("x.admin.test") && from_admin("public.test"));
    }

    #[test]
    fn a_default_chain_takes_hosts_without_a_chain_and_addresses() {
        let tcp = chains(&[(criteria(&["admin.test"]), 1), (criteria(&[]), 0)]);
        let listener = Arc::new(ListenerClientAuth { tcp, quic: None });
        let without_name = connection(None, [127, 0, 0, 2]);
        assert!(own(&listener, 0).misdirected("admin.test", &without_name));
        assert!(!own(&listener, 0).misdirected("127.0.0.1:443", &without_name));
        let admin = connection(Some("admin.test"), [127, 0, 0, 2]);
        for host in ["127.0.0.1", "[::1]:443", "other.test"] {
            assert!(own(&listener, 1).misdirected(host, &admin), "{host}");
        }
    }

    #[test]
    fn other_criteria_and_the_transport_count_as_in_selection() {
        let near = Criteria {
            sources: vec![sluice_core::Cidr::parse("127.0.0.3").unwrap()],
            ..criteria(&["admin.test"])
        };
        let tcp =
            chains(&[(criteria(&["public.test"]), 0), (near, 0), (criteria(&["admin.test"]), 1)]);
        let quic = Some(chains(&[(criteria(&[]), 0)]));
        let listener = Arc::new(ListenerClientAuth { tcp, quic });
        let asks = |info: &ConnInfo| own(&listener, 0).misdirected("admin.test", info);
        assert!(asks(&connection(Some("public.test"), [127, 0, 0, 2])));
        assert!(!asks(&connection(Some("public.test"), [127, 0, 0, 3])), "an open chain by source");
        let mut over_quic = connection(Some("public.test"), [127, 0, 0, 2]);
        over_quic.facts.get_mut().unwrap().transport = TransportKind::Quic;
        assert!(!asks(&over_quic), "QUIC has chains of its own");
        let mut in_clear = connection(Some("public.test"), [127, 0, 0, 2]);
        in_clear.tls.take();
        assert!(!asks(&in_clear));
    }

    proptest! {
        /// The property: misdirected exactly if the host would select a chain that asks for something else.
        #[test]
        fn hosts_are_judged_as_selection_judges_server_names(
            patterns in prop::collection::btree_set("(\\*\\.)?[ab]\\.(test|a)", 1..6),
            requirements in prop::collection::vec(0_u32..3, 6),
            default: bool,
            host in "[ab]\\.([ab]\\.)?(test|a)",
        ) {
            let mut all: Vec<_> =
                patterns.iter().zip(&requirements).map(|(name, of)| (criteria(&[name]), *of)).collect();
            if default {
                all.push((criteria(&[]), 0));
            }
            let listener = Arc::new(ListenerClientAuth { tcp: chains(&all), quic: None });
            let selected = |name: &str| {
                let info = connection(Some(name), [127, 0, 0, 2]);
                listener.tcp.table.find(&ChainInput::of(&info, info.facts.get().unwrap()))
            };
            let mine = "a.test";
            let Some(chain) = selected(mine) else { return Ok(()) };
            let own = own(&listener, listener.tcp.requirements[chain]);
            let other = selected(&host).is_some_and(|of| listener.tcp.requirements[of] != own.own);
            let info = connection(Some(mine), [127, 0, 0, 2]);
            prop_assert_eq!(own.misdirected(&format!("{host}:443"), &info), other);
        }
    }
}
