//! Our own connections and flows that lead to our own listeners.
//!
//! Owns: the addresses that this process listens on and, for the sockets that it opened to one of them, how many of its
//! listeners their traffic has passed. Refuses to know: why a connection is made. Keeps: traffic that has passed as
//! many of our listeners as `own_hops` allows does not pass another; a socket that leads elsewhere, as nearly all do,
//! costs one look-up in a table that is written only when listeners open or close.
//!
//! A listener that leads to another listener is fine; one that leads to itself would loop until no descriptor is left.
//! Both look alike at each hop, so hops are counted: a connection from one of our own sockets has passed one listener
//! more than the connection that this socket was opened for. A path through another process, or through translated
//! addresses, is not detected.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use sluice_core::value::plural;
use sluice_sys::socket::{begin_connect, bind, datagrams_to, local_address};

/// The transport of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopTransport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

type ListenerKey = (HopTransport, SocketAddr);

#[derive(Default)]
struct Own {
    /// The number of listening sockets by address; each worker has its own.
    listening: ArcSwap<HashMap<ListenerKey, usize>>,
    /// Our sockets to them, by their own address, with the number of listeners that their traffic has passed.
    sockets: Mutex<HashMap<ListenerKey, u64>>,
}

static OWN: LazyLock<Own> = LazyLock::new(Own::default);

fn sockets() -> MutexGuard<'static, HashMap<ListenerKey, u64>> {
    OWN.sockets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listening socket; known as long as this value lives.
#[derive(Debug)]
pub struct ListenerGuard(ListenerKey);

impl ListenerGuard {
    /// Records that we listen on `address`.
    pub fn on(transport: HopTransport, address: SocketAddr) -> Self {
        let place = (transport, address);
        change(|listening| *listening.entry(place).or_default() += 1);
        Self(place)
    }
}

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        change(|listening| {
            if let Some(count) = listening.get_mut(&self.0) {
                *count -= 1;
                if *count == 0 {
                    listening.remove(&self.0);
                }
            }
        });
    }
}

fn change(change: impl Fn(&mut HashMap<ListenerKey, usize>)) {
    OWN.listening.rcu(|listening| {
        let mut listening = HashMap::clone(listening);
        change(&mut listening);
        listening
    });
}

/// A socket of ours that leads to a listener of ours; forgotten on drop.
#[derive(Debug)]
pub struct Hop(Box<ListenerKey>);

impl Drop for Hop {
    fn drop(&mut self) {
        sockets().remove(&*self.0);
    }
}

/// The traffic has passed as many listeners as it may: it is a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looped {
    /// That number of listeners.
    pub hops_max: u64,
}

impl fmt::Display for Looped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners = plural(self.hops_max, "listener");
        write!(f, "it has passed {listeners} of this process (`limits.own_hops`)")
    }
}

/// If `target` is a listener of ours, records `socket`, which will be connected to it for traffic from `from`, and
/// binds it to the address by which the listener will recognise it: if it were recorded only after connecting, the
/// listener could serve it before.
///
/// # Errors
/// The traffic from `from` has passed `hops_max` of our listeners.
pub fn enter(
    transport: HopTransport,
    from: Option<SocketAddr>,
    target: SocketAddr,
    hops_max: u64,
    socket: impl AsFd,
) -> Result<Option<Hop>, Looped> {
    if !may_be_ours(transport, target) {
        return Ok(None);
    }
    // A match with a wildcard listener only means that the port is the same.
    let Some(source) = source_to(target) else { return Ok(None) };
    if bind(&socket, source).is_err() {
        return Ok(None);
    }
    let Some(local) = local_address(&socket) else { return Ok(None) };
    let mut sockets = sockets();
    let passed = from.and_then(|from| sockets.get(&(transport, from)).copied()).unwrap_or(0) + 1;
    if passed > hops_max {
        return Err(Looped { hops_max });
    }
    let place = (transport, local);
    sockets.insert(place, passed);
    Ok(Some(Hop(Box::new(place))))
}

/// Whether we listen on `target`, if that is an address of this host.
pub(crate) fn may_be_ours(transport: HopTransport, target: SocketAddr) -> bool {
    let listening = OWN.listening.load();
    let known =
        |ip: IpAddr| listening.contains_key(&(transport, SocketAddr::new(ip, target.port())));
    known(reached(target.ip()))
        || known(Ipv4Addr::UNSPECIFIED.into())
        || known(Ipv6Addr::UNSPECIFIED.into())
}

/// Whether a connection or a datagram to `target` leads to a listener of ours.
pub fn is_ours(target: SocketAddr) -> bool {
    [HopTransport::Stream, HopTransport::Datagram].into_iter().any(|of| may_be_ours(of, target))
        && source_to(target).is_some()
}

/// The address that a connection to `target` reaches: the unspecified address leads to loopback.
pub(crate) fn reached(target: IpAddr) -> IpAddr {
    match target {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        _ => target,
    }
}

/// The address that the system chooses for a socket to `target`, if `target` is an address of this host. Decided by the
/// route, because with `net.ipv4.ip_nonlocal_bind` any address can be bound.
fn source_to(target: SocketAddr) -> Option<SocketAddr> {
    let mut source = target;
    source.set_port(0);
    source.set_ip(match reached(target.ip()) {
        IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    });
    if source.ip().is_loopback() {
        return Some(source);
    }
    let probe = datagrams_to(target).ok()?;
    begin_connect(&probe, target).ok()?;
    (local_address(&probe)?.ip() == source.ip()).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sys::socket::stream_to;
    use std::os::fd::OwnedFd;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A socket to `target` for traffic from `from`: the socket, its own address, and the hop.
    fn hop(
        from: Option<SocketAddr>,
        target: &str,
    ) -> Result<Option<(OwnedFd, SocketAddr, Hop)>, Looped> {
        let socket = stream_to(at(target)).unwrap();
        let entered = enter(HopTransport::Stream, from, at(target), 2, &socket)?;
        Ok(entered.map(|hop| {
            let own = local_address(&socket).unwrap();
            (socket, own, hop)
        }))
    }

    #[test]
    fn hops_are_counted_from_socket_to_socket() {
        let listener = "127.0.0.1:61001";
        assert!(hop(None, listener).unwrap().is_none(), "nobody listens there");
        let listening = ListenerGuard::on(HopTransport::Stream, at(listener));
        let first = hop(Some(at("127.0.0.9:1")), listener).unwrap().unwrap();
        let second = hop(Some(first.1), listener).unwrap().unwrap();
        assert_eq!(hop(Some(second.1), listener).unwrap_err(), Looped { hops_max: 2 });
        let address = second.1;
        drop(second);
        assert!(hop(Some(address), listener).unwrap().is_some(), "it was forgotten");
        drop(listening);
        assert!(hop(Some(first.1), listener).unwrap().is_none());
    }

    #[test]
    fn a_wildcard_listener_is_met_at_every_address_of_the_host() {
        let _listening = ListenerGuard::on(HopTransport::Stream, at("0.0.0.0:61002"));
        assert!(hop(None, "127.0.0.5:61002").unwrap().is_some());
        assert!(hop(None, "192.0.2.7:61002").unwrap().is_none(), "it is another host");
        assert!(hop(None, "127.0.0.5:61003").unwrap().is_none());
    }

    #[test]
    fn a_socket_to_another_host_keeps_its_address_even_where_any_address_can_be_bound() {
        let _listening = ListenerGuard::on(HopTransport::Stream, at("0.0.0.0:61004"));
        let target = at("192.0.2.7:61004");
        let socket = stream_to(target).unwrap();
        rustix::net::sockopt::set_ip_freebind(&socket, true).unwrap();
        assert!(enter(HopTransport::Stream, None, target, 2, &socket).unwrap().is_none());
        assert_eq!(local_address(&socket).unwrap(), at("0.0.0.0:0"), "it was bound");
    }

    #[test]
    fn the_unspecified_address_leads_to_a_listener_on_loopback() {
        let _listening = ListenerGuard::on(HopTransport::Stream, at("127.0.0.1:61005"));
        let (_socket, own, _hop) = hop(None, "0.0.0.0:61005").unwrap().unwrap();
        assert!(own.ip().is_loopback(), "{own}");
    }
}
