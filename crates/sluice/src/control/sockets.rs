//! The listening sockets: bound here, read by the workers.
//!
//! Owns: which sockets there are and what addresses they got. Refuses to know: what is served.
//! Keeps: all sockets of an address are bound before any is read; a socket whose address did not
//! change is kept over a reload.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem::Discriminant;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;
use sluice_core::{ListenAddress, Name};
use sluice_model::build::{ListenerSnapshot, PlanKind, Snapshot};
use sluice_model::sections::SocketOptions;
use sluice_sys::holder::{self, Holder};
use sluice_sys::{listen, steer};

use crate::worker::{SocketKey, Wanted};

/// The sockets in use, by key, with the address each got.
#[derive(Debug)]
pub(crate) struct Sockets {
    workers: usize,
    bound: BTreeMap<SocketKey, BoundAs>,
    /// The first sockets may be shared with another process, which is about to be stopped.
    takeover: bool,
    /// UDP sockets that are bound once that process has let go of their ports.
    waiting: BTreeSet<SocketKey>,
}

/// What a socket was bound to, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct BoundAs {
    pub(crate) listener: Name,
    pub(crate) address: ListenAddress,
    kind: Discriminant<PlanKind>,
    /// The file of a unix socket, as it was made.
    file: Option<FileId>,
    options: SocketOptions,
}

/// The sockets of a snapshot that is not in force yet.
#[derive(Debug)]
pub(crate) struct NextSockets(BTreeMap<SocketKey, BoundAs>);

impl NextSockets {
    /// The sockets of the listeners that `which` names.
    pub(crate) fn keys_of(&self, which: impl Fn(&Name) -> bool) -> HashSet<SocketKey> {
        let of = self.0.iter().filter(|(_, bound)| which(&bound.listener));
        of.map(|(key, _)| key.clone()).collect()
    }
}

/// Sockets that a snapshot needs and that were not there.
#[derive(Debug)]
pub(crate) struct NewSockets(HashMap<SocketKey, (Vec<OwnedFd>, ListenAddress)>);

impl Sockets {
    pub(crate) const fn new(workers: usize, takeover: bool) -> Self {
        Self { workers, bound: BTreeMap::new(), takeover, waiting: BTreeSet::new() }
    }

    /// Binds what `snapshot` needs and is not there.
    ///
    /// # Errors
    /// An address cannot be bound; everything that was bound before it is closed again.
    pub(crate) fn bind(&mut self, snapshot: &Snapshot) -> anyhow::Result<NewSockets> {
        let mut new = HashMap::new();
        let mut waiting = BTreeSet::new();
        for (name, listener) in &snapshot.listeners {
            for (key, plan) in served(name, listener) {
                if let Some(old) = self.bound.get(&key) {
                    same_kind(name, &key, old, &plan)?;
                    continue;
                }
                let wanted = self.beside(&key, &new);
                let cannot = || format!("the listener `{name}` cannot listen on {wanted}");
                if let Err(held) = check_free(&wanted) {
                    let waits = self.takeover || self.waiting.contains(&key);
                    if waits && matches!(wanted, ListenAddress::Udp(_)) {
                        if waiting.insert(key.clone()) && !self.waiting.contains(&key) {
                            tracing::info!("{wanted} is served once it is free: {}", held.holder);
                        }
                        continue;
                    }
                    if !self.takeover {
                        return Err(held).with_context(cannot);
                    }
                }
                let mut sockets = bind_one(&wanted, self.workers, &listener.socket, self.takeover)
                    .with_context(cannot)?;
                if matches!(plan, PlanKind::Quic(_)) {
                    let count = u32::try_from(self.workers).unwrap_or(u32::MAX);
                    steer::by_connection_id(&sockets[0], count).with_context(cannot)?;
                }
                let address = address_of(&wanted, &sockets[0]);
                // They are taken from the end, and the first is the first worker's.
                sockets.reverse();
                new.insert(key, (sockets, address));
            }
        }
        self.waiting = waiting;
        Ok(NewSockets(new))
    }

    /// Whether some sockets wait for another process.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether that process still holds all of their ports.
    pub(crate) fn waits_in_vain(&self) -> bool {
        self.waiting.iter().all(|key| check_free(&key.0).is_err())
    }

    /// The address to bind: where the system is to choose the port of a UDP socket, and there is a TCP socket
    /// of the same listener and address, the port of that one. QUIC is found on it.
    fn beside(
        &self,
        key: &SocketKey,
        new: &HashMap<SocketKey, (Vec<OwnedFd>, ListenAddress)>,
    ) -> ListenAddress {
        if let ListenAddress::Udp(address) = &key.0
            && address.port() == 0
        {
            let other = (ListenAddress::Tcp(*address), key.1.clone());
            let new = new.get(&other).map(|(_, address)| address);
            let old = self.bound.get(&other).map(|bound| &bound.address);
            if let Some(ListenAddress::Tcp(chosen)) = new.or(old) {
                return ListenAddress::Udp(*chosen);
            }
        }
        key.0.clone()
    }

    /// What each worker shall serve, and the sockets that are in use once they all do.
    pub(crate) fn plan(
        &self,
        mut new: NewSockets,
        snapshot: &Snapshot,
    ) -> (Vec<Vec<Wanted>>, NextSockets) {
        let mut orders: Vec<Vec<Wanted>> = (0..self.workers).map(|_| Vec::new()).collect();
        let mut bound = BTreeMap::new();
        for (name, listener) in &snapshot.listeners {
            for (key, plan) in served(name, listener) {
                if self.waiting.contains(&key) {
                    continue;
                }
                let mut sockets = new.0.remove(&key);
                let address = match (&sockets, self.bound.get(&key)) {
                    (Some((_, address)), _) => address.clone(),
                    (None, Some(old)) => old.address.clone(),
                    (None, None) => key.0.clone(),
                };
                let old = self.bound.get(&key);
                let differs =
                    old.is_some_and(|old| concerns(&plan, &old.options, &listener.socket));
                for order in &mut orders {
                    order.push(Wanted {
                        key: key.clone(),
                        plan: plan.clone(),
                        socket: sockets.as_mut().and_then(|(sockets, _)| sockets.pop()),
                        change: differs.then(|| listener.socket.clone()),
                    });
                }
                let kind = std::mem::discriminant(&plan);
                let file = self.bound.get(&key).map_or_else(|| file_of(&key.0), |old| old.file);
                let options = listener.socket.clone();
                bound.insert(key, BoundAs { listener: name.clone(), address, kind, file, options });
            }
        }
        (orders, NextSockets(bound))
    }

    /// Notes what is in use now.
    pub(crate) fn commit(&mut self, next: NextSockets) {
        let gone = self.bound.keys().filter(|key| !next.0.contains_key(*key));
        gone.for_each(|key| unlink(&key.0, self.bound[key].file));
        self.bound = next.0;
        // Later ones are as wrong as they would be without.
        self.takeover = false;
    }

    /// Removes the files of unix sockets that a failed reload made.
    pub(crate) fn abandon(&self, next: &NextSockets) {
        let new = next.0.iter().filter(|(key, _)| !self.bound.contains_key(*key));
        new.for_each(|(key, bound)| unlink(&key.0, bound.file));
    }

    /// Every address, by listener.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &BoundAs> {
        self.bound.values()
    }

    /// Removes the files of unix sockets.
    pub(crate) fn unlink(&self) {
        self.bound.iter().for_each(|(key, bound)| unlink(&key.0, bound.file));
    }
}

/// A socket that passed datagrams on cannot take QUIC up, nor the other way round: flows and connections that
/// are open keep the old one, and both would share the port.
fn same_kind(name: &Name, key: &SocketKey, old: &BoundAs, plan: &PlanKind) -> anyhow::Result<()> {
    anyhow::ensure!(
        old.kind == std::mem::discriminant(plan),
        "the listener `{name}` uses {} for something else than `{}` does now; remove one, reload, and then add the other",
        key.0,
        old.listener
    );
    Ok(())
}

/// Whether the options of a socket of that kind differ.
fn concerns(plan: &PlanKind, old: &SocketOptions, new: &SocketOptions) -> bool {
    match plan {
        PlanKind::Stream(_) => {
            let of =
                |options: &SocketOptions| (options.backlog, options.keepalive, options.fast_open);
            of(old) != of(new)
        }
        PlanKind::Datagram(_) | PlanKind::Quic(_) => {
            old.udp_receive_buffer != new.udp_receive_buffer
        }
    }
}

/// Removes the file of a unix socket, unless another process has put its own there.
fn unlink(address: &ListenAddress, file: Option<FileId>) {
    if let ListenAddress::Unix(path) = address
        && file_of(address) == file
    {
        // Somebody may have removed it before us.
        let _ = std::fs::remove_file(path);
    }
}

/// Device and inode of a file.
type FileId = (u64, u64);

fn file_of(address: &ListenAddress) -> Option<FileId> {
    let ListenAddress::Unix(path) = address else { return None };
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Another process listens on an address.
#[derive(Debug)]
pub(crate) struct Held {
    holder: Holder,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} listens there already; stop it, or start with --takeover to take over from it (docs/operating.md)",
            self.holder
        )
    }
}

impl std::error::Error for Held {}

/// Whether no other process listens on an address.
///
/// # Errors
/// One does: this system lets processes of one user share a port, so binding would not tell.
pub(crate) fn check_free(address: &ListenAddress) -> Result<(), Held> {
    let holder = match address {
        ListenAddress::Tcp(address) => holder::of(*address, holder::Kind::Tcp),
        ListenAddress::Udp(address) => holder::of(*address, holder::Kind::Udp),
        ListenAddress::Unix(path) => holder::of_unix(path),
    };
    holder.map_or(Ok(()), |holder| Err(Held { holder }))
}

/// What each socket of a listener serves; those of QUIC behind the ones that they stand beside.
fn served<'a>(
    name: &'a Name,
    listener: &'a ListenerSnapshot,
) -> impl Iterator<Item = (SocketKey, PlanKind)> + 'a {
    let key = |address: ListenAddress| {
        let any_port =
            matches!(&address, ListenAddress::Tcp(a) | ListenAddress::Udp(a) if a.port() == 0);
        (address, any_port.then(|| name.clone()))
    };
    let plain = listener.addresses.iter().map(move |of| (key(of.clone()), listener.plan.clone()));
    let quic = listener.quic.iter().flat_map(move |quic| {
        listener.addresses.iter().filter_map(move |address| match address {
            ListenAddress::Tcp(address) => {
                Some((key(ListenAddress::Udp(*address)), PlanKind::Quic(quic.clone())))
            }
            _ => None,
        })
    });
    plain.chain(quic)
}

fn bind_one(
    address: &ListenAddress,
    count: usize,
    options: &SocketOptions,
    takeover: bool,
) -> std::io::Result<Vec<OwnedFd>> {
    match address {
        ListenAddress::Tcp(socket) => {
            let options = listen::TcpOptions {
                backlog: options.backlog.get(),
                keepalive: options.keepalive,
                fast_open: options.fast_open,
            };
            listen::tcp(*socket, count, options)
        }
        ListenAddress::Udp(socket) => {
            let buffer = usize::try_from(options.udp_receive_buffer.0).unwrap_or(usize::MAX);
            listen::udp(*socket, count, buffer)
        }
        ListenAddress::Unix(path) => listen::unix(path, count, options.backlog.get(), takeover),
    }
}

/// The address that a socket got: with port 0 the system chose one.
fn address_of(wanted: &ListenAddress, socket: &OwnedFd) -> ListenAddress {
    let clone = || socket.as_fd().try_clone_to_owned().ok();
    let local = |address: Option<SocketAddr>, make: fn(SocketAddr) -> ListenAddress| {
        address.map_or_else(|| wanted.clone(), make)
    };
    match wanted {
        ListenAddress::Tcp(_) => local(
            clone().and_then(|fd| TcpListener::from(fd).local_addr().ok()),
            ListenAddress::Tcp,
        ),
        ListenAddress::Udp(_) => {
            local(clone().and_then(|fd| UdpSocket::from(fd).local_addr().ok()), ListenAddress::Udp)
        }
        ListenAddress::Unix(_) => wanted.clone(),
    }
}
