//! Why a TLS handshake or stream ended.

use rustls::{Error, PeerIncompatible};
use sluice_core::Reason;

sluice_core::reasons! {
    NO_CERTIFICATE = "tls.no_certificate", Transport, Downstream, "-", "No certificate of the chain fits what the client offered: signature schemes, versions. Check the key's type in `tls.certificates` (an RSA or ECDSA P-256 certificate suits most clients), or the client.";
    TIMEOUT = "tls.timeout", Transport, Downstream, "-", "The handshake was not done within `tls.handshake_timeout`. Check whether the client speaks TLS at all; raise the time-out for clients on slow paths.";
    PROTOCOL = "tls.protocol", Transport, Downstream, "DPE", "The client broke the TLS protocol or offered nothing that is supported; the detail says what. Check that the client speaks TLS on this port, and `tls.min_version` for old clients.";
    CLIENT_CERT_MISSING = "tls.client_cert_missing", Transport, Downstream, "-", "The chain requires a client certificate and none was sent. Configure the client with one, or set `client_auth.mode: optional`.";
    CLIENT_CERT_INVALID = "tls.client_cert_invalid", Transport, Downstream, "-", "The client's certificate was not accepted; the detail says why. Check that `client_auth.ca` signed it, that it has not expired, and `client_auth.crl`.";
    ALERT = "tls.alert", Transport, Downstream, "-", "The client refused the handshake with an alert; the detail names it. For a certificate alert check names, chain and expiry of the certificate in `tls.certificates` and what the client trusts.";
    TRUNCATED = "tls.truncated", Handle, Downstream, "-", "The peer closed the connection without a close_notify, so the end of the data may be missing. Check the peer: it crashed, or its TLS library leaves close_notify out.";
}

/// The reason for an error that a server's handshake or stream ended with.
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
