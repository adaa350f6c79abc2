//! Selects which of the sockets that share a UDP port receives a QUIC packet.
//!
//! Owns: the rule, as the kernel applies it and as the code that chooses connection IDs does. Refuses to know: the rest
//! of a packet. Keeps: both implementations of the rule agree; an ID does not reveal to outsiders which socket it is
//! for.
//!
//! A packet is steered by its connection ID, so that it reaches its socket from any source address: always for a short
//! header, and for a long header if the ID is as long as ours, whether it is ours or one that a client chose initially.
//! Any other packet is steered by its addresses, as the kernel does by default: it carries no ID of ours. The program
//! is classic BPF, which needs no privileges. Source: RFC 9000 §5.1 and §17, RFC 8999 §5.1, socket(7) on
//! `SO_ATTACH_REUSEPORT_CBPF`.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// The length of the connection IDs that we choose, in bytes.
pub const ID_LENGTH: usize = 8;

/// The number of bytes of a connection ID that the rule uses.
pub const LOOKED_AT: usize = 4;

/// The key that mixes the bytes of an ID: odd, and different in every process.
fn key() -> u32 {
    static KEY: OnceLock<u32> = OnceLock::new();
    *KEY.get_or_init(|| {
        let bytes = RandomState::new().hash_one("steer").to_ne_bytes();
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) | 1
    })
}

/// The index, among `count` sockets, of the one that receives packets with this connection ID.
pub fn place(id: [u8; LOOKED_AT], count: u32) -> u32 {
    (u32::from_be_bytes(id).wrapping_mul(key()) >> SHIFT) % count.max(1)
}

/// The number of low bits of the product that are discarded; the upper ones depend on all bytes.
const SHIFT: u32 = 12;

/// Attaches the rule to the `count` sockets that share the port of `socket`. It also applies to sockets bound later.
/// Indexes follow the order of binding.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn by_connection_id(socket: &impl AsRawFd, count: u32) -> io::Result<()> {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD,
        BPF_MUL, BPF_RET, BPF_RSH, BPF_W,
    };
    const A: u32 = 0x10;
    let ours = u32::try_from(ID_LENGTH).expect("it is small");
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let program = [
        // The first byte of a long header has its upper bit set.
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JSET | BPF_K, 0x80, 2, 0),
        step(BPF_LD | BPF_W | BPF_ABS, 1, 0, 0),
        step(BPF_JMP | BPF_JA, 4, 0, 0),
        // After it and the version come the length of the ID and the ID.
        step(BPF_LD | BPF_B | BPF_ABS, 5, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, ours, 1, 0),
        // No such socket: the kernel then steers by addresses.
        step(BPF_RET | BPF_K, u32::MAX, 0, 0),
        step(BPF_LD | BPF_W | BPF_ABS, 6, 0, 0),
        step(BPF_ALU | BPF_MUL | BPF_K, key(), 0, 0),
        step(BPF_ALU | BPF_RSH | BPF_K, SHIFT, 0, 0),
        step(BPF_ALU | BPF_MOD | BPF_K, count.max(1), 0, 0),
        step(BPF_RET | A, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_ptr().cast_mut(),
    };
    let length = u32::try_from(size_of::<libc::sock_fprog>()).expect("it is small");
    // SAFETY: the pointer and length describe `program`, which lives for the duration of the call, as do the steps that
    // it points to; the kernel reads both and writes neither.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    #[test]
    fn the_kernel_and_the_rule_agree() {
        let sockets =
            crate::listen::udp("127.0.0.1:0".parse().unwrap(), 3, 1 << 16, false).unwrap();
        by_connection_id(&sockets[0], 3).unwrap();
        let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
        let to = sockets[0].local_addr().unwrap();
        for socket in &sockets {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        let mut met = [false; 3];
        // Random ones: numbers at equal distances can, with some keys, all be for two of the three.
        let random = RandomState::new();
        for n in 0_u32..60 {
            let [a, b, c, d, ..] = random.hash_one(n).to_be_bytes();
            let id = [a, b, c, d];
            let place = place(id, 3) as usize;
            met[place] = true;
            // A different address each time: it does not matter.
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(&[&[0x40][..], &id, b"rest"].concat(), to).unwrap();
            let mut got = [0; 16];
            let (count, _) = sockets[place].recv_from(&mut got).unwrap();
            assert_eq!(&got[1..5], &id, "{count}");
            // With a long header too, where the ID may be ours.
            let long = [&[0xe0, 0, 0, 0, 1, 8][..], &id, b"rest"].concat();
            client.send_to(&long, to).unwrap();
            let (count, _) = sockets[place].recv_from(&mut got).unwrap();
            assert_eq!(&got[6..10], &id, "{count}");
        }
        assert_eq!(met, [true; 3]);
        // With an ID of another length the packet is steered by its addresses: always to the same socket.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for n in 0..10_u8 {
            client.send_to(&[0xc0, 0, 0, 0, 1, 20, n, n, n, n, n], to).unwrap();
        }
        let count = |socket: &UdpSocket| {
            socket.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| socket.recv(&mut [0; 16]).ok()).count()
        };
        let counts: Vec<usize> = sockets.iter().map(count).collect();
        assert!(counts.contains(&10), "{counts:?}");
    }
}
