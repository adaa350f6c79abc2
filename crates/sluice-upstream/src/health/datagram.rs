//! Checks over UDP: a datagram that is sent, and one that comes back.
//!
//! Owns: the socket of one check. Refuses to know: what datagrams mean. Keeps: datagrams that are not the response are
//! ignored, so that only the timeout of the check ends the wait for it.

use memchr::memmem;
use sluice_sys::socket::{begin_connect, datagrams_to};
use tokio::net::UdpSocket;

use super::CheckError;
use crate::connector::prepare_datagrams;
use crate::endpoint::Target;
use crate::plan::{ClusterPlan, SendExpect};

/// Bytes of a response that are looked at.
const RESPONSE_MAX: usize = 4096;

/// Sends what the check sends, and waits for a datagram with what it expects.
pub(super) async fn check(
    plan: &ClusterPlan,
    target: &Target,
    check: &SendExpect,
) -> Result<(), CheckError> {
    let fits = |response: &[u8]| memmem::find(response, &check.expect).map(drop);
    ask(plan, target, &check.send, fits).await
}

/// Sends a datagram, and waits for one of which `read` makes something.
pub(super) async fn ask<T>(
    plan: &ClusterPlan,
    target: &Target,
    datagram: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, CheckError> {
    let Target::Ip(server) = target else {
        return Err(CheckError::Local("no datagrams are sent to a unix socket".into()));
    };
    let local = |error: std::io::Error| CheckError::Local(error.to_string());
    let lost = |error: std::io::Error| CheckError::Endpoint(error.to_string());
    let socket = datagrams_to(*server).map_err(local)?;
    if let Some(options) = &plan.socket {
        prepare_datagrams(options, &socket, *server).map_err(local)?;
    }
    begin_connect(&socket, *server).map_err(local)?;
    let socket = UdpSocket::from_std(socket.into()).map_err(local)?;
    socket.send(datagram).await.map_err(lost)?;
    let mut response = vec![0; RESPONSE_MAX];
    loop {
        let count = socket.recv(&mut response).await.map_err(lost)?;
        if let Some(found) = read(response.get(..count).unwrap_or_default()) {
            return Ok(found);
        }
    }
}
