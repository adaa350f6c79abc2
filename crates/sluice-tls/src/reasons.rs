//! Why a TLS handshake or stream ended.

use rustls::{Error, PeerIncompatible};
use sluice_core::Reason;

sluice_core::reasons! {
    NO_CERTIFICATE = "tls.no_certificate", Transport, Downstream, "-", "No certificate of the chain matches the signature schemes and versions that the client offered. Check the key type in `tls.certificates` (an RSA or ECDSA P-256 certificate suits most clients), or the client.";
    TIMEOUT = "tls.timeout", Transport, Downstream, "-", "The handshake was not complete within `tls.handshake_timeout`. Check whether the client speaks TLS at all; raise the timeout for clients on slow paths.";
    PROTOCOL = "tls.protocol", Transport, Downstream, "DPE", "The client violated the TLS protocol or offered nothing that is supported; see the detail. Check that the client speaks TLS on this port, and `tls.min_version` for old clients.";
    CLIENT_CERT_MISSING = "tls.client_cert_missing", Transport, Downstream, "-", "The chain requires a client certificate, but the client sent none. Configure one in the client, or set `client_auth.mode: optional`.";
    CLIENT_CERT_INVALID = "tls.client_cert_invalid", Transport, Downstream, "-", "The client's certificate was rejected; see the detail. Check that `client_auth.ca` signed it, that it has not expired, and `client_auth.crl`.";
    ALERT = "tls.alert", Transport, Downstream, "-", "The client aborted the handshake with an alert, named in the detail. For a certificate alert, check the names, chain and expiry of the certificate in `tls.certificates` and which authorities the client trusts.";
    TRUNCATED = "tls.truncated", Handle, Downstream, "-", "The peer closed the connection without a close_notify, so the end of the data may be missing. Check the peer: it crashed, or its TLS library does not send close_notify.";
}

/// The reason for an error that ended a server-side handshake or stream.
pub fn of_server_error(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => CLIENT_CERT_MISSING,
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => CLIENT_CERT_INVALID,
        Error::AlertReceived(_) => ALERT,
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => NO_CERTIFICATE,
        Error::General(text) if text.contains("no server certificate chain resolved") => {
            NO_CERTIFICATE
        }
        _ => PROTOCOL,
    }
}
