//! Connection IDs of servers that QUIC is passed through to.
//!
//! Owns: which endpoint of which chain chose an ID. Refuses to know: flows, and which of them asks. Keeps: the number
//! of IDs is bounded, and the oldest makes room; one map for the process, used only for a packet from unknown
//! addresses, since a client that comes from another address may reach another worker.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use sluice_core::Name;

use super::initial::{ID_MAX, ids_of_long};

/// Shorter IDs could match by chance.
const ID_MIN: usize = 4;

/// The owner of an ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The listener that passed it through.
    pub listener: Name,
    /// The chain.
    pub chain: Name,
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// The length of its IDs in bytes.
    pub id_length: usize,
}

#[derive(Default)]
struct Ids {
    owners: HashMap<Box<[u8]>, Owner, foldhash::quality::RandomState>,
    /// In the order in which they were learnt.
    order: VecDeque<Box<[u8]>>,
    /// The number of IDs of each length: a short header does not contain the length of its ID.
    lengths: [usize; ID_MAX + 1],
}

static IDS: LazyLock<Mutex<Ids>> = LazyLock::new(Mutex::default);

fn ids() -> MutexGuard<'static, Ids> {
    IDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ID that a server chose, from a datagram it sent with a long header; `None` if there is no ID long enough to be
/// recognised again.
pub fn chosen(datagram: &[u8]) -> Option<&[u8]> {
    ids_of_long(datagram).map(|(_, chosen)| chosen).filter(|chosen| chosen.len() >= ID_MIN)
}

/// The ID in a datagram with a short header, if IDs have that length.
pub fn of_short(datagram: &[u8], length: usize) -> Option<&[u8]> {
    let (first, rest) = datagram.split_first()?;
    rest.get(..length).filter(|_| first & 0x80 == 0)
}

/// Learns an ID; returns whether another was forgotten for it.
pub fn learn(chosen: &[u8], bound: usize, owner: impl FnOnce() -> Owner) -> bool {
    let mut ids = ids();
    if ids.owners.contains_key(chosen) {
        return false;
    }
    let full = ids.order.len() >= bound;
    while ids.order.len() >= bound {
        if let Some(oldest) = ids.order.pop_front() {
            ids.lengths[oldest.len()] -= 1;
            ids.owners.remove(&oldest);
        }
    }
    ids.lengths[chosen.len()] += 1;
    ids.order.push_back(chosen.into());
    ids.owners.insert(chosen.into(), owner());
    full
}

/// The owner of a packet, by its destination ID.
pub fn owner(listener: &Name, datagram: &[u8]) -> Option<Owner> {
    let ids = ids();
    let found = match ids_of_long(datagram) {
        Some((destination, _)) => ids.owners.get(destination),
        None => (ID_MIN..=ID_MAX)
            .filter(|length| ids.lengths[*length] > 0)
            .find_map(|length| ids.owners.get(of_short(datagram, length)?)),
    };
    found.filter(|owner| owner.listener == *listener).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(destination: &[u8], source: &[u8]) -> Vec<u8> {
        let length = |id: &[u8]| u8::try_from(id.len()).unwrap();
        [&[0xe0, 0, 0, 0, 1, length(destination)][..], destination, &[length(source)], source]
            .concat()
    }

    #[test]
    fn servers_are_found_by_the_ids_that_they_chose() {
        let name: Name = "ids-test".into();
        let of = |endpoint: &str| Owner {
            listener: name.clone(),
            chain: "c".into(),
            endpoint: endpoint.into(),
            id_length: 8,
        };
        for (id, endpoint) in [(&b"eight-id"[..], "a"), (b"five5", "b")] {
            let datagram = long(b"client", id);
            learn(chosen(&datagram).unwrap(), 100, || of(endpoint));
        }
        let endpoint = |datagram: &[u8]| owner(&name, datagram).map(|owner| owner.endpoint);
        assert_eq!(endpoint(b"\x40eight-idrest").as_deref(), Some("a"));
        assert_eq!(endpoint(b"\x41five5rest").as_deref(), Some("b"));
        assert_eq!(endpoint(&long(b"eight-id", b"x")).as_deref(), Some("a"));
        assert_eq!(
            chosen(&long(b"client", b"abc")),
            None,
            "it is too short to be told from chance"
        );
        assert_eq!(endpoint(b"\x40eight-i"), None);
        assert_eq!(owner(&"other".into(), b"\x40eight-idrest"), None);
    }
}
