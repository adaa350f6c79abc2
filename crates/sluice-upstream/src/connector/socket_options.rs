//! The options of a cluster for its sockets.
//!
//! Owns: which of them apply to a socket. Refuses to know: what the socket is for. Keeps: a socket is bound once: one to a
//! listener of this process is bound before, to the address that the listener recognises.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use sluice_sys::socket::{bind_source, set_dscp, set_keepalive, set_user_timeout};

use crate::plan::SocketPlan;

/// Prepares a TCP socket that will be connected to `to`.
pub(super) fn prepare_stream(
    plan: &SocketPlan,
    socket: &OwnedFd,
    to: SocketAddr,
) -> io::Result<()> {
    if let Some(keepalive) = plan.keepalive {
        set_keepalive(socket, keepalive.idle, keepalive.interval, keepalive.probes)?;
    }
    if let Some(timeout) = plan.user_timeout {
        set_user_timeout(socket, timeout)?;
    }
    prepare_datagrams(plan, socket, to)
}

/// Prepares a UDP socket that will be connected to `to`.
///
/// # Errors
/// The error of the system: an address to connect from may not belong to this host.
pub fn prepare_datagrams(plan: &SocketPlan, socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    if let Some(dscp) = plan.dscp {
        set_dscp(socket, to, dscp)?;
    }
    match plan.source_to(to) {
        Some(source) => bind_source(socket, source),
        None => Ok(()),
    }
}

impl SocketPlan {
    /// The address to connect to `to` from.
    pub(crate) fn source_to(&self, to: SocketAddr) -> Option<IpAddr> {
        self.sources.iter().copied().find(|source| source.is_ipv4() == to.is_ipv4())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sys::socket::{local_address, stream_to};

    #[test]
    fn the_first_source_of_the_family_is_used() {
        let sources = ["127.0.0.9", "127.0.0.8", "::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let plan = SocketPlan { sources, ..SocketPlan::default() };
        for (to, source) in [("127.0.0.1:9", "127.0.0.9"), ("[::1]:9", "::1")] {
            let to = to.parse().unwrap();
            let socket = stream_to(to).unwrap();
            prepare_stream(&plan, &socket, to).unwrap();
            let local = local_address(&socket).unwrap().ip();
            assert_eq!(local, source.parse::<IpAddr>().unwrap());
        }
        let plan = SocketPlan { sources: vec!["192.0.2.1".parse().unwrap()], ..plan };
        let to = "127.0.0.1:9".parse().unwrap();
        let error = prepare_stream(&plan, &stream_to(to).unwrap(), to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
