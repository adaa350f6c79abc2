//! Why QUIC connections ended before they were served.

sluice_core::reasons! {
    QUIC_PROTOCOL = "quic.protocol", Transport, Downstream, "DPE", "The client violated the QUIC protocol, or its handshake failed; the detail describes how. Check the client and, for a failed handshake, the certificate in `tls.certificates`.";
    QUIC_VERSION = "quic.version", Transport, Downstream, "DPE", "The client uses a QUIC version that Sluice does not support; the detail contains the version. It was told to use version 1, which most clients then do; otherwise update the client. Ten per second and socket are recorded; `sluice_listener_quic_unknown_versions_total` counts all.";
}

/// Returns all reasons of this layer and those below it, for documents and for the test of uniqueness.
pub fn all() -> impl Iterator<Item = sluice_core::Reason> {
    sluice_l4::reasons::all().chain(TABLE.iter().copied())
}
