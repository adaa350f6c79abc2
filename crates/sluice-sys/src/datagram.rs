//! Datagrams in batches: `recvmmsg(2)` and `sendmmsg(2)`.
//!
//! Owns: the arrays that those calls need. Refuses to know: flows.
//! Keeps: datagrams are delivered whole, coalesced ones with their segment size; nothing is allocated after `new`.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The maximum number of datagrams per system call.
pub const BATCH: usize = 32;

/// The largest payload of a UDP datagram.
pub const DATAGRAM_MAX: usize = 65_535;

/// Space for the control messages of a datagram: its destination address and its segment size.
const CONTROL: usize = 64;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer([u8; CONTROL]);

/// One batch of received datagrams. About 2 MiB of address space, of which only the pages that datagrams fill are ever
/// touched.
pub struct Received {
    data: Box<[u8]>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Box<[ControlBuffer; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    count: usize,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("count", &self.count).finish_non_exhaustive()
    }
}

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The payload.
    pub data: &'a [u8],
    /// The sender; `None` on a connected socket.
    pub from: Option<SocketAddr>,
    /// The destination address, if the socket reports it.
    pub to: Option<IpAddr>,
    /// The segment size if several datagrams were received as one; the last may be shorter. See [`coalesce`].
    pub segment: Option<u16>,
}

/// Lets the kernel coalesce similar datagrams of one sender (`UDP_GRO`), which saves most of the cost per datagram.
///
/// # Errors
/// The error of `setsockopt(2)`: kernels before 5.0 do not support the option.
pub fn coalesce(socket: &impl AsFd) -> io::Result<()> {
    crate::socket::set_int(&socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

impl Default for Received {
    fn default() -> Self {
        Self::new()
    }
}

impl Received {
    /// Creates an empty batch.
    pub fn new() -> Self {
        // SAFETY: all of these are plain C structures for which zero is a valid value.
        let (names, vectors, headers) = unsafe { zeroed() };
        let mut batch = Self {
            data: vec![0; BATCH * DATAGRAM_MAX].into_boxed_slice(),
            names: Box::new(names),
            controls: Box::new([ControlBuffer([0; CONTROL]); BATCH]),
            vectors: Box::new(vectors),
            headers: Box::new(headers),
            count: BATCH,
        };
        for index in 0..BATCH {
            batch.vectors[index] = libc::iovec {
                iov_base: batch.data[index * DATAGRAM_MAX..].as_mut_ptr().cast(),
                iov_len: DATAGRAM_MAX,
            };
            let header = &mut batch.headers[index].msg_hdr;
            header.msg_name = (&raw mut batch.names[index]).cast();
            header.msg_iov = &raw mut batch.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut batch.controls[index]).cast();
        }
        batch
    }

    /// Receives up to [`BATCH`] datagrams that are available now.
    ///
    /// # Errors
    /// `WouldBlock` if there are none; on a connected socket also the errors reported by ICMP.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for entry in &mut self.headers[..self.count] {
            entry.msg_hdr.msg_namelen = length_of::<libc::sockaddr_storage>();
            entry.msg_hdr.msg_controllen = CONTROL as _;
            entry.msg_hdr.msg_flags = 0;
        }
        self.count = 0;
        // SAFETY: the headers point into boxes that this value owns and that do not move.
        let done = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                u32::try_from(BATCH).expect("a batch is small"),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
        Ok(self.count)
    }

    /// The datagrams of the last batch.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.count).map(|index| self.get(index))
    }

    fn get(&self, index: usize) -> Datagram<'_> {
        let header = &self.headers[index];
        let length = (header.msg_len as usize).min(DATAGRAM_MAX);
        let start = index * DATAGRAM_MAX;
        let named = header.msg_hdr.msg_namelen > 0;
        let controls = &self.controls[index].0[..header.msg_hdr.msg_controllen.min(CONTROL)];
        Datagram {
            data: &self.data[start..start + length],
            from: if named { socket_address(&self.names[index]) } else { None },
            to: messages(controls).find_map(|message| destination(&message)),
            segment: messages(controls).find_map(|message| segment(&message)),
        }
    }
}

/// A datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The payload.
    pub data: &'a [u8],
    /// The destination; `None` on a connected socket.
    pub to: Option<SocketAddr>,
    /// The source address to send from, if the socket is bound to a wildcard address.
    pub from: Option<IpAddr>,
    /// The segment size if the payload is several datagrams; the last may be shorter (`UDP_SEGMENT`).
    pub segment: Option<u16>,
}

impl<'a> Outgoing<'a> {
    /// The number of datagrams in the payload.
    pub fn count(&self) -> usize {
        let segment = self.segment.map_or(usize::MAX, usize::from).max(1);
        self.data.len().div_ceil(segment).max(1)
    }

    /// The datagrams, one by one.
    fn apart(&self) -> impl Iterator<Item = Outgoing<'a>> + use<'a> {
        let Self { to, from, .. } = *self;
        let segment = self.segment.map_or(usize::MAX, usize::from).max(1);
        self.data.chunks(segment).map(move |data| Outgoing { data, to, from, segment: None })
    }
}

/// Sends datagrams in order, at most [`BATCH`]; returns how many the kernel accepted.
///
/// # Errors
/// The error of `sendmmsg(2)` for the first datagram: `WouldBlock`, or the errors reported by ICMP.
pub fn send(socket: BorrowedFd<'_>, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    let count = datagrams.len().min(BATCH);
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; BATCH];
    let mut controls = [const { MaybeUninit::<ControlBuffer>::uninit() }; BATCH];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    for (index, datagram) in datagrams[..count].iter().enumerate() {
        // SAFETY: a message header is a plain C structure for which zero is a valid value.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_iov = vectors[index].write(libc::iovec {
            iov_base: datagram.data.as_ptr().cast_mut().cast(),
            iov_len: datagram.data.len(),
        });
        header.msg_iovlen = 1;
        if let Some(to) = datagram.to {
            header.msg_namelen = write_address(&mut names[index], to);
            header.msg_name = names[index].as_mut_ptr().cast();
        }
        let segment = datagram.segment.filter(|_| datagram.count() > 1);
        if datagram.from.is_some() || segment.is_some() {
            let control = controls[index].write(ControlBuffer([0; CONTROL]));
            let mut length = datagram.from.map_or(0, |from| write_source(&mut control.0, from));
            length += segment.map_or(0, |size| write_segment(&mut control.0[length..], size));
            header.msg_controllen = length as _;
            header.msg_control = control.0.as_mut_ptr().cast();
        }
        headers[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    // SAFETY: the first `count` headers were written above, and what they point to outlives the call.
    let done = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            u32::try_from(count).expect("a batch is small"),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    let failed = match usize::try_from(done) {
        Ok(sent) => return Ok(sent),
        Err(_) => io::Error::last_os_error(),
    };
    match (datagrams.first(), failed.raw_os_error()) {
        // The path does not accept segments of this size, or its device cannot segment: send them one by one.
        (Some(first), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)) if first.count() > 1 => {
            first.apart().try_for_each(|datagram| send(socket, &[datagram]).map(drop))?;
            Ok(1)
        }
        _ => Err(failed),
    }
}

fn length_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("socket structures are small")
}

/// Converts an address family: a small number in a wide type.
fn family(number: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).expect("families are small numbers")
}

fn socket_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family indicates that it holds an IPv4 address; the storage is larger and aligned.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family indicates that it holds an IPv6 address; the storage is larger and aligned.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn write_address(slot: &mut MaybeUninit<libc::sockaddr_storage>, address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: v4.ip().to_bits().to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger than an IPv4 address and aligned for it.
            unsafe { slot.as_mut_ptr().cast::<libc::sockaddr_in>().write(name) };
            length_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: the storage is larger than an IPv6 address and aligned for it.
            unsafe { slot.as_mut_ptr().cast::<libc::sockaddr_in6>().write(name) };
            length_of::<libc::sockaddr_in6>()
        }
    }
}

// Control messages are read and written as bytes: a header with length (native word), level and type (32 bits each),
// then the payload, padded to a word. See cmsg(3).
const HEADER: usize = size_of::<libc::cmsghdr>();

/// A control message: level, type, payload.
type ControlMessage<'a> = (i32, i32, &'a [u8]);

fn messages(mut controls: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = controls.split_at_checked(HEADER)?;
        let word = |at: usize| Some(i32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let length = usize::from_ne_bytes(header.get(..size_of::<usize>())?.try_into().ok()?);
        let payload = rest.get(..length.checked_sub(HEADER)?)?;
        let next = length.next_multiple_of(size_of::<usize>()) - HEADER;
        controls = rest.get(next..).unwrap_or_default();
        Some((word(HEADER - 8)?, word(HEADER - 4)?, payload))
    })
}

/// The segment size, if several datagrams were received as one.
fn segment((level, kind, payload): &ControlMessage<'_>) -> Option<u16> {
    if (*level, *kind) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    let size = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    u16::try_from(size).ok().filter(|size| *size > 0)
}

fn destination((level, kind, payload): &ControlMessage<'_>) -> Option<IpAddr> {
    match (*level, *kind) {
        // struct in_pktinfo: interface, local address, destination address from the header.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let octets: [u8; 4] = payload.get(8..12)?.try_into().ok()?;
            Some(IpAddr::from(octets))
        }
        // struct in6_pktinfo: address, interface.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let octets: [u8; 16] = payload.get(..16)?.try_into().ok()?;
            Some(IpAddr::from(octets))
        }
        _ => None,
    }
}

fn write_source(control: &mut [u8; CONTROL], from: IpAddr) -> usize {
    let (level, kind, length) = match from {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, 12),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20),
    };
    control[..size_of::<usize>()].copy_from_slice(&(HEADER + length).to_ne_bytes());
    control[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
    control[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
    match from {
        IpAddr::V4(v4) => control[HEADER + 4..HEADER + 8].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => control[HEADER..HEADER + 16].copy_from_slice(&v6.octets()),
    }
    (HEADER + length).next_multiple_of(size_of::<usize>())
}

/// Writes the segment size of datagrams that are sent as one.
fn write_segment(control: &mut [u8], size: u16) -> usize {
    let length = HEADER + size_of::<u16>();
    control[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
    control[HEADER - 8..HEADER - 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[HEADER - 4..HEADER].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[HEADER..length].copy_from_slice(&size.to_ne_bytes());
    length.next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn datagrams_that_are_alike_go_and_come_as_one() {
        for (bind, target) in [("0.0.0.0:0", "127.0.0.5"), ("[::]:0", "::1")] {
            let (server, client, to) = pair(bind, target);
            coalesce(&server).unwrap();
            let data: Vec<u8> = (0..3500_u16).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let out = Outgoing { data: &data, to: Some(to), from: None, segment: Some(1000) };
            assert_eq!((out.count(), out.apart().count()), (4, 4));
            assert_eq!(send(client.as_fd(), &[out]).unwrap(), 1);
            wait_readable(&server);
            let mut batch = Received::new();
            batch.receive(server.as_fd()).unwrap();
            let got = batch.iter().next().unwrap();
            assert_eq!((got.segment, got.data, got.to), (Some(1000), &data[..], Some(to.ip())));
            // And back, from the address that was queried, to a client that receives them one by one.
            let back =
                Outgoing { data: got.data, to: got.from, from: got.to, segment: got.segment };
            assert_eq!(send(server.as_fd(), &[back]).unwrap(), 1);
            let mut whole = Vec::new();
            for size in [1000, 1000, 1000, 500] {
                let mut buffer = [0; 2000];
                let (count, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((count, from), (size, to));
                whole.extend_from_slice(&buffer[..count]);
            }
            assert_eq!(whole, data);
        }
    }

    fn pair(bind: &str, target: &str) -> (UdpSocket, UdpSocket, SocketAddr) {
        let server: UdpSocket =
            crate::listen::udp(bind.parse().unwrap(), 1, 1 << 20, false).unwrap().remove(0).into();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind((target, 0)).unwrap();
        (server, client, SocketAddr::new(target.parse().unwrap(), port))
    }

    fn wait_readable(socket: &UdpSocket) {
        socket.set_nonblocking(false).unwrap();
        socket.peek_from(&mut [0; 1]).unwrap();
    }

    #[test]
    fn replies_come_from_the_address_that_was_asked() {
        for (bind, target) in [("0.0.0.0:0", "127.0.0.5"), ("[::]:0", "::1")] {
            let (server, client, to) = pair(bind, target);
            client.send_to(b"ping", to).unwrap();
            wait_readable(&server);
            let mut batch = Received::new();
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
            let got = batch.iter().next().unwrap();
            assert_eq!((got.data, got.to), (&b"ping"[..], Some(to.ip())));
            let reply = Outgoing { data: b"pong", to: got.from, from: got.to, segment: None };
            assert_eq!(send(server.as_fd(), &[reply]).unwrap(), 1);
            let (length, from) = client.recv_from(&mut [0; 16]).unwrap();
            assert_eq!((length, from), (4, to));
        }
    }

    #[test]
    fn datagrams_of_every_size_stay_whole_over_several_batches() {
        let (server, client, to) = pair("127.0.0.1:0", "127.0.0.1");
        let mut batch = Received::new();
        for size in [0_usize, 1, 1500, 65_507] {
            client.send_to(&vec![7; size], to).unwrap();
            wait_readable(&server);
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
            let got = batch.iter().next().unwrap();
            assert!(got.data.len() == size && got.data.iter().all(|b| *b == 7));
            assert_eq!(got.from, Some(client.local_addr().unwrap()));
        }
        assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.iter().count(), 0);
    }

    #[test]
    fn a_full_batch_goes_out_and_comes_in_at_once() {
        let (server, client, to) = pair("127.0.0.1:0", "127.0.0.1");
        let payloads: Vec<[u8; 1]> = (0..BATCH).map(|n| [u8::try_from(n).unwrap()]).collect();
        let out: Vec<_> = payloads
            .iter()
            .map(|data| Outgoing { data, to: Some(to), from: None, segment: None })
            .collect();
        assert_eq!(send(client.as_fd(), &out).unwrap(), BATCH);
        wait_readable(&server);
        let mut batch = Received::new();
        assert_eq!(batch.receive(server.as_fd()).unwrap(), BATCH);
        let got: Vec<u8> = batch.iter().map(|datagram| datagram.data[0]).collect();
        assert_eq!(got, payloads.concat());
    }
}
