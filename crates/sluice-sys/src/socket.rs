//! Options of individual sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, acceptfrom_with, getsockname};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Makes the next close send RST: the peer learns that the stream was aborted, not finished.
pub fn reset_on_close(socket: &impl AsFd) {
    // An error means that the connection is already gone, which is the desired result.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Creates a stream socket for connecting to `to`.
///
/// # Errors
/// The error of `socket(2)`.
pub fn stream_to(to: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking();
    Ok(Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?.into())
}

/// Creates a datagram socket for sending to `to`.
///
/// # Errors
/// The error of `socket(2)`.
pub fn datagrams_to(to: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking();
    Ok(Socket::new(Domain::for_address(to), kind, Some(Protocol::UDP))?.into())
}

/// Binds a socket to a local address; port 0 lets the system choose one.
///
/// # Errors
/// The error of `bind(2)`; `AddrNotAvailable` if the address does not belong to this host.
pub fn bind(socket: impl AsFd, own: SocketAddr) -> io::Result<()> {
    SockRef::from(&socket).bind(&own.into())
}

/// Starts connecting. A stream becomes writable when it is connected, or reports an error.
///
/// # Errors
/// The error of `connect(2)`, other than `EINPROGRESS`.
pub fn begin_connect(socket: impl AsFd, to: SocketAddr) -> io::Result<()> {
    match SockRef::from(&socket).connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

/// Accepts a connection: returns a non-blocking socket, and the address of the peer if it is an IP address.
///
/// # Errors
/// The error of `accept4(2)`; `WouldBlock` if no connection is waiting.
pub fn accept(listening: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listening, flags)?;
    Ok((socket, peer.and_then(|peer| peer.try_into().ok())))
}

/// Whether a connection is waiting to be accepted; if it is not accepted, it stays in the backlog.
pub fn has_waiting(listening: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut sockets = [PollFd::new(&listening, PollFlags::IN)];
    // On error return true, so that accept reports it.
    poll(&mut sockets, Some(&now)).map_or(true, |ready| ready > 0)
}

/// The error that opening a socket returns when the process has no descriptors left.
pub fn no_descriptor() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// The local address of a socket, if it is an IP address.
pub fn local_address(socket: impl AsFd) -> Option<SocketAddr> {
    getsockname(socket).ok()?.try_into().ok()
}

/// Where the client of a connection wanted to go before a firewall of this host redirected it here (`SO_ORIGINAL_DST`);
/// `None` if nothing keeps account of that.
pub fn original_destination(socket: impl AsFd) -> Option<SocketAddr> {
    let socket = SockRef::from(&socket);
    let found = match socket.local_addr().ok()?.as_socket()? {
        SocketAddr::V4(_) => socket.original_dst_v4().ok()?,
        // Of an IPv4 client, too, the connection is one of IPv6 for this socket.
        SocketAddr::V6(own) if own.ip().to_ipv4_mapped().is_some() => {
            socket.original_dst_v4().ok()?
        }
        SocketAddr::V6(_) => socket.original_dst_v6().ok()?,
    };
    found.as_socket()
}

/// Reports and clears the pending error of a socket.
///
/// # Errors
/// The pending error.
pub fn take_error(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).take_error()?.map_or(Ok(()), Err)
}

/// Connects to the unix socket at `path`, which succeeds immediately or not at all.
///
/// # Errors
/// The error of `socket(2)` or `connect(2)`; `WouldBlock` if its backlog is full.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Sends small writes immediately.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// Probes an idle connection after `idle`, then every `interval`, and gives up after `probes` probes; what is `None` is
/// as the system has it. Times are in whole seconds.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn set_keepalive(
    socket: &impl AsFd,
    idle: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
) -> io::Result<()> {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(idle) = idle {
        keepalive = keepalive.with_time(idle);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = probes {
        keepalive = keepalive.with_retries(probes);
    }
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Has a connection fail if what it sends is not acknowledged in time (`TCP_USER_TIMEOUT`).
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(timeout))
}

/// Marks the packets of a socket to `to` with a DSCP, RFC 2474 §3.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn set_dscp(socket: &impl AsFd, to: SocketAddr, dscp: u8) -> io::Result<()> {
    let class = u32::from(dscp) << 2;
    match to {
        SocketAddr::V4(_) => SockRef::from(socket).set_tos_v4(class),
        SocketAddr::V6(_) => SockRef::from(socket).set_tclass_v6(class),
    }
}

/// Binds a socket to an address of this host, unless it is bound already. The system chooses the port when it knows
/// the peer, so that a port may serve connections to several peers.
///
/// # Errors
/// The error of `bind(2)`; `AddrNotAvailable` if the address does not belong to this host.
pub fn bind_source(socket: &(impl AsFd + AsRawFd), own: IpAddr) -> io::Result<()> {
    if local_address(socket.as_fd()).is_some_and(|bound| bound.port() != 0) {
        return Ok(());
    }
    // Without it, ports are used up sooner.
    let _ = set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
    bind(socket.as_fd(), (own, 0).into())
}

/// Accepts data in the SYN from clients with a valid cookie.
pub(crate) fn set_fast_open(socket: &impl AsRawFd, queue: u32) -> io::Result<()> {
    let queue = i32::try_from(queue).unwrap_or(i32::MAX);
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// Enables reporting of the destination address of each datagram.
pub(crate) fn set_packet_info(socket: &impl AsRawFd, v4: bool) -> io::Result<()> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }
}

pub(crate) fn set_int(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = u32::try_from(size_of::<i32>()).expect("an int is small");
    // SAFETY: the pointer and length describe `value`, which lives for the duration of the call.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_on_the_socket() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let socket = stream_to(to).unwrap();
        let second = Duration::from_secs(1);
        set_keepalive(&socket, Some(30 * second), None, Some(4)).unwrap();
        set_user_timeout(&socket, 7 * second).unwrap();
        set_dscp(&socket, to, 46).unwrap();
        bind_source(&socket, "127.0.0.9".parse().unwrap()).unwrap();
        let set = SockRef::from(&socket);
        assert!(set.keepalive().unwrap());
        assert_eq!(set.tcp_keepalive_time().unwrap(), 30 * second);
        assert_eq!(set.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(set.tcp_user_timeout().unwrap(), Some(7 * second));
        assert_eq!(set.tos_v4().unwrap(), 46 << 2);
        assert_eq!(local_address(&socket).unwrap().ip(), "127.0.0.9".parse::<IpAddr>().unwrap());
        // A socket that is bound keeps its address.
        let bound = datagrams_to(to).unwrap();
        bind(&bound, "127.0.0.1:0".parse().unwrap()).unwrap();
        let before = local_address(&bound);
        bind_source(&bound, "127.0.0.9".parse().unwrap()).unwrap();
        assert_eq!(local_address(&bound), before);
        let to: SocketAddr = "[::1]:9".parse().unwrap();
        let socket = stream_to(to).unwrap();
        set_dscp(&socket, to, 10).unwrap();
        assert_eq!(SockRef::from(&socket).tclass_v6().unwrap(), 40);
    }
}
