//! The first packets of QUIC, opened.
//!
//! Owns: long headers, and the frames that Initial packets may hold, as far as they carry the handshake. Refuses to
//! know: who sent them, and what the handshake contains. Keeps: a packet that is not understood yields nothing and does
//! no harm; the datagram itself is not modified.
//!
//! Source: RFC 9000 §17.2, §12.4 and §19, RFC 9287, RFC 9369 §3.2.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use sluice_tls::InitialKeys;

use sluice_core::reader::Reader;

/// The longest connection ID of the versions known here.
pub const ID_MAX: usize = 20;

const VERSION_2: u32 = 0x6b33_43cf;

/// An Initial packet before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial<'a> {
    /// The version.
    pub version: u32,
    /// The destination connection ID.
    pub destination: &'a [u8],
    /// The whole packet, up to the next packet of the datagram.
    packet: &'a [u8],
    /// The offset of its packet number.
    number_at: usize,
}

/// The Initial at the front of `datagram`, and the remaining bytes.
pub fn first(datagram: &[u8]) -> Option<(Initial<'_>, &[u8])> {
    let mut reader = Reader(datagram);
    let first = reader.u8()?;
    let version = reader.u32()?;
    let kind = match version {
        1 => 0x00,
        VERSION_2 => 0x10,
        _ => return None,
    };
    // A client that has been here before may clear the bit that is set in all other packets, RFC 9287 §3.1.
    if first & 0xb0 != 0x80 | kind {
        return None;
    }
    let destination = reader.vector8().filter(|id| id.len() <= ID_MAX)?;
    let _source = reader.vector8().filter(|id| id.len() <= ID_MAX)?;
    let token = integer(&mut reader)?;
    reader.take(token)?;
    let length = integer(&mut reader)?;
    let number_at = datagram.len().checked_sub(reader.0.len())?;
    reader.take(length)?;
    let (packet, rest) = datagram.split_at_checked(number_at.checked_add(length)?)?;
    Some((Initial { version, destination, packet, number_at }, rest))
}

/// The version in a packet with a long header; 0 in Version Negotiation. Source: RFC 8999 §5.1.
pub fn version_of_long(datagram: &[u8]) -> Option<u32> {
    let mut reader = Reader(datagram);
    reader.u8().filter(|first| first & 0x80 != 0)?;
    reader.u32()
}

/// The IDs in a packet with a long header, whatever its version: the destination ID, and the ID that the sender chose.
/// `None` for other packets, and for Version Negotiation. Source: RFC 8999 §5.1.
pub fn ids_of_long(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(datagram);
    let first = reader.u8()?;
    let version = reader.u32()?;
    if first & 0x80 == 0 || version == 0 {
        return None;
    }
    let mut id = || reader.vector8().filter(|id| id.len() <= ID_MAX);
    Some((id()?, id()?))
}

impl Initial<'_> {
    /// Opens the packet and passes on each piece of the handshake: its offset and its bytes. Returns `false` if the
    /// packet does not open.
    pub fn open(&self, keys: &InitialKeys, mut piece: impl FnMut(usize, &[u8])) -> bool {
        let mut packet = self.packet.to_vec();
        let Some(range) = keys.open(&mut packet, self.number_at) else { return false };
        read_frames(packet.get(range).unwrap_or_default(), &mut piece);
        true
    }
}

/// Passes on the pieces of the handshake in the payload of an Initial. A frame that is not allowed there ends the
/// reading; the QUIC implementation will report what is wrong with it.
pub fn read_frames(payload: &[u8], mut piece: impl FnMut(usize, &[u8])) {
    let mut frames = Reader(payload);
    while read_frame(&mut frames, &mut piece).is_some() {}
}

/// Reads one frame.
fn read_frame(frames: &mut Reader<'_>, piece: &mut impl FnMut(usize, &[u8])) -> Option<()> {
    match frames.u8()? {
        // PADDING, PING.
        0 | 1 => Some(()),
        kind @ (2 | 3) => {
            // ACK: the largest, the delay, the number of ranges, the first range, and then two numbers per range.
            integer(frames)?;
            integer(frames)?;
            let ranges = integer(frames)?;
            integer(frames)?;
            for _ in 0..ranges.checked_mul(2)? {
                integer(frames)?;
            }
            if kind == 3 {
                (0..3).try_for_each(|_| integer(frames).map(drop))?;
            }
            Some(())
        }
        6 => {
            let offset = integer(frames)?;
            let length = integer(frames)?;
            piece(offset, frames.take(length)?);
            Some(())
        }
        _ => None,
    }
}

/// A variable-length integer, RFC 9000 §16.
fn integer(reader: &mut Reader<'_>) -> Option<usize> {
    let first = reader.u8()?;
    let more = (1_usize << (first >> 6)).checked_sub(1)?;
    let rest = reader.take(more)?;
    let value =
        rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's first packet of RFC 9001 §A.2, without the padding: the connection ID printed there seals it.
    const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    #[test]
    fn headers_are_read_and_cut_ones_are_not() {
        let mut datagram = vec![0xc0, 0, 0, 0, 1, 8];
        datagram.extend(ID);
        datagram.extend([0, 0, 0x40, 30]);
        datagram.extend([7; 30]);
        datagram.extend([9; 5]);
        let (initial, rest) = first(&datagram).unwrap();
        assert_eq!((initial.version, initial.destination), (1, &ID[..]));
        assert_eq!((initial.packet.len(), rest), (datagram.len() - 5, &[9; 5][..]));
        for end in 0..datagram.len() - 5 {
            assert!(first(datagram.get(..end).unwrap()).is_none(), "cut at {end}");
        }
        // The bit that returning clients may clear.
        let mut greased = datagram.clone();
        *greased.first_mut().unwrap() = 0x80;
        assert!(first(&greased).is_some());
        // Another type, another version, an ID that is too long.
        for (at, byte) in [(0, 0xe0), (0, 0x40), (4, 9), (5, 21)] {
            let mut other = datagram.clone();
            *other.get_mut(at).unwrap() = byte;
            assert!(first(&other).is_none());
        }
    }

    #[test]
    fn frames_before_the_handshake_are_passed_over() {
        let mut found = Vec::new();
        let bytes =
            [0, 0, 1, 2, 5, 0, 1, 0, 0, 0, 6, 3, 2, b'a', b'b', 6, 0, 1, b'c', 0x1c, 6, 0, 1, b'd'];
        let mut frames = Reader(&bytes);
        while read_frame(&mut frames, &mut |at, piece: &[u8]| found.push((at, piece.to_vec())))
            .is_some()
        {}
        assert_eq!(found, [(3, b"ab".to_vec()), (0, b"c".to_vec())]);
    }

    #[test]
    fn random_packets_do_no_harm() {
        let keys = InitialKeys::new(1, &ID).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for length in 0..600 {
            let mut datagram = vec![0xc0, 0, 0, 0, 1, 8];
            datagram.extend(ID);
            datagram.extend((0..length).map(|_| random.u8(..)));
            if let Some((initial, _)) = first(&datagram) {
                assert!(!initial.open(&keys, |_, _| {}));
            }
        }
    }
}
