//! Options of individual sockets.

use std::io;
use std::net::SocketAddr;
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

/// Probes an idle connection after `idle`, then every `interval`, and gives up after `probes` probes.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn set_keepalive(
    socket: &impl AsFd,
    idle: Duration,
    interval: Duration,
    probes: u32,
) -> io::Result<()> {
    let keepalive =
        socket2::TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
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
