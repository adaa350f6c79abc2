//! Listening sockets, bound before anything is read from them.
//!
//! Owns: the order of socket options around `bind(2)`. Refuses to know: workers and listeners.
//! Keeps: the sockets of one address are created together, so that the kernel's reuseport group does not change while
//! packets arrive; IPv6 sockets are IPv6-only.

use std::collections::hash_map::RandomState;
use std::fs::Permissions;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// The options of a TCP listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// The accept backlog.
    pub backlog: u32,
    /// `SO_KEEPALIVE` on accepted sockets.
    pub keepalive: bool,
    /// `TCP_FASTOPEN` queue length; 0 disables it.
    pub fast_open: u32,
    /// `IP_FREEBIND`: the address need not be there yet.
    pub freebind: bool,
}

/// Creates `count` TCP sockets that share `address`; with port 0 all use the port of the first.
///
/// # Errors
/// The error of `socket(2)`, `setsockopt(2)`, `bind(2)` or `listen(2)`.
pub fn tcp(address: SocketAddr, count: usize, options: TcpOptions) -> io::Result<Vec<OwnedFd>> {
    same_port(address, count, |address| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it, which saves a system call per connection.
        socket.set_tcp_nodelay(true)?;
        if options.keepalive {
            socket.set_keepalive(true)?;
        }
        if options.freebind {
            set_freebind(&socket, address)?;
        }
        socket.bind(&address.into())?;
        if options.fast_open > 0 {
            crate::socket::set_fast_open(&socket, options.fast_open)?;
        }
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(socket)
    })
}

/// Changes the options of a listening TCP or unix socket. Connections already accepted keep theirs.
///
/// # Errors
/// The error of `setsockopt(2)` or `listen(2)`.
pub fn change_stream(socket: &impl AsFd, tcp: bool, options: TcpOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if tcp {
        socket.set_keepalive(options.keepalive)?;
        crate::socket::set_fast_open(&*socket, options.fast_open)?;
    }
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))
}

/// Changes the receive buffer of a UDP socket. The kernel caps it at net.core.rmem_max.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn change_datagrams(socket: &impl AsFd, receive_buffer: usize) -> io::Result<()> {
    SockRef::from(socket).set_recv_buffer_size(receive_buffer)
}

/// Creates `count` UDP sockets that share `address`; with port 0 all use the port of the first. A socket on a wildcard
/// address reports the destination address of each datagram.
///
/// # Errors
/// The error of `socket(2)`, `setsockopt(2)` or `bind(2)`.
pub fn udp(
    address: SocketAddr,
    count: usize,
    receive_buffer: usize,
    freebind: bool,
) -> io::Result<Vec<OwnedFd>> {
    same_port(address, count, |address| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_port(true)?;
        // The kernel caps it at net.core.rmem_max; a smaller buffer than requested is not an error.
        socket.set_recv_buffer_size(receive_buffer)?;
        if address.ip().is_unspecified() {
            crate::socket::set_packet_info(&socket, address.is_ipv4())?;
        }
        if freebind {
            set_freebind(&socket, address)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    })
}

/// Lets a socket be bound to an address that the machine does not have yet.
fn set_freebind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) }
}

fn same_port(
    mut address: SocketAddr,
    count: usize,
    make: impl Fn(SocketAddr) -> io::Result<Socket>,
) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = make(address)?;
        if address.port() == 0
            && let Some(bound) = socket.local_addr()?.as_socket()
        {
            address = bound;
        }
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// The file of a unix socket that listens under a temporary name in the directory of its path. If dropped before
/// [`place`](Self::place), it removes that file and leaves the path unchanged.
#[derive(Debug)]
pub struct StagedFile {
    temporary: PathBuf,
    path: PathBuf,
    placed: bool,
}

impl StagedFile {
    /// The current path of the file.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Sets who may connect, as `chmod(2)` does.
    ///
    /// # Errors
    /// The error of `chmod(2)`.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        std::fs::set_permissions(&self.temporary, Permissions::from_mode(mode))
    }

    /// Renames the file to its path and replaces any file there: clients that connect from now on reach this socket.
    ///
    /// # Errors
    /// The error of `rename(2)`; the path is then unchanged.
    pub fn place(mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.placed {
            // It may already be gone together with its directory.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Creates `count` handles of one unix listening socket, which is not at `path` until its file is placed there. Placing
/// it replaces a stale socket file; a socket file in use is an error, unless `takeover` allows replacing it.
///
/// # Errors
/// `AddrInUse` if another process listens there; otherwise the error of the system.
pub fn unix(
    path: &Path,
    count: usize,
    backlog: u32,
    takeover: bool,
) -> io::Result<(Vec<OwnedFd>, StagedFile)> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path exists and is not a socket",
            ));
        }
        if !takeover && std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let temporary = bind_beside(&socket, path)?;
    let file = StagedFile { temporary, path: path.to_owned(), placed: false };
    // It listens before its file is placed, so that clients never find a path without a listener.
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let mut sockets: Vec<OwnedFd> = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(socket.try_clone()?.into());
    }
    sockets.push(socket.into());
    Ok((sockets, file))
}

/// Binds a unix socket to a random name in the directory of `path`. The name is never longer than that of `path`, so
/// that every path that fits into a socket address can be used.
fn bind_beside(socket: &Socket, path: &Path) -> io::Result<PathBuf> {
    let length = path.file_name().map_or(0, |name| name.len().min(TEMPORARY_NAME));
    let mut tries = 0;
    loop {
        let random = RandomState::new().build_hasher().finish();
        let new = path.with_file_name(&format!("{random:016x}")[..length]);
        match socket.bind(&SockAddr::unix(&new)?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < NAME_TRIES => {
                tries += 1;
            }
            bound => return bound.map(|()| new),
        }
    }
}

/// The length of the temporary name of a unix socket.
const TEMPORARY_NAME: usize = 12;

/// The number of further names to try if one is taken.
const NAME_TRIES: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    const OPTIONS: TcpOptions =
        TcpOptions { backlog: 16, keepalive: false, fast_open: 0, freebind: false };

    #[test]
    fn sockets_of_one_address_share_the_port_that_the_first_was_given() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let ports = |sockets: Vec<OwnedFd>| {
            sockets.into_iter().map(|s| TcpListener::from(s).local_addr().unwrap().port())
        };
        let tcp: Vec<u16> = ports(tcp(any, 3, OPTIONS).unwrap()).collect();
        assert!(tcp[0] != 0 && tcp.iter().all(|port| *port == tcp[0]), "{tcp:?}");
        let udp: Vec<u16> = udp(any, 2, 1 << 16, false)
            .unwrap()
            .into_iter()
            .map(|s| UdpSocket::from(s).local_addr().unwrap().port())
            .collect();
        assert_eq!(udp[0], udp[1]);
    }

    #[test]
    fn an_address_that_is_not_there_yet_can_be_listened_on() {
        // Documentation addresses (RFC 5737, RFC 3849) are on no interface.
        for text in ["192.0.2.7:0", "[2001:db8::7]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let missing = tcp(address, 1, OPTIONS).unwrap_err();
            if missing.kind() != io::ErrorKind::AddrNotAvailable {
                continue;
            }
            let options = TcpOptions { freebind: true, ..OPTIONS };
            assert!(tcp(address, 1, options).is_ok(), "{text}");
            assert!(udp(address, 1, 1 << 16, true).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let placed = |takeover| {
            let (sockets, file) = unix(&path, 2, 16, takeover)?;
            file.place().map(|()| sockets)
        };
        let first = placed(false).unwrap();
        assert_eq!(placed(false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let second = placed(true).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let second = std::os::unix::net::UnixListener::from(second.into_iter().next().unwrap());
        assert!(second.accept().is_ok(), "the path leads to the one that took over");
        drop((first, second));
        assert_eq!(placed(false).unwrap().len(), 2);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(unix(&file, 1, 16, false).unwrap_err().to_string().contains("not a socket"));
    }

    #[test]
    fn a_path_as_long_as_an_address_holds_is_listened_on() {
        let folder = tempfile::tempdir().unwrap();
        let longest = 107;
        let file = "s".repeat(longest - folder.path().as_os_str().len() - 1);
        let inner = folder.path().join(&file[..file.len() - 3]);
        std::fs::create_dir(&inner).unwrap();
        for path in [folder.path().join(&file), inner.join("ab")] {
            assert_eq!(path.as_os_str().len(), longest, "{}", path.display());
            let (_socket, file) = unix(&path, 1, 16, false).unwrap();
            file.place().unwrap();
            assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        }
        let left: Vec<_> = std::fs::read_dir(&inner).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_unix_socket_that_is_not_placed_leaves_the_path_and_the_folder_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (first, file) = unix(&path, 1, 16, false).unwrap();
        assert!(!path.exists());
        file.place().unwrap();
        // Two at once have different temporary names.
        let staged = [unix(&path, 1, 16, true).unwrap(), unix(&path, 1, 16, true).unwrap()];
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let first = std::os::unix::net::UnixListener::from(first.into_iter().next().unwrap());
        assert!(first.accept().is_ok(), "the path leads to the first");
        drop(staged);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
