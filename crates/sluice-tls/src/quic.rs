//! The keys of QUIC Initial packets, which are not secret.
//!
//! Owns: keys derived from a connection ID, opening a packet with them. Refuses to know: headers and frames.
//! Keeps: a packet that cannot be opened is unchanged except that its header protection is removed.
//!
//! Source: RFC 9001 §5.2 and §5.4, RFC 9369 §3.3.

use std::ops::Range;

use rustls::quic::{DirectionalKeys, Keys, Version};
use rustls::{CipherSuite, Side, SupportedCipherSuite};

/// The keys that open the Initial packets that clients send to one connection ID.
pub struct InitialKeys(DirectionalKeys);

impl std::fmt::Debug for InitialKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InitialKeys")
    }
}

/// Bytes from the start of the packet number to the header protection sample, RFC 9001 §5.4.2.
const SAMPLE_AT: usize = 4;

impl InitialKeys {
    /// Derives the keys for a QUIC version and the ID that a client chose for its server; `None` for an unknown
    /// version.
    pub fn new(version: u32, id: &[u8]) -> Option<Self> {
        let version = match version {
            1 => Version::V1,
            0x6b33_43cf => Version::V2,
            _ => return None,
        };
        let suites = &crate::provider().cipher_suites;
        let suite = suites.iter().find_map(|suite| match suite {
            SupportedCipherSuite::Tls13(suite)
                if suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256 =>
            {
                Some(*suite)
            }
            _ => None,
        })?;
        Some(Self(Keys::initial(version, suite, suite.quic?, id, Side::Server).remote))
    }

    /// Opens a packet in place, whose packet number starts at `number_at`; returns the range of its payload.
    pub fn open(&self, packet: &mut [u8], number_at: usize) -> Option<Range<usize>> {
        let sample_at = number_at + SAMPLE_AT;
        let sample_end = sample_at + self.0.header.sample_len();
        let (header, rest) = packet.split_at_mut_checked(sample_at)?;
        let sample = rest.get(..sample_end - sample_at)?;
        let (first, after) = header.split_first_mut()?;
        let number = after.get_mut(number_at - 1..)?;
        self.0.header.decrypt_in_place(sample, first, number).ok()?;
        let length = usize::from(*first & 3) + 1;
        // The first packet numbers are small: the truncated number is the full number.
        let number = number.iter().take(length).fold(0, |n, byte| n << 8 | u64::from(*byte));
        let begin = number_at + length;
        let (header, payload) = packet.split_at_mut(begin);
        let opened = self.0.packet.decrypt_in_place(number, header, payload).ok()?;
        Some(begin..begin + opened.len())
    }
}
