//! Detection of proxy loops.
//!
//! Owns: which listener an endpoint address belongs to, and the resulting cycles of listeners and clusters.
//! Refuses to know: which chain a connection would select; where a second pass may take another one, it only warns.
//! Keeps: linear in listeners and endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path as FilePath;

use sluice_core::{Diags, Endpoint, ListenAddress, Name, Path, Span, Spanned};

use super::routes::{keeps_requests, led_to};
use crate::sections::{Cluster, ClusterProtocol, Config, Listener};

/// Reports clusters that lead back to the listener whose traffic they receive.
pub fn loops(config: &Config, diags: &mut Diags) {
    let listeners: Vec<&Spanned<Listener>> = config.listeners.iter().collect();
    let places: Vec<usize> = config.listeners.places().map(|(place, _)| place).collect();
    let addresses = Addresses::of(&listeners);
    let mut edges: Vec<Vec<LoopEdge<'_>>> = Vec::new();
    for (from, listener) in listeners.iter().enumerate() {
        let mut own = Vec::new();
        for (name, way) in ways(config, listener) {
            let Some(cluster) = config.clusters.get(&name.value) else { continue };
            for entry in &cluster.endpoints {
                let address = &entry.0.address;
                if let Some(to) = addresses.find(&address.value, way.transport(cluster)) {
                    let same = way.same && cluster.tls.is_none();
                    own.push(LoopEdge { to, cluster: name, endpoint: address.span, same });
                }
            }
        }
        let here = own.iter().find(|edge| edge.to == from);
        if let Some(edge) = here {
            itself(listener, places[from], edge, diags);
        }
        // A listener that leads to itself has been reported already.
        own.retain(|edge| edge.to != from);
        edges.push(own);
    }
    if let Some(circle) = circle(&edges) {
        round(&listeners, &circle, diags);
    }
}

/// An edge from a listener through a cluster to a listener.
struct LoopEdge<'c> {
    to: usize,
    cluster: &'c Spanned<Name>,
    endpoint: Span,
    /// Whether the traffic arrives unchanged, so that it takes the same path again.
    same: bool,
}

/// How traffic of a listener reaches a cluster.
#[derive(Clone, Copy)]
struct LoopPath {
    datagrams: bool,
    http: bool,
    same: bool,
}

impl LoopPath {
    fn transport(self, cluster: &Cluster) -> LoopTransport {
        let quic = self.http && cluster.protocol == ClusterProtocol::Http3;
        if self.datagrams || quic { LoopTransport::Udp } else { LoopTransport::Tcp }
    }
}

/// The clusters that a listener's traffic reaches.
fn ways<'c>(
    config: &'c Config,
    listener: &'c Listener,
) -> impl Iterator<Item = (&'c Spanned<Name>, LoopPath)> {
    let datagrams = listener.is_udp();
    let relayed = super::relays_of(listener)
        .flat_map(|relay| relay.clusters())
        .flat_map(|name| super::served_by(config, name))
        .map(move |cluster| (cluster, LoopPath { datagrams, http: false, same: true }));
    let tables = super::https_of(listener).filter_map(|http| config.routes.get(&http.routes.value));
    let routed = led_to(tables.flat_map(|hosts| hosts.iter())).flat_map(|(name, rule)| {
        let way = LoopPath { datagrams: false, http: true, same: keeps_requests(rule) };
        super::served_by(config, name).map(move |name| (name, way))
    });
    relayed.chain(routed)
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum LoopTransport {
    Tcp,
    Udp,
}

/// Listeners by address.
#[derive(Default)]
struct Addresses<'c> {
    sockets: HashMap<(LoopTransport, SocketAddr), usize>,
    unix: HashMap<&'c FilePath, usize>,
}

impl<'c> Addresses<'c> {
    fn of(listeners: &[&'c Spanned<Listener>]) -> Self {
        let mut all = Self::default();
        for (index, listener) in listeners.iter().enumerate() {
            for address in listener.all_addresses() {
                match &address.value {
                    ListenAddress::Tcp(socket) => {
                        all.sockets.insert((LoopTransport::Tcp, *socket), index);
                        if listener.quic().is_some() {
                            all.sockets.insert((LoopTransport::Udp, *socket), index);
                        }
                    }
                    ListenAddress::Udp(socket) => {
                        all.sockets.insert((LoopTransport::Udp, *socket), index);
                    }
                    ListenAddress::Unix(path) => drop(all.unix.insert(path, index)),
                }
            }
        }
        all
    }

    /// The listener that an endpoint's address leads to. A listener on the unspecified address is found by the
    /// addresses of this machine that are known without a system call: loopback and the unspecified address itself.
    fn find(&self, endpoint: &Endpoint, transport: LoopTransport) -> Option<usize> {
        let socket = match endpoint {
            Endpoint::Unix(path) => return self.unix.get(&**path).copied(),
            Endpoint::Ip(socket) => *socket,
            Endpoint::Host(host, port) if &**host == "localhost" => {
                let v4 = self.find(&Endpoint::Ip((Ipv4Addr::LOCALHOST, *port).into()), transport);
                let v6 =
                    || self.find(&Endpoint::Ip((Ipv6Addr::LOCALHOST, *port).into()), transport);
                return v4.or_else(v6);
            }
            Endpoint::Host(..) | Endpoint::Service(_) => return None,
        };
        let at = |ip: IpAddr| self.sockets.get(&(transport, (ip, socket.port()).into())).copied();
        let (every, loopback): (IpAddr, IpAddr) = if socket.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into())
        } else {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into())
        };
        let ip = socket.ip();
        let own = at(if ip.is_unspecified() { loopback } else { ip });
        own.or_else(|| at(every).filter(|_| ip.is_loopback() || ip.is_unspecified()))
    }
}

fn itself(listener: &Spanned<Listener>, place: usize, edge: &LoopEdge<'_>, diags: &mut Diags) {
    let name = &listener.name.value;
    let list = Path::ROOT.key("listeners");
    let at = list.index(place);
    let cluster = &edge.cluster.value;
    let finding = if edge.same && relays_only(listener) {
        let message =
            format!("the listener `{name}` forwards to itself through the cluster `{cluster}`");
        diags.error("proxy-loop", edge.cluster.span, at, message)
    } else {
        let message =
            format!("the listener `{name}` may forward to itself through the cluster `{cluster}`");
        diags.warning("proxy-loop", edge.cluster.span, at, message)
    };
    finding
        .other(edge.endpoint, "this endpoint is the listener's own address")
        .help("use the address of the service behind it");
}

/// A cycle of several listeners, as the edges along it.
fn circle<'e, 'c>(edges: &'e [Vec<LoopEdge<'c>>]) -> Option<Vec<(usize, &'e LoopEdge<'c>)>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        // The path so far: listeners, each with the index of its next edge.
        let mut way = vec![(start, 0)];
        while let Some((from, next)) = way.last_mut() {
            let from = *from;
            let Some(edge) = edges[from].get(*next) else {
                marks[from] = Mark::Done;
                way.pop();
                continue;
            };
            *next += 1;
            match marks[edge.to] {
                Mark::Done => {}
                Mark::New => {
                    marks[edge.to] = Mark::Open;
                    way.push((edge.to, 0));
                }
                Mark::Open => {
                    let begin = way.iter().position(|(of, _)| *of == edge.to)?;
                    let along = way[begin..].iter().map(|(of, next)| (*of, &edges[*of][next - 1]));
                    return Some(along.collect());
                }
            }
        }
    }
    None
}

fn round(listeners: &[&Spanned<Listener>], circle: &[(usize, &LoopEdge<'_>)], diags: &mut Diags) {
    let Some((first, edge)) = circle.first() else { return };
    let mut names: Vec<&str> = circle.iter().map(|(of, _)| &*listeners[*of].name.value).collect();
    names.push(&listeners[*first].name.value);
    let message = format!("these listeners forward to each other in a loop: {}", names.join(", "));
    let all_same = circle.iter().all(|(_, edge)| edge.same);
    let at = Path::ROOT.key("listeners");
    let finding = if all_same && circle.iter().all(|(of, _)| relays_only(listeners[*of])) {
        diags.error("proxy-loop", edge.cluster.span, at, message)
    } else {
        diags.warning("proxy-loop", edge.cluster.span, at, message)
    };
    finding
        .other(edge.endpoint, "this endpoint is the next listener's address")
        .help("traffic that follows this loop never arrives; use the addresses of the services behind them");
}

/// Whether a listener relays everything unchanged, so that a second pass takes the same path.
fn relays_only(listener: &Listener) -> bool {
    let by_itself = listener.tls.is_none() && listener.filters.is_empty();
    let mut chains = listener.chains.iter();
    by_itself
        && match (chains.next(), chains.next()) {
            (None, _) => listener.relay.is_some(),
            (Some(chain), None) => {
                chain.relay.is_some()
                    && chain.matches.is_none()
                    && chain.tls.is_none()
                    && chain.filters.is_empty()
            }
            _ => false,
        }
}
