//! Why a TLS handshake or stream ended.

use rustls::{Error, PeerIncompatible};
use sluice_core::Reason;

sluice_core::reasons! {
    NO_CERTIFICATE = "tls.no_certificate", Transport, Downstream, "-", "No certificate of the chain could be used with what the client offered.";
    TIMEOUT = "tls.timeout", Transport, Downstream, "-", "The handshake was not done within `handshake_timeout`.";
    PROTOCOL = "tls.protocol", Transport, Downstream, "DPE", "The client broke the TLS protocol or offered nothing that is supported; the detail says what.";
    CLIENT_CERT_MISSING = "tls.client_cert_missing", Transport, Downstream, "-", "The chain requires a client certificate and none was sent.";
    CLIENT_CERT_INVALID = "tls.client_cert_invalid", Transport, Downstream, "-", "The client's certificate was not accepted; the detail says why.";
    ALERT = "tls.alert", Transport, Downstream, "-", "The client refused the handshake with an alert; the detail names it.";
    TRUNCATED = "tls.truncated", Handle, Downstream, "-", "The peer closed the connection without a close_notify, so the end of the data may be missing.";
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
