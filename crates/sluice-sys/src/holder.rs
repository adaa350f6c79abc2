//! Finds the process that already listens on an address.
//!
//! Owns: the probe, and the search for the process that owns a socket. Refuses to know: what to do about it.
//! Keeps: sockets of this process do not count. `SO_REUSEPORT` silently lets a second process of the same user join a
//! port, so an explicit check is needed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

/// A kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A listening TCP socket.
    Tcp,
    /// A UDP socket.
    Udp,
}

/// A process that listens on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its PID and name; `None` if it is not visible from here.
    pub process: Option<(u32, String)>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.process {
            Some((pid, name)) => write!(f, "process {pid} ({name})"),
            None => f.write_str("a process that is not visible from here"),
        }
    }
}

/// The other process that listens on `address`, if any.
pub fn of(address: SocketAddr, kind: Kind) -> Option<Holder> {
    // Port 0 belongs to no process.
    if address.port() == 0 || !is_taken(address, kind) {
        return None;
    }
    let inodes = sockets_on(address, kind);
    if inodes.is_empty() {
        // Nothing listens: a connection holds the address. `bind(2)` reports that to the caller.
        return None;
    }
    let own = std::process::id();
    let process = |pid: u32| processes_socket(pid, &inodes);
    let others = processes().filter(|pid| *pid != own).find(|pid| process(*pid));
    match others {
        Some(pid) => Some(Holder { process: Some((pid, name_of(pid))) }),
        None if process(own) => None,
        None => Some(Holder { process: None }),
    }
}

/// The process that listens on the unix socket at `path`, if any. This process counts too.
pub fn of_unix(path: &Path) -> Option<Holder> {
    let stream = std::os::unix::net::UnixStream::connect(path).ok()?;
    let process = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| {
        let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
        (pid, name_of(pid))
    });
    Some(Holder { process })
}

/// Whether binding an exclusive socket there fails. A single `bind(2)`, where [`of`] reads all of /proc; sockets of
/// this process count too.
pub fn is_taken(address: SocketAddr, kind: Kind) -> bool {
    let probe = || -> io::Result<()> {
        let (kind, protocol) = match kind {
            Kind::Tcp => (Type::STREAM, Protocol::TCP),
            Kind::Udp => (Type::DGRAM, Protocol::UDP),
        };
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if kind == Type::STREAM {
            // Closed connections (TIME_WAIT) do not count; listening sockets still do.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())
    };
    probe().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The inodes of the sockets that are bound to the address or to the wildcard address. If no socket of its family
/// conflicts with an IPv4 address, dual-stack IPv6 sockets are looked up.
fn sockets_on(address: SocketAddr, kind: Kind) -> HashSet<u64> {
    let [v4, v6] = match kind {
        Kind::Tcp => ["tcp", "tcp6"],
        Kind::Udp => ["udp", "udp6"],
    };
    let own = if address.is_ipv4() { v4 } else { v6 };
    let found = sockets_in(own, kind, |local| overlaps(local, address));
    if !found.is_empty() || address.is_ipv6() {
        return found;
    }
    sockets_in(v6, kind, |local| spans(local, address))
}

/// The sockets in a table whose address matches. Source: proc_net_tcp.
fn sockets_in(table: &str, kind: Kind, fits: impl Fn(SocketAddr) -> bool) -> HashSet<u64> {
    let state = (kind == Kind::Tcp).then_some("0A");
    let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
    let mut found = HashSet::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(in_state), Some(inode)) =
            (fields.get(1), fields.get(3), fields.get(9))
        else {
            continue;
        };
        let fits = parse_address(local).is_some_and(&fits);
        if fits && state.is_none_or(|state| state == *in_state) {
            found.extend(inode.parse::<u64>().ok());
        }
    }
    found
}

/// Whether two sockets of one family conflict. IPv6 sockets created here are IPv6-only.
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.is_ipv4() == other.is_ipv4()
        && one.port() == other.port()
        && (any || one.ip() == other.ip())
}

/// Whether an IPv6 socket may receive traffic to an IPv4 address. The tables do not show which sockets are IPv6-only.
fn spans(six: SocketAddr, four: SocketAddr) -> bool {
    let IpAddr::V6(ip) = six.ip() else { return false };
    let all = ip.is_unspecified()
        || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_unspecified())
        || (ip.to_ipv4_mapped().is_some() && four.ip().is_unspecified());
    six.port() == four.port() && (all || ip.to_canonical() == four.ip())
}

/// Parses `0100007F:1F90`: words of four bytes in native byte order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => word(0)?.into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            <[u8; 16]>::try_from(words.concat()).ok()?.into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn processes_socket(pid: u32, inodes: &HashSet<u64>) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |path: &Path| -> Option<u64> {
        let link = fs::read_link(path).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(|entry| inode(&entry.path())).any(|inode| inodes.contains(&inode))
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{TcpOptions, tcp, udp};

    #[test]
    fn sockets_of_this_process_are_nobodys_else() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = TcpOptions { backlog: 1, keepalive: false, fast_open: 0, freebind: false };
        let sockets = tcp(any, 2, options).unwrap();
        let at = std::net::TcpListener::from(sockets.into_iter().next().unwrap());
        let at = (at.local_addr().unwrap(), at);
        assert!(is_taken(at.0, Kind::Tcp));
        assert_eq!(sockets_on(at.0, Kind::Tcp).len(), 1);
        assert_eq!(of(at.0, Kind::Tcp), None);
        let sockets = udp(any, 1, 1 << 16, false).unwrap();
        let at = std::net::UdpSocket::from(sockets.into_iter().next().unwrap());
        assert!(is_taken(at.local_addr().unwrap(), Kind::Udp));
        assert_eq!(of(at.local_addr().unwrap(), Kind::Udp), None);
        assert_eq!(of(any, Kind::Udp), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        if cfg!(target_endian = "little") {
            assert_eq!(parse_address("0100007F:1F90"), "127.0.0.1:8080".parse().ok());
            assert_eq!(
                parse_address("00000000000000000000000001000000:0050"),
                "[::1]:80".parse().ok()
            );
        }
        assert_eq!(parse_address("0100:1"), None);
        let all = "0.0.0.0:80".parse().unwrap();
        assert!(overlaps(all, "127.0.0.1:80".parse().unwrap()));
        assert!(!overlaps(all, "127.0.0.1:81".parse().unwrap()));
    }

    #[test]
    fn only_sockets_that_take_both_families_are_in_the_way_of_the_other() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(!overlaps(at("0.0.0.0:80"), at("[2001:db8::1]:80")));
        assert!(!overlaps(at("127.0.0.1:80"), at("[::]:80")));
        assert!(overlaps(at("[::]:80"), at("[::1]:80")));
        assert!(!overlaps(at("[::1]:80"), at("[::2]:80")));
        for (six, four, expected) in [
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:81", false),
            ("[::1]:80", "127.0.0.1:80", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.2:80", false),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
        ] {
            assert_eq!(spans(at(six), at(four)), expected, "{six} and {four}");
        }
    }

    #[test]
    fn a_socket_of_the_other_family_is_looked_for_where_none_of_its_own_is_in_the_way() {
        let both = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
        both.set_only_v6(false).unwrap();
        both.bind(&"[::ffff:127.0.0.1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        both.listen(1).unwrap();
        let port = both.local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(sockets_on(([127, 0, 0, 1], port).into(), Kind::Tcp).len(), 1);
        let six: SocketAddr = (std::net::Ipv6Addr::LOCALHOST, port).into();
        assert_eq!(sockets_on(six, Kind::Tcp).len(), 0);
    }
}
