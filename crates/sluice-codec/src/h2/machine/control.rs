//! Frames about the connection, windows and resets.
//!
//! Owns: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM and PRIORITY_UPDATE of the peer. Refuses to know: messages.
//! Keeps: each of them draws on the budget; a changed initial window applies to open streams, and a window that exceeds
//! its maximum is an error of exactly what it belongs to.

use super::{CHECK_PING, DRAIN_PING, DrainPhase, H2Machine, MachineEvent, PingPhase};
use crate::h1::Role;
use crate::h2::budget::{BURST, cost};
use crate::h2::code::{H2Code, H2Violation};
use crate::h2::frame::{self, FrameHead, first_u31, first_u32, flag, kind};
use crate::h2::state::StreamEnd;

impl H2Machine {
    pub(super) fn settings(&mut self, payload: &[u8]) -> Result<(), H2Violation> {
        self.spend(cost::FRAME)?;
        let before = self.peer;
        self.peer.apply(payload, self.role)?;
        frame::write(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        if self.peer.table_least != u32::MAX {
            // A table that was smaller in between must be announced as that, RFC 7541 §4.2.
            self.encoder.set_table_max(self.peer.table_least);
            self.encoder.set_table_max(self.peer.table_bytes);
        }
        let by = i64::from(self.peer.stream_window) - i64::from(before.stream_window);
        if by != 0 {
            self.shift_windows(by)?;
        }
        self.wake_openers();
        Ok(())
    }

    /// Applies a changed initial window to open streams, RFC 9113 §6.9.2.
    fn shift_windows(&mut self, by: i64) -> Result<(), H2Violation> {
        let mut sendable = false;
        for (_, entry) in self.streams.iter_mut().filter(|(_, entry)| entry.state.sends()) {
            let overrun = H2Violation::Connection(H2Code::FLOW_CONTROL_ERROR, STREAM_WINDOW);
            entry.send.shift(by).map_err(|_| overrun)?;
            sendable |= entry.may_send() && !entry.queued;
        }
        if sendable {
            self.streams.keys().into_iter().for_each(|key| self.queue(key));
        }
        Ok(())
    }

    pub(super) fn settings_acknowledged(&mut self) -> Result<(), H2Violation> {
        if !std::mem::replace(&mut self.unacknowledged, false) {
            return Err(H2Violation::protocol("http2.settings_ack_unexpected"));
        }
        // A smaller window than the initial one holds from now on, RFC 9113 §6.9.3.
        let by = super::INITIAL_WINDOW.saturating_sub(self.options.stream_window);
        self.streams.iter_mut().for_each(|(_, entry)| entry.recv.shrink(by));
        Ok(())
    }

    pub(super) fn ping_received(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), H2Violation> {
        self.spend(cost::FRAME)?;
        if !head.has(flag::ACK) {
            frame::write(&mut self.out, kind::PING, flag::ACK, 0, payload);
        } else if payload == DRAIN_PING && self.drain == DrainPhase::Announced {
            // The client knows by now, so what it has opened since is the last, RFC 9113 §6.8.
            self.drain = DrainPhase::Final(self.last_peer);
            frame::write_goaway(&mut self.out, self.last_peer, H2Code::NO_ERROR);
        } else if payload == CHECK_PING && self.ping == PingPhase::Sent {
            self.ping = PingPhase::Acknowledged;
        }
        Ok(())
    }

    pub(super) fn goaway_received(&mut self, payload: &[u8]) -> Result<(), H2Violation> {
        self.spend(cost::FRAME)?;
        let last = first_u31(payload);
        if self.peer_last.is_some_and(|before| last > before) {
            return Err(H2Violation::protocol("http2.goaway_raised"));
        }
        self.peer_last = Some(last);
        let said = payload.get(8..).unwrap_or_default();
        let said: String =
            if said.is_empty() { String::new() } else { format!(" ({})", shown(said)) };
        self.peer_goaway = Some(Box::new((H2Code(first_u32(&payload[4..])), said)));
        if self.role == Role::Client {
            for key in self.streams.keys() {
                if self.streams.get(key).id > last {
                    self.end_stream(key, StreamEnd::Refused);
                }
            }
        }
        self.wake_openers();
        Ok(())
    }

    pub(super) fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), H2Violation> {
        self.spend(cost::FRAME)?;
        let more = first_u31(payload);
        let (flow, zero) = (H2Code::FLOW_CONTROL_ERROR, "http2.window_update_of_zero");
        if id == 0 {
            if more == 0 {
                return Err(H2Violation::protocol(zero));
            }
            let overrun = H2Violation::Connection(flow, "http2.connection_window");
            return self.send.grant(more).map_err(|_| overrun);
        }
        if self.is_idle(id) {
            return Err(H2Violation::protocol("http2.frame_on_idle_stream"));
        }
        let Some(key) = self.streams.find(id) else { return Ok(()) };
        let entry = self.streams.get_mut(key);
        if !entry.state.sends() {
            return Ok(());
        }
        if more == 0 {
            return Err(H2Violation::Stream(id, H2Code::PROTOCOL_ERROR, zero));
        }
        let overrun = H2Violation::Stream(id, flow, STREAM_WINDOW);
        entry.send.grant(more).map_err(|_| overrun)?;
        self.queue(key);
        Ok(())
    }

    pub(super) fn reset_received(&mut self, id: u32, payload: &[u8]) -> Result<(), H2Violation> {
        if self.is_idle(id) {
            return Err(H2Violation::protocol("http2.frame_on_idle_stream"));
        }
        let Some(key) = self.streams.find(id) else { return self.spend(cost::FRAME) };
        let entry = self.streams.get(key);
        let cost = match self.role {
            // The request has not been handed out yet; only a flood does that repeatedly.
            Role::Server if entry.pending => {
                let resets = u32::try_from(self.options.resets_max).unwrap_or(u32::MAX);
                BURST.div_ceil(resets.max(1))
            }
            Role::Server if !entry.head_sent => cost::RESET,
            _ => cost::FRAME,
        };
        self.end_stream(key, StreamEnd::ByPeer(H2Code(first_u32(payload))));
        self.spend(cost)
    }

    /// Handles a hint about the order of responses, RFC 9218 §7.1.
    pub(super) fn priority_update(&mut self, payload: &[u8]) -> Result<(), H2Violation> {
        self.spend(cost::FRAME)?;
        let id = first_u31(payload);
        if self.role == Role::Client || id == 0 {
            return Err(H2Violation::protocol("http2.priority_update"));
        }
        // One for a stream that is not open yet is a hint that comes too early to be kept.
        if let Some(key) = self.streams.find(id) {
            self.prioritized |= self.streams.get_mut(key).set_priority(&payload[4..]);
        }
        Ok(())
    }

    /// Removes a request that has not been handed out.
    pub(super) fn take_back(&mut self, key: usize) {
        let at = self.events.iter().position(
            |event| matches!(event, MachineEvent::Request(requested, _) if *requested == key),
        );
        if let Some(MachineEvent::Request(_, head)) = at.and_then(|at| self.events.remove(at)) {
            self.supply.heads.give(head);
        }
        self.release(key);
    }
}

/// The detail of a stream's window that exceeds its maximum.
const STREAM_WINDOW: &str = "http2.stream_window";

/// Characters of a GOAWAY's debug data that are shown.
const DEBUG_DATA: usize = 200;

/// Quotes debug data.
fn shown(said: &[u8]) -> String {
    let said = format!("\"{}\"", said.get(..DEBUG_DATA).unwrap_or(said).escape_ascii());
    said.chars().take(DEBUG_DATA).collect()
}
