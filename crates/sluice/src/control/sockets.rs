//! The listening sockets: bound here, read by the workers.
//!
//! Owns: the sockets and their bound addresses. Refuses to know: what is served.
//! Keeps: all sockets of an address are bound before any is read; a socket whose address did not
//! change is kept across a reload; the path of a unix socket is not replaced until nothing can fail any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::Discriminant;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use sluice_core::{ListenAddress, Name};
use sluice_model::compile::{ListenerSnapshot, PlanKind};
use sluice_model::model::listener::SocketOptions;
use sluice_sys::holder::{self, Holder};
use sluice_sys::listen::{self, StagedFile};
use sluice_sys::steer;

use crate::worker::{SocketKey, UnservedListener, Wanted, tcp_options};

/// The sockets in use, by key, with their bound addresses.
#[derive(Debug)]
pub(crate) struct Sockets {
    workers: usize,
    bound: BTreeMap<SocketKey, BoundAs>,
    /// Whether the first sockets may be shared with another process, which is about to be stopped.
    takeover: bool,
    /// UDP sockets that are bound once that process has released their ports, with their listeners.
    waiting: BTreeMap<SocketKey, Name>,
}

/// The address of a socket, and its listener.
#[derive(Clone, Debug)]
pub(crate) struct BoundAs {
    pub(crate) listener: Name,
    pub(crate) address: ListenAddress,
    kind: Discriminant<PlanKind>,
    /// The file of a unix socket when it was created.
    file: Option<FileId>,
    options: SocketOptions,
}

/// The sockets of listeners that change, before the change is in force. Dropping it leaves no unix socket file behind.
#[derive(Debug)]
pub(crate) struct NextSockets {
    bound: BTreeMap<SocketKey, BoundAs>,
    /// Those that no listener needs any more.
    gone: Vec<SocketKey>,
    /// Unix sockets that are not at their paths yet.
    staged: HashMap<SocketKey, StagedFile>,
    waiting: BTreeMap<SocketKey, Name>,
}

impl NextSockets {
    /// The sockets of the listeners selected by `which`.
    pub(crate) fn keys_of(&self, which: impl Fn(&Name) -> bool) -> HashSet<SocketKey> {
        keys_of(&self.bound, which)
    }

    /// Puts unix sockets at their paths. Only when nothing can fail any more: another process may be there.
    pub(crate) fn place(&mut self, which: impl Fn(&SocketKey) -> bool) {
        let ready = self.staged.extract_if(|key, _| which(key));
        ready.for_each(|(key, file)| place(&key.0, file));
    }
}

/// Sockets that listeners need and that did not exist.
#[derive(Debug)]
pub(crate) struct NewSockets {
    sockets: HashMap<SocketKey, NewSocket>,
    /// Those of other listeners included.
    waiting: BTreeMap<SocketKey, Name>,
}

/// Listeners that change: to what, or `None` for those that are removed.
pub(crate) type ListenerChanges = BTreeMap<Name, Option<Arc<ListenerSnapshot>>>;

/// The handles of a socket, one for each worker, and its bound address.
#[derive(Debug)]
struct NewSocket {
    handles: Vec<OwnedFd>,
    address: ListenAddress,
    staged: Option<StagedFile>,
}

impl Sockets {
    pub(crate) const fn new(workers: usize, takeover: bool) -> Self {
        Self { workers, bound: BTreeMap::new(), takeover, waiting: BTreeMap::new() }
    }

    /// The sockets of the listeners selected by `which`.
    #[cfg(feature = "envoy")]
    pub(crate) fn keys_of(&self, which: impl Fn(&Name) -> bool) -> HashSet<SocketKey> {
        keys_of(&self.bound, which)
    }

    /// Binds the sockets that the listeners need and that do not exist.
    ///
    /// # Errors
    /// [`UnservedListener`]: an address cannot be bound; everything that was bound before it is closed again.
    pub(crate) fn bind(&self, changes: &ListenerChanges) -> anyhow::Result<NewSockets> {
        let mut new = HashMap::new();
        let mut waiting = self.waiting.clone();
        waiting.retain(|_, name| !changes.contains_key(name));
        for (name, listener) in in_use(changes) {
            self.bind_listener(name, listener, &mut new, &mut waiting).map_err(|error| {
                UnservedListener { name: Arc::clone(name), problem: format!("{error:#}") }
            })?;
        }
        Ok(NewSockets { sockets: new, waiting })
    }

    fn bind_listener(
        &self,
        name: &Name,
        listener: &ListenerSnapshot,
        new: &mut HashMap<SocketKey, NewSocket>,
        waiting: &mut BTreeMap<SocketKey, Name>,
    ) -> anyhow::Result<()> {
        for (key, plan) in served(name, listener) {
            if let Some(old) = self.bound.get(&key) {
                same_kind(name, &key, old, &plan)?;
                continue;
            }
            let wanted = self.beside(&key, new);
            let cannot = || format!("the listener `{name}` cannot listen on {wanted}");
            if let Err(held) = check_free(&wanted) {
                let waits = self.takeover || self.waiting.contains_key(&key);
                if waits && matches!(wanted, ListenAddress::Udp(_)) {
                    let before = waiting.insert(key.clone(), Arc::clone(name));
                    if before.is_none() && !self.waiting.contains_key(&key) {
                        tracing::info!(
                            "{wanted} will be served once it is free; it is in use by {}",
                            held.holder
                        );
                    }
                    continue;
                }
                if !self.takeover {
                    return Err(held).with_context(cannot);
                }
            }
            let also_udp =
                served(name, listener).any(|(other, _)| is_udp_beside(&other.0, &wanted));
            let bind = || bind_one(&wanted, self.workers, &listener.socket, self.takeover);
            let (mut handles, staged) =
                if also_udp { bind_free_for_udp(&wanted, bind) } else { bind() }
                    .with_context(cannot)?;
            if matches!(plan, PlanKind::Quic(_)) {
                let count = u32::try_from(self.workers).unwrap_or(u32::MAX);
                steer::by_connection_id(&handles[0], count).with_context(cannot)?;
            }
            let address = address_of(&wanted, &handles[0]);
            // Workers take them from the end, in order; the first belongs to the first worker.
            handles.reverse();
            new.insert(key, NewSocket { handles, address, staged });
        }
        Ok(())
    }

    /// Whether a socket of the listener waits for another process.
    pub(crate) fn waits(&self, listener: &Name) -> bool {
        self.waiting.values().any(|name| name == listener)
    }

    /// The number of sockets that wait for another process.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a port of a waiting socket may be free. Called often, so it only probes the ports; the holder of a port
    /// is determined when it is bound.
    pub(crate) fn may_bind_more(&self) -> bool {
        let free = |(address, _): &SocketKey| match address {
            ListenAddress::Udp(at) => {
                // A probe also fails because of sockets of this process.
                let shared = self.bound.keys().any(
                    |(own, _)| matches!(own, ListenAddress::Udp(own) if own.port() == at.port()),
                );
                shared || !holder::is_taken(*at, holder::Kind::Udp)
            }
            ListenAddress::Tcp(_) | ListenAddress::Unix(_) => true,
        };
        self.waiting.keys().any(free)
    }

    /// The address to bind: if the system is to choose the port of a UDP socket, and the listener has a TCP socket on
    /// the same address, then with the port of that socket. Clients expect QUIC on it.
    fn beside(&self, key: &SocketKey, new: &HashMap<SocketKey, NewSocket>) -> ListenAddress {
        if let ListenAddress::Udp(address) = &key.0
            && address.port() == 0
        {
            let other = (ListenAddress::Tcp(*address), key.1.clone());
            let new = new.get(&other).map(|new| &new.address);
            let old = self.bound.get(&other).map(|bound| &bound.address);
            if let Some(ListenAddress::Tcp(chosen)) = new.or(old) {
                return ListenAddress::Udp(*chosen);
            }
        }
        key.0.clone()
    }

    /// What each worker is to serve, and the sockets of these listeners once all workers do.
    pub(crate) fn plan(
        &self,
        mut new: NewSockets,
        changes: &ListenerChanges,
    ) -> (Vec<Vec<Wanted>>, NextSockets) {
        let mut orders: Vec<Vec<Wanted>> = (0..self.workers).map(|_| Vec::new()).collect();
        let (mut bound, mut staged) = (BTreeMap::new(), HashMap::new());
        for (name, listener) in in_use(changes) {
            for (key, plan) in served(name, listener) {
                if new.waiting.contains_key(&key) {
                    continue;
                }
                let mut socket = new.sockets.remove(&key);
                let old = self.bound.get(&key);
                let address = match (&socket, old) {
                    (Some(new), _) => new.address.clone(),
                    (None, Some(old)) => old.address.clone(),
                    (None, None) => key.0.clone(),
                };
                let differs =
                    old.is_some_and(|old| concerns(&plan, &old.options, &listener.socket));
                for order in &mut orders {
                    order.push(Wanted {
                        key: key.clone(),
                        listener: Arc::clone(name),
                        plan: plan.clone(),
                        socket: socket.as_mut().and_then(|socket| socket.handles.pop()),
                        change: differs.then(|| listener.socket.clone()),
                    });
                }
                let kind = std::mem::discriminant(&plan);
                let mut file = old.and_then(|old| old.file);
                if let Some(new) = socket.and_then(|socket| socket.staged) {
                    file = file_of(new.temporary());
                    staged.insert(key.clone(), new);
                }
                let options = listener.socket.clone();
                bound.insert(key, BoundAs { listener: name.clone(), address, kind, file, options });
            }
        }
        let of = self.bound.iter().filter(|(_, old)| changes.contains_key(&old.listener));
        let gone = of.filter(|(key, _)| !bound.contains_key(*key));
        let gone = gone.map(|(key, _)| key.clone()).collect();
        (orders, NextSockets { bound, gone, staged, waiting: new.waiting })
    }

    /// Records the sockets in use, and puts unix sockets at their paths. Returns those that are not needed any more.
    /// Nothing may fail after it.
    pub(crate) fn commit(&mut self, mut next: NextSockets) -> Vec<SocketKey> {
        for key in &next.gone {
            if let Some(old) = self.bound.remove(key) {
                unlink(&key.0, old.file);
            }
        }
        next.place(|_| true);
        self.bound.extend(next.bound);
        self.waiting = next.waiting;
        // For later sockets, `--takeover` has no effect.
        self.takeover = false;
        next.gone
    }

    /// Every bound address with its listener.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &BoundAs> {
        self.bound.values()
    }

    /// Removes the files of unix sockets.
    pub(crate) fn unlink(&self) {
        self.bound.iter().for_each(|(key, bound)| unlink(&key.0, bound.file));
    }
}

fn keys_of(
    bound: &BTreeMap<SocketKey, BoundAs>,
    which: impl Fn(&Name) -> bool,
) -> HashSet<SocketKey> {
    let of = bound.iter().filter(|(_, bound)| which(&bound.listener));
    of.map(|(key, _)| key.clone()).collect()
}

/// The listeners that are not removed.
fn in_use(changes: &ListenerChanges) -> impl Iterator<Item = (&Name, &ListenerSnapshot)> {
    changes.iter().filter_map(|(name, listener)| Some((name, &**listener.as_ref()?)))
}

/// Refuses to reuse a datagram socket for QUIC or vice versa: open flows and connections keep the old socket, and both
/// would share the port.
fn same_kind(name: &Name, key: &SocketKey, old: &BoundAs, plan: &PlanKind) -> anyhow::Result<()> {
    anyhow::ensure!(
        old.kind == std::mem::discriminant(plan),
        "the listener `{name}` uses {} for another purpose than `{}` does now; remove one, reload, then add the other",
        key.0,
        old.listener
    );
    Ok(())
}

/// Whether the options that matter for a socket of that kind differ.
fn concerns(plan: &PlanKind, old: &SocketOptions, new: &SocketOptions) -> bool {
    match plan {
        PlanKind::Stream(_) => tcp_options(old) != tcp_options(new),
        PlanKind::Datagram(_) | PlanKind::Quic(_) => {
            old.udp_receive_buffer != new.udp_receive_buffer
        }
    }
}

/// Removes the file of a unix socket, unless another process has put its own there.
fn unlink(address: &ListenAddress, file: Option<FileId>) {
    if let ListenAddress::Unix(path) = address
        && file_of(path) == file
    {
        // It may have been removed already.
        let _ = std::fs::remove_file(path);
    }
}

/// Puts a unix socket at its path.
pub(crate) fn place(address: &ListenAddress, file: StagedFile) {
    if let Err(error) = file.place() {
        tracing::error!(
            "cannot place {address}; clients cannot reach it: {error}; make its folder writable and restart Sluice"
        );
    }
}

/// Device and inode of a file.
type FileId = (u64, u64);

fn file_of(path: &Path) -> Option<FileId> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Another process listens on an address.
#[derive(Debug)]
pub(crate) struct HeldSockets {
    holder: Holder,
}

impl std::fmt::Display for HeldSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Only another Sluice hands its sockets over.
        let is_sluice = match &self.holder.process {
            Some((_, name)) => name == env!("CARGO_PKG_NAME"),
            None => true,
        };
        let help = match (is_sluice, &self.holder.process) {
            (true, Some(_)) => {
                "stop it, or start with --takeover to take over from it (docs/operating.md)"
            }
            (true, None) => "stop it, or start with --takeover if it is Sluice (docs/operating.md)",
            (false, _) => "stop it, or use another address",
        };
        write!(f, "{} already listens there; {help}", self.holder)
    }
}

impl std::error::Error for HeldSockets {}

/// Checks that no other process listens on an address.
///
/// # Errors
/// Another process does: the system lets processes of one user share a port, so binding would not reveal it.
pub(crate) fn check_free(address: &ListenAddress) -> Result<(), HeldSockets> {
    let holder = match address {
        ListenAddress::Tcp(address) => holder::of(*address, holder::Kind::Tcp),
        ListenAddress::Udp(address) => holder::of(*address, holder::Kind::Udp),
        ListenAddress::Unix(path) => holder::of_unix(path),
    };
    holder.map_or(Ok(()), |holder| Err(HeldSockets { holder }))
}

/// What each socket of a listener serves; the QUIC sockets come after the others.
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

/// The handles of a socket, one for each worker, and the file of a unix socket.
type BoundSockets = (Vec<OwnedFd>, Option<StagedFile>);

fn bind_one(
    address: &ListenAddress,
    count: usize,
    options: &SocketOptions,
    takeover: bool,
) -> std::io::Result<BoundSockets> {
    let unnamed = |sockets| (sockets, None);
    match address {
        ListenAddress::Tcp(socket) => {
            listen::tcp(*socket, count, tcp_options(options)).map(unnamed)
        }
        ListenAddress::Udp(socket) => {
            let buffer = options.udp_receive_buffer;
            listen::udp(*socket, count, buffer, options.freebind).map(unnamed)
        }
        ListenAddress::Unix(path) => {
            let backlog = options.backlog;
            listen::unix(path, count, backlog, takeover)
                .map(|(sockets, file)| (sockets, Some(file)))
        }
    }
}

/// Whether `other` is the UDP socket on the port that the system is to choose for the TCP socket `wanted`.
fn is_udp_beside(other: &ListenAddress, wanted: &ListenAddress) -> bool {
    matches!((other, wanted), (ListenAddress::Udp(udp), ListenAddress::Tcp(tcp)) if udp == tcp && tcp.port() == 0)
}

/// Binds a TCP socket whose port the system chooses, until UDP is free on that port, too: each protocol has ports of
/// its own, and the system looks at those of TCP only.
fn bind_free_for_udp(
    wanted: &ListenAddress,
    mut bind: impl FnMut() -> std::io::Result<BoundSockets>,
) -> std::io::Result<BoundSockets> {
    /// Past it, the error of the UDP socket tells what is wrong.
    const TRIES: usize = 32;
    let mut bound = bind()?;
    // Those that do not fit stay bound meanwhile, so that the system chooses another port.
    let mut refused = Vec::new();
    while refused.len() < TRIES
        && let ListenAddress::Tcp(chosen) = address_of(wanted, &bound.0[0])
        && holder::is_taken(chosen, holder::Kind::Udp)
    {
        refused.push(std::mem::replace(&mut bound, bind()?));
    }
    Ok(bound)
}

/// The bound address of a socket: for port 0 the system chose the port.
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_port_that_udp_has_elsewhere_is_not_chosen() {
        let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback can be bound");
        // The port that the system chooses first: nobody else can take it meanwhile.
        let (first, taken, _elsewhere) = std::iter::repeat_with(any)
            .find_map(|first| {
                let taken = first.local_addr().expect("it is bound");
                Some((first, taken, UdpSocket::bind(taken).ok()?))
            })
            .expect("some port is free for both");
        let wanted = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let mut choices = Some(first);
        let bound = bind_free_for_udp(&wanted, || {
            Ok((vec![choices.take().unwrap_or_else(any).into()], None))
        });
        let (sockets, _) = bound.expect("loopback can be bound");
        assert_ne!(address_of(&wanted, &sockets[0]), ListenAddress::Tcp(taken));
    }
}
