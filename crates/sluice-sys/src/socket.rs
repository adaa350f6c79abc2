//! Options of single sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, acceptfrom_with, getsockname};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Makes the coming close send RST: the peer learns that the stream was cut, not finished.
pub fn reset_on_close(socket: &impl AsFd) {
    // An error means that the connection is gone already, which is what was wanted.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// A socket for a stream to `to`.
///
/// # Errors
/// What `socket(2)` said.
pub fn stream_to(to: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking();
    Ok(Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?.into())
}

/// A socket for datagrams to `to`.
///
/// # Errors
/// What `socket(2)` said.
pub fn datagrams_to(to: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking();
    Ok(Socket::new(Domain::for_address(to), kind, Some(Protocol::UDP))?.into())
}

/// Gives a socket its own address; port 0 lets the system choose one.
///
/// # Errors
/// What `bind(2)` said; `AddrNotAvailable` where the address is none of this host's.
pub fn bind(socket: impl AsFd, own: SocketAddr) -> io::Result<()> {
    SockRef::from(&socket).bind(&own.into())
}

/// Begins to connect. A stream becomes writable when that is done, or shows an error.
///
/// # Errors
/// What `connect(2)` said, other than that it takes a while.
pub fn begin_connect(socket: impl AsFd, to: SocketAddr) -> io::Result<()> {
    match SockRef::from(&socket).connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

/// Accepts a connection: a non-blocking socket, and the address of its peer if that is one of IP.
///
/// # Errors
/// What `accept4(2)` said; `WouldBlock` when nobody waits.
pub fn accept(listening: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listening, flags)?;
    Ok((socket, peer.and_then(|peer| peer.try_into().ok())))
}

/// Whether a connection waits to be accepted; one that is not accepted stays in the backlog.
pub fn has_waiting(listening: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut sockets = [PollFd::new(&listening, PollFlags::IN)];
    // An error is left for accept to meet.
    poll(&mut sockets, Some(&now)).map_or(true, |ready| ready > 0)
}

/// An error of the kind that opening a socket gives when the process has no descriptor left.
pub fn no_descriptor() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// The address of a socket's own end, if it is one of IP.
pub fn local_address(socket: impl AsFd) -> Option<SocketAddr> {
    getsockname(socket).ok()?.try_into().ok()
}

/// The error that a socket has met since it was last asked.
///
/// # Errors
/// That error.
pub fn take_error(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).take_error()?.map_or(Ok(()), Err)
}

/// Connects to the unix socket at `path`, which is done at once or not at all.
///
/// # Errors
/// What `socket(2)` or `connect(2)` said; `WouldBlock` when too many wait to be accepted there.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Sends small writes at once.
///
/// # Errors
/// What `setsockopt(2)` said.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// Probes an idle connection after `idle`, then every `interval`, and gives up after `probes`.
///
/// # Errors
/// What `setsockopt(2)` said.
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

/// Takes data with the SYN from clients that know a cookie.
pub(crate) fn set_fast_open(socket: &impl AsRawFd, queue: u32) -> io::Result<()> {
    let queue = i32::try_from(queue).unwrap_or(i32::MAX);
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// Reports the address that each datagram was sent to.
pub(crate) fn set_packet_info(socket: &impl AsRawFd, v4: bool) -> io::Result<()> {
    if v4 {
        set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }
}

pub(crate) fn set_int(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = u32::try_from(size_of::<i32>()).expect("an int is small");
    // SAFETY: the pointer and length describe `value`, which lives over the call.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
