//! TLS with an endpoint.
//!
//! Owns: the name that an endpoint is verified by, the handshake, and what its failure is called. Refuses to know: how the
//! stream was opened. Keeps: nothing is sent before the handshake is complete unless the caller asks for early data.

use std::future::poll_fn;
use std::io;

use rustls::pki_types::ServerName;
use sluice_io::tls::HandshakeError;
use sluice_io::{RawStream, Stream, TlsStream, WorkerCx};
use sluice_tls::ClientTls;

use super::{ConnectFailure, open};
use crate::endpoint::{EndpointState, Target};
use crate::plan::ClusterPlan;

/// Performs the TLS handshake with `endpoint`.
///
/// # Errors
/// Why it failed.
pub async fn secure(
    raw: RawStream,
    tls: &ClientTls,
    endpoint: &EndpointState,
    worker: &WorkerCx,
) -> Result<Stream, ConnectFailure> {
    let name = name_of(tls, endpoint)?;
    let stream = TlsStream::client(raw, tls, name);
    let mut stream = stream.map_err(|error| ConnectFailure::of_tls(&error))?;
    let shaking = poll_fn(|cx| stream.poll_handshake(cx, worker)).await;
    shaking.map_err(handshake_failure)?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Opens a stream to an endpoint on which a request is sent before the handshake is complete, if an earlier session with
/// the endpoint allows it ([`Stream::is_early`]): then the handshake has only begun. Otherwise it is complete.
///
/// # Errors
/// Why the endpoint was not reached.
pub async fn reach_early(
    plan: &ClusterPlan,
    tls: &ClientTls,
    endpoint: &EndpointState,
    worker: &WorkerCx,
) -> Result<Stream, ConnectFailure> {
    let name = name_of(tls, endpoint)?;
    let raw = open(plan, endpoint, &worker.reactor).await?;
    let stream = TlsStream::early_client(raw, tls, name);
    let mut stream = stream.map_err(|error| ConnectFailure::of_tls(&error))?;
    let begun = poll_fn(|cx| stream.poll_begin_early(cx, worker)).await;
    if !begun.map_err(handshake_failure)? {
        let shaking = poll_fn(|cx| stream.poll_handshake(cx, worker)).await;
        shaking.map_err(handshake_failure)?;
    }
    Ok(Stream::Tls(Box::new(stream)))
}

/// What a handshake that failed is called.
pub fn handshake_failure(error: HandshakeError) -> ConnectFailure {
    match error {
        HandshakeError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ConnectFailure::of_tls(&"the endpoint closed the connection during the TLS handshake")
        }
        error => ConnectFailure::of_tls(&error),
    }
}

fn name_of(
    tls: &ClientTls,
    endpoint: &EndpointState,
) -> Result<ServerName<'static>, ConnectFailure> {
    let nameless = "the endpoint has no name to verify; set `tls.sni` of its cluster";
    verified_name(tls, endpoint).ok_or_else(|| ConnectFailure::of_tls(&nameless))
}

/// The name that an endpoint is verified by: the configured one, or its own.
pub fn verified_name(tls: &ClientTls, endpoint: &EndpointState) -> Option<ServerName<'static>> {
    tls.sni.clone().or_else(|| own_name(endpoint))
}

fn own_name(endpoint: &EndpointState) -> Option<ServerName<'static>> {
    if let Some(host) = &endpoint.host {
        return ServerName::try_from(host.trim_end_matches('.').to_owned()).ok();
    }
    match &endpoint.target {
        Target::Ip(address) => Some(ServerName::IpAddress(address.ip().into())),
        Target::Unix(_) => None,
    }
}
