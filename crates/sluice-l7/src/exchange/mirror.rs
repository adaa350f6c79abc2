//! Copies of a request for other clusters.
//!
//! Owns: which rules' mirrors get a copy, and collecting the body for them. Refuses to know: how a copy is sent, and what
//! comes back. Keeps: the request itself neither waits for a copy nor fails with one; a body that does not fit the limit
//! costs the copies, and they are counted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_codec::{Head, Method};
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_upstream::Cluster;

use super::{RequestTask, RouteTarget};
use crate::hop_count::HopCount;
use crate::pools::ClusterPool;
use crate::routes::{MirrorTarget, RuntimeShare};
use crate::side_calls::MirrorCopy;

/// How long a copy may take if the rule has no time-out.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The copies of a request whose body is being received. If it is dropped before that, the copies are counted as
/// incomplete.
#[derive(Debug)]
pub(super) struct Mirroring {
    worker: Rc<WorkerCx>,
    copies: Vec<(Rc<ClusterPool>, Head)>,
    body: BytesMut,
    charge: Charge,
    hops: HopCount,
    timeout: Duration,
}

impl Mirroring {
    /// Adds a piece of the body; returns whether all of it fits.
    fn add(&mut self, piece: &[u8]) -> bool {
        let len = self.body.len() + piece.len();
        let why = if len > self.worker.limits.size(Limit::MirrorBytes) {
            sluice_l4::metrics::count_limit(&self.worker, Limit::MirrorBytes);
            "too_large"
        } else if self.charge.set(len).is_err() {
            "buffers"
        } else {
            self.body.extend_from_slice(piece);
            return true;
        };
        self.give_up(why);
        false
    }

    /// Counts the copies that are not sent.
    fn give_up(&mut self, why: &'static str) {
        for (pool, _) in self.copies.drain(..) {
            pool.counters.count_mirror(&self.worker, &pool.handle.cluster.name, why);
        }
    }

    /// Sends the copies: the body is complete.
    fn launch(&mut self) {
        let (hops, timeout) = (self.hops, self.timeout);
        let charge = Rc::new(std::mem::replace(&mut self.charge, self.worker.buffers.charge()));
        let body = std::mem::take(&mut self.body).freeze();
        for (pool, head) in self.copies.drain(..) {
            let (body, charge) = (body.clone(), Rc::clone(&charge));
            MirrorCopy { pool, head, body, charge, hops, timeout }.launch(&self.worker);
        }
    }
}

impl Drop for Mirroring {
    fn drop(&mut self) {
        self.give_up("incomplete");
    }
}

impl RequestTask {
    /// Makes the copies that the rule asks for, of the request as it goes to the endpoint. Neither tunnels are mirrored,
    /// which are no messages, nor copies and side calls of this process, which could multiply without end.
    pub(super) fn begin_mirrors(&mut self, target: &RouteTarget) {
        let options = &target.rule().options;
        let is_tunnel = self.method == Method::Connect || self.request.upgrade().is_some();
        let hops = HopCount::of(&self.request);
        if is_tunnel || hops.side_calls > 0 {
            return;
        }
        let worker = Rc::clone(self.worker());
        let runtime = &self.manager.plan.runtime;
        let mut copies = Vec::new();
        for mirror in &options.mirrors {
            let drawn = worker.random_below(RuntimeShare::STEPS) as u64;
            if !mirror.share.takes(drawn, runtime) {
                continue;
            }
            let Some(cluster) = self.mirror_cluster(target, &mirror.to) else { continue };
            let mut head = Head::clone(&self.request);
            head.remove(b"expect");
            if !mirror.host_suffix.is_empty() {
                let host = with_suffix(head.authority(), &mirror.host_suffix);
                head.set_authority(host.as_bytes());
            }
            copies.push((self.manager.shared.pools.to(&cluster, &worker), head));
        }
        if copies.is_empty() {
            return;
        }
        let timeouts = &options.timeouts;
        let total = timeouts.total.and_then(|total| total.0);
        let timeout = timeouts.response.or(total).unwrap_or(TIMEOUT);
        let (body, charge) = (BytesMut::new(), worker.buffers.charge());
        let mut mirroring = Mirroring { worker, copies, body, charge, hops, timeout };
        // A filter may have received the request whole.
        if !self.upload.kept().iter().all(|piece| mirroring.add(piece)) {
            return;
        }
        if self.upload.is_received() {
            return mirroring.launch();
        }
        self.mirroring = Some(Box::new(mirroring));
    }

    /// The cluster that gets copies, if there is one.
    fn mirror_cluster(&self, target: &RouteTarget, to: &MirrorTarget) -> Option<Arc<Cluster>> {
        let directory = &target.snapshot.table.directory;
        let named = match to {
            MirrorTarget::Cluster(name) => return Some(directory.reference(name)),
            MirrorTarget::Header(header) => self.route_input().header(header),
            MirrorTarget::Expression(expression) => self.route_input().made_by(expression),
        };
        let Some(named) = named else {
            self.manager.count_unnamed_mirror("missing");
            return None;
        };
        let cluster = directory.find(&named);
        if cluster.is_none() {
            self.manager.count_unnamed_mirror("unknown");
        }
        cluster
    }

    /// Adds a piece of the body to the copies.
    pub(super) fn mirror_piece(&mut self, piece: &Bytes) {
        if self.mirroring.as_mut().is_some_and(|mirroring| !mirroring.add(piece)) {
            self.mirroring = None;
        }
    }

    /// Sends the copies: the request has been received.
    pub(super) fn finish_mirrors(&mut self) {
        if let Some(mut mirroring) = self.mirroring.take() {
            mirroring.launch();
        }
    }
}

/// A host with a suffix, which goes before the port.
fn with_suffix(authority: &str, suffix: &str) -> String {
    let host = crate::host_name::without_port(authority);
    // An address in brackets has no name to add to.
    if host.starts_with('[') {
        return authority.to_owned();
    }
    let port = authority.strip_prefix(host).unwrap_or_default();
    format!("{host}{suffix}{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_goes_before_the_port() {
        for (authority, expected) in [
            ("a.test", "a.test-shadow"),
            ("a.test:8080", "a.test-shadow:8080"),
            ("[::1]:80", "[::1]:80"),
            ("", "-shadow"),
        ] {
            assert_eq!(with_suffix(authority, "-shadow"), expected);
        }
    }
}
