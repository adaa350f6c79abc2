//! The metrics of QUIC on listeners.

sluice_telemetry::metrics! {
    QUIC_RETRIES = "sluice_listener_quic_retries_total", Counter, ["listener"], "QUIC clients that were sent a Retry to validate their address.";
    QUIC_UNKNOWN_VERSIONS = "sluice_listener_quic_unknown_versions_total", Counter, ["listener"], "Packets from clients with a QUIC version that Sluice does not support; they were told to use version 1.";
    QUIC_PACKETS = "sluice_listener_quic_packets_sent_total", Counter, ["listener"], "QUIC packets sent to clients, counted when a connection ends.";
    QUIC_LOST = "sluice_listener_quic_packets_lost_total", Counter, ["listener"], "QUIC packets sent to clients that were considered lost, counted when a connection ends.";
    QUIC_MIGRATIONS = "sluice_listener_quic_migrations_total", Counter, ["listener"], "Migrations of QUIC clients to another address that was validated, counted when a connection ends.";
    QUIC_RTT = "sluice_listener_quic_rtt_seconds", Histogram, ["listener"], "Round-trip time to QUIC clients, measured when their connections end.";
    QUIC_EARLY = "sluice_listener_quic_early_connections_total", Counter, ["listener"], "QUIC connections on which requests arrived before the handshake was complete (0-RTT).";
}
