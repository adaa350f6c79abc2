//! Connection IDs for clients that are sent a Retry to validate their address.
//!
//! Owns: creating such an ID, and recognising it. Refuses to know: the token that travels with it, which is the
//! library's. Keeps: an ID of ours is recognised by itself, so that no state is held for a client before it returns;
//! the same client with the same first ID always gets the same one; no other party can create one for an address.
//!
//! RFC 9000 §8.1.2 and §17.2.5. Half of the ID steers packets to the socket and depends on the client's first ID, half
//! is a seal over it and the address. 32 bits of seal suffice: a correct guess gains only a place in the table of
//! ClientHellos.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use quinn::ConnectionId;
use sluice_sys::steer::{self, ID_LENGTH, LOOKED_AT};

use super::ReuseportMember;

thread_local! {
    /// The client for which the library is creating an ID, if it is one that is sent a Retry.
    static ASKED: Cell<Option<(SocketAddr, ConnectionId)>> = const { Cell::new(None) };
}

/// Runs `ask`, in which the library creates the ID for a client at `from` that chose `first`.
pub(crate) fn while_asking<T>(from: SocketAddr, first: ConnectionId, ask: impl FnOnce() -> T) -> T {
    ASKED.set(Some((from, first)));
    let done = ask();
    ASKED.set(None);
    done
}

/// Returns the ID that the library is to create now, if it is for a client that is sent a Retry.
pub(super) fn asked(place: ReuseportMember) -> Option<ConnectionId> {
    let (from, first) = ASKED.take()?;
    Some(ConnectionId::new(&place.retry_id(from, &first)))
}

fn key() -> &'static hmac::Key {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    KEY.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, &super::random::<32>()))
}

/// Returns the first bytes of a MAC over these words and an address.
fn code(words: [&[u8]; 2], from: SocketAddr) -> [u8; LOOKED_AT] {
    let mut context = hmac::Context::with_key(key());
    for word in words {
        context.update(&[u8::try_from(word.len()).unwrap_or(u8::MAX)]);
        context.update(word);
    }
    match from.ip().to_canonical() {
        std::net::IpAddr::V4(v4) => context.update(&v4.octets()),
        std::net::IpAddr::V6(v6) => context.update(&v6.octets()),
    }
    context.update(&from.port().to_be_bytes());
    let tag = context.sign();
    let mut first = [0; LOOKED_AT];
    first.copy_from_slice(&tag.as_ref()[..LOOKED_AT]);
    first
}

fn seal(lead: &[u8], from: SocketAddr) -> [u8; LOOKED_AT] {
    code([b"seal", lead], from)
}

impl ReuseportMember {
    /// Returns the ID for a client at `from`, which chose `first` for us, when it is sent a Retry.
    pub(crate) fn retry_id(self, from: SocketAddr, first: &[u8]) -> [u8; ID_LENGTH] {
        let lead = (0_u32..)
            .map(|count| code([&count.to_be_bytes(), first], from))
            .find(|lead| steer::place(*lead, self.count) == self.number)
            .expect("every place has IDs that lead to it");
        let mut id = [0; ID_LENGTH];
        id[..LOOKED_AT].copy_from_slice(&lead);
        id[LOOKED_AT..].copy_from_slice(&seal(&lead, from));
        id
    }

    /// Whether `id` was given to a client at `from`, which has thereby validated its address.
    pub(crate) fn is_retry_id(from: SocketAddr, id: &[u8]) -> bool {
        id.len() == ID_LENGTH && id[LOOKED_AT..] == seal(&id[..LOOKED_AT], from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_its_socket_and_is_known_from_its_address_alone() {
        let (here, there) = ("127.0.0.1:4711".parse().unwrap(), "127.0.0.1:4712".parse().unwrap());
        for number in 0..5 {
            let place = ReuseportMember { number, count: 5 };
            let id = place.retry_id(here, b"client id");
            assert_eq!(id, place.retry_id(here, b"client id"));
            assert_eq!(steer::place([id[0], id[1], id[2], id[3]], 5), number);
            assert!(ReuseportMember::is_retry_id(here, &id));
            assert!(!ReuseportMember::is_retry_id(there, &id));
            assert_ne!(id, place.retry_id(here, b"another"));
            assert!(
                !ReuseportMember::is_retry_id(here, &id[1..])
                    && !ReuseportMember::is_retry_id(here, b"client i")
            );
        }
    }
}
