//! Converts a chain's `match` to criteria, and derives what inspection a listener needs for them.
//!
//! Owns: what a match implies, which matches are impossible, and the names of chains. Refuses to know: handlers.

use std::sync::Arc;

use sluice_core::{Diags, ListenAddress, Name, Path, Protocol, Spanned, TransportKind};
use sluice_l4::Criteria;
use sluice_l4::inspect::Needs;
use sluice_l4::inspect::http::{HTTP1, HTTP2};
use sluice_l4::inspect::postgres::{self, POSTGRES};
use sluice_l4::inspect::tls::TLS;

use crate::sections::{Chain, Match, ProtocolMatch, TransportMatch};

/// The position of a chain, as far as it determines what it can match.
#[derive(Clone, Copy, Debug)]
pub struct ChainPlace<'a> {
    /// The addresses of its listener.
    pub addresses: &'a [ListenAddress],
    /// Whether a PROXY header may name another destination.
    pub proxied: bool,
    /// Whether the chain is inside a terminated stream.
    pub inside: bool,
    /// Whether its listener accepts QUIC.
    pub quic: bool,
}

/// The name of a chain in logs and metrics.
pub(crate) fn chain_name(index: usize, name: Option<&Name>, matches: bool) -> Name {
    match name {
        Some(name) => Arc::clone(name),
        None if !matches => "default".into(),
        None => format!("chain{index}").into(),
    }
}

/// The criteria of a match, with implied ones made explicit.
pub fn criteria(of: Option<&Match>) -> Criteria {
    let Some(of) = of else { return Criteria::default() };
    // Fields are listed by name: a forgotten one would make its chain match too much.
    let Match {
        port,
        destination,
        sni,
        transport: transports,
        alpn,
        protocol: protocols,
        database,
        user,
        source,
        source_port,
    } = of;
    Criteria {
        ports: port.clone(),
        destinations: destination.clone(),
        names: sni.iter().map(|name| name.0.clone()).collect(),
        transports: transports.iter().copied().map(transport).collect(),
        alpn: alpn.iter().map(|alpn| alpn.clone().into_bytes()).collect(),
        protocols: protocols.iter().copied().map(protocol).collect(),
        words: [(&postgres::DATABASE, database), (&postgres::USER, user)]
            .into_iter()
            .filter(|(_, words)| !words.is_empty())
            .map(|(fact, words)| (fact, words.clone()))
            .collect(),
        sources: source.clone(),
        source_ports: source_port.clone(),
    }
}

const fn transport(of: TransportMatch) -> TransportKind {
    match of {
        TransportMatch::Plain => TransportKind::Plain,
        TransportMatch::Tls => TransportKind::Tls,
        TransportMatch::Quic => TransportKind::Quic,
    }
}

/// The protocol by its word, which is the same in configuration as in the inspector's declaration.
const fn protocol(of: ProtocolMatch) -> Protocol {
    Protocol::new(of.word())
}

/// What the inspection of a chain's connections depends on.
#[derive(Clone, Debug, Default)]
pub struct ChainNeeds {
    /// Which connections it takes.
    pub criteria: Criteria,
    /// Whether it terminates TLS.
    pub terminates: bool,
    /// Whether what serves its connections reads the server name.
    pub reads_name: bool,
}

/// The inspection that the chains of a listener need.
pub fn needs(chains: &[ChainNeeds], inside: bool) -> Needs {
    let mut needs = Needs::default();
    for ChainNeeds { criteria, terminates, reads_name } in chains {
        let wants_hello = *reads_name
            || !(criteria.names.is_empty()
                && criteria.alpn.is_empty()
                && criteria.transports.is_empty());
        // A match on a fact of a protocol, such as a database, implies the protocol.
        let implied = criteria.words.iter().map(|(fact, _)| fact.protocol);
        let protocols = criteria.protocols.iter().copied().chain(implied);
        let takes_tls = !inside && (*terminates || *reads_name || !criteria.names.is_empty());
        for protocol in protocols {
            needs.add(protocol);
            if takes_tls {
                needs.grant_tls(protocol);
            }
        }
        // Inside a terminated stream, server name and ALPN are known from the handshake.
        if wants_hello && !inside {
            needs.add(TLS);
        }
    }
    if inside && !chains.iter().any(|of| of.criteria.protocols.contains(&TLS)) {
        needs.remove(TLS);
    }
    needs
}

/// Reports a match that can never succeed.
pub fn check_possible(
    of: &Spanned<Match>,
    criteria: &Criteria,
    place: ChainPlace<'_>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    if let Some((why, help)) = why_impossible(criteria, place) {
        diags
            .error("impossible-match", of.span, at, format!("this chain can never match: {why}"))
            .help(help);
    }
}

/// Reports a chain whose match and handler exclude each other.
pub fn check_handler(chain: &Spanned<Chain>, of: &Criteria, at: &Path<'_>, diags: &mut Diags) {
    let ends_tls = chain.tls.is_some();
    // A tunnel carries whatever comes.
    let reads_http = chain.http.as_ref().is_some_and(|http| http.0.tunnel.is_none());
    let in_tls = !(of.names.is_empty() && of.alpn.is_empty())
        || of.transports == [TransportKind::Tls]
        || of.protocols == [TLS];
    if in_tls && !ends_tls && reads_http {
        diags
            .error(
                "wrong-kind",
                chain.span,
                at.key("tls"),
                "this chain receives TLS, which `http` cannot read without `tls`",
            )
            .help("add `tls: { certificates: [{ cert: FILE, key: FILE }] }`, or pass TLS through with `relay`");
        return;
    }
    let carries = |protocol: &Protocol| {
        let any_http = [HTTP1, HTTP2, Protocol::SILENT, Protocol::UNKNOWN];
        if ends_tls { [TLS, POSTGRES].contains(protocol) } else { any_http.contains(protocol) }
    };
    let handled = ends_tls || reads_http;
    if handled && !of.protocols.is_empty() && !of.protocols.iter().any(carries) {
        let (key, what, help) = if ends_tls {
            (
                "tls",
                "this chain receives plaintext, which `tls` cannot terminate",
                "remove `tls`, or match the protocol in inner `chains`",
            )
        } else {
            (
                "http",
                "this chain receives streams that are not HTTP",
                "use `relay`, or match `protocol: [http1, http2]`",
            )
        };
        diags.error("wrong-kind", chain.span, at.key(key), what).help(help);
    } else if ends_tls && of.transports == [TransportKind::Plain] {
        diags
            .error(
                "wrong-kind",
                chain.span,
                at.key("tls"),
                "this chain receives plaintext, which `tls` cannot terminate",
            )
            .help("match `transport: tls`, or remove `tls`");
    }
}

fn why_impossible(
    criteria: &Criteria,
    place: ChainPlace<'_>,
) -> Option<(&'static str, &'static str)> {
    let protocols = &criteria.protocols;
    let named = |one: Protocol| protocols.contains(&one);
    let of_hello = !(criteria.names.is_empty() && criteria.alpn.is_empty())
        || criteria.transports == [TransportKind::Tls];
    let udp = place.addresses.iter().any(|address| matches!(address, ListenAddress::Udp(_)));
    if !udp && !place.quic && criteria.transports == [TransportKind::Quic] {
        return Some((
            "this listener does not receive QUIC",
            "listen on udp://, or set `quic: true`",
        ));
    }
    let of_startup = !criteria.words.is_empty();
    let streams = criteria.transports.iter().all(|of| *of != TransportKind::Quic)
        && !criteria.transports.is_empty();
    if udp && (streams || of_startup || !protocols.is_empty()) {
        return Some((
            "a UDP flow can only be matched by its addresses and its QUIC ClientHello",
            "match on sni, alpn, `transport: quic`, port, destination or source",
        ));
    }
    if criteria.transports == [TransportKind::Plain]
        && !place.inside
        && !(criteria.names.is_empty() && criteria.alpn.is_empty())
    {
        return Some(("a plaintext stream has no server name and no ALPN", "remove `transport`"));
    }
    if of_hello && !place.inside && !protocols.is_empty() && !named(TLS) && !named(POSTGRES) {
        return Some((
            "until TLS is terminated, a TLS stream can only be recognised as `tls` or `postgres`",
            "terminate TLS and match the protocol in inner `chains`",
        ));
    }
    if of_startup && !protocols.is_empty() && !named(POSTGRES) {
        return Some(("only PostgreSQL has databases and users", "set `protocol: postgres`"));
    }
    if of_startup && of_hello && !place.inside {
        return Some((
            "the database and user are encrypted by TLS",
            "terminate TLS and match them in inner `chains`",
        ));
    }
    if !place.proxied && !place.addresses.is_empty() {
        let socket = |address: &ListenAddress| match address {
            ListenAddress::Tcp(socket) | ListenAddress::Udp(socket) => Some(*socket),
            ListenAddress::Unix(_) => None,
        };
        let sockets: Vec<_> = place.addresses.iter().filter_map(socket).collect();
        let port_fits = |port: &u16| sockets.iter().any(|s| s.port() == *port || s.port() == 0);
        if !criteria.ports.is_empty() && !criteria.ports.iter().any(port_fits) {
            return Some((
                "the listener does not listen on any of these ports",
                "compare them with `address`",
            ));
        }
        let block_fits = |block: &sluice_core::Cidr| {
            sockets.iter().any(|s| s.ip().is_unspecified() || block.holds(s.ip()))
        };
        if !criteria.destinations.is_empty() && !criteria.destinations.iter().any(block_fits) {
            return Some((
                "the listener has no address in these blocks",
                "compare them with `address`",
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::{Setting as _, Shape};
    use sluice_l4::inspect::INSPECTORS;

    #[test]
    fn every_protocol_that_is_recognised_can_be_matched() {
        let Shape::Choice(choices) = ProtocolMatch::shape() else { panic!("it has words") };
        let mut words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let mut known: Vec<&str> = INSPECTORS.iter().map(|of| of.protocol.word()).collect();
        known.extend([Protocol::SILENT, Protocol::UNKNOWN].map(Protocol::word));
        words.sort_unstable();
        known.sort_unstable();
        assert_eq!(words, known);
    }
}
