//! The settings of both sides of a connection.
//!
//! Owns: what a peer announced, checked; writing ours. Refuses to know: what a setting does to streams. Keeps: a value
//! that RFC 9113 §6.5.2 forbids is refused with its code, and unknown settings are ignored.
//!
//! Source: RFC 9113 §6.5, RFC 8441 §3.

use crate::h1::Role;
use crate::h2::H2Options;
use crate::h2::code::{H2Code, H2Violation};
use crate::h2::frame::{self, FRAME_MAX, kind};
use crate::h2::window::WINDOW_MAX;

/// Identifiers of settings.
mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The largest MAX_FRAME_SIZE, RFC 9113 §6.5.2.
const FRAME_LIMIT: u32 = (1 << 24) - 1;

/// What a peer has announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Bytes of its dynamic table, RFC 7541 §4.2.
    pub table_bytes: u32,
    /// Streams that we may open.
    pub streams_max: u32,
    /// The window of each stream at its start.
    pub stream_window: u32,
    /// Bytes of a frame that it accepts.
    pub frame_max: u32,
    /// Whether it accepts extended CONNECT, RFC 8441.
    pub connect_protocol: bool,
    /// The smallest table size announced in the SETTINGS frame that was read last: the encoder must go below it once,
    /// RFC 7541 §4.2.
    pub table_least: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            table_bytes: 4096,
            streams_max: u32::MAX,
            stream_window: 65_535,
            frame_max: FRAME_MAX,
            connect_protocol: false,
            table_least: 4096,
        }
    }
}

impl PeerSettings {
    /// Applies the payload of a SETTINGS frame, whose length is a multiple of six.
    ///
    /// # Errors
    /// A value is not allowed.
    pub fn apply(&mut self, payload: &[u8], role: Role) -> Result<(), H2Violation> {
        let wrong = H2Violation::protocol("http2.settings_value");
        self.table_least = u32::MAX;
        for entry in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            match id {
                setting::HEADER_TABLE_SIZE => {
                    self.table_bytes = value;
                    self.table_least = self.table_least.min(value);
                }
                // A server must not enable pushes to us, RFC 9113 §6.5.2.
                setting::ENABLE_PUSH if value > u32::from(role == Role::Server) => {
                    return Err(wrong);
                }
                setting::MAX_CONCURRENT_STREAMS => self.streams_max = value,
                setting::INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                    let code = H2Code::FLOW_CONTROL_ERROR;
                    return Err(H2Violation::Connection(code, "http2.settings_value"));
                }
                setting::INITIAL_WINDOW_SIZE => self.stream_window = value,
                setting::MAX_FRAME_SIZE if !(FRAME_MAX..=FRAME_LIMIT).contains(&value) => {
                    return Err(wrong);
                }
                setting::MAX_FRAME_SIZE => self.frame_max = value,
                // It must not be withdrawn, RFC 8441 §3.
                setting::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(wrong),
                setting::ENABLE_CONNECT_PROTOCOL if value == 0 && self.connect_protocol => {
                    return Err(wrong);
                }
                setting::ENABLE_CONNECT_PROTOCOL => self.connect_protocol = value == 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes our SETTINGS frame.
pub(crate) fn write_ours(out: &mut Vec<u8>, role: Role, options: &H2Options) {
    let first = match role {
        Role::Server => (setting::MAX_CONCURRENT_STREAMS, options.streams_max),
        Role::Client => (setting::ENABLE_PUSH, 0),
    };
    let common = [
        first,
        (setting::INITIAL_WINDOW_SIZE, options.stream_window),
        (setting::MAX_HEADER_LIST_SIZE, options.head_bytes),
    ];
    let extended = (role == Role::Server).then_some((setting::ENABLE_CONNECT_PROTOCOL, 1));
    let mut payload = [0; 4 * 6];
    let mut len = 0;
    for (id, value) in common.into_iter().chain(extended) {
        payload[len..len + 2].copy_from_slice(&id.to_be_bytes());
        payload[len + 2..len + 6].copy_from_slice(&value.to_be_bytes());
        len += 6;
    }
    frame::write(out, kind::SETTINGS, 0, 0, &payload[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(role: Role, pairs: &[(u16, u32)]) -> Result<PeerSettings, H2Code> {
        let mut payload = Vec::new();
        for (id, value) in pairs {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut settings = PeerSettings::default();
        settings.apply(&payload, role).map(|()| settings).map_err(H2Violation::code)
    }

    #[test]
    fn values_are_checked() {
        let protocol = Err(H2Code::PROTOCOL_ERROR);
        assert_eq!(apply(Role::Server, &[(2, 1)]).map(|_| ()), Ok(()));
        assert_eq!(apply(Role::Client, &[(2, 1)]).map(|_| ()), protocol);
        assert_eq!(apply(Role::Server, &[(2, 2)]).map(|_| ()), protocol);
        assert_eq!(apply(Role::Server, &[(4, 1 << 31)]).unwrap_err(), H2Code::FLOW_CONTROL_ERROR);
        assert_eq!(apply(Role::Server, &[(5, 16_383)]).map(|_| ()), protocol);
        assert_eq!(apply(Role::Server, &[(5, 1 << 24)]).map(|_| ()), protocol);
        assert_eq!(apply(Role::Server, &[(8, 2)]).map(|_| ()), protocol);
        assert_eq!(apply(Role::Client, &[(8, 1), (8, 0)]).map(|_| ()), protocol);
        let all = apply(Role::Client, &[(1, 0), (1, 100), (3, 7), (4, 9), (5, 1 << 20), (99, 1)]);
        let all = all.unwrap();
        assert_eq!((all.table_least, all.table_bytes, all.streams_max), (0, 100, 7));
        assert_eq!((all.stream_window, all.frame_max), (9, 1 << 20));
    }
}
