//! Limits the bytes of a client: a connection that sends more ends, and of a UDP flow, further datagrams are dropped.
//!
//! ```sh
//! cargo build --release -p sluice-sdk --example quota    # target/release/examples/libquota.so
//! ```
//!
//! ```yaml
//! listeners:
//!   - address: udp://127.0.0.1:9000
//!     relay: app
//!     filters:
//!       - module: { library: ./libquota.so, config: 4096 }
//! ```
#![forbid(unsafe_code)]

use sluice_sdk::{Config, Connection, ConnectionModule, ConnectionStep, DatagramStep};

/// The most bytes, and the number of a counter.
struct Quota {
    bytes_max: usize,
    exceeded: u32,
}

impl ConnectionModule for Quota {
    /// The bytes so far.
    type State = usize;

    const BYTES: bool = true;
    const DATAGRAMS: bool = true;

    fn new(config: &mut Config<'_>, _: &str, text: &str) -> Result<Self, String> {
        let bytes_max = text.parse().map_err(|_| "a number of bytes is needed".to_owned())?;
        let exceeded = config.counter("exceeded").map_err(|refusal| refusal.to_string())?;
        Ok(Self { bytes_max, exceeded })
    }

    fn begin(&self, _: &mut Connection<'_>) -> usize {
        0
    }

    fn opened(&self, _: &mut usize, connection: &mut Connection<'_>) -> ConnectionStep {
        // Another library may have shared values before.
        let _ = connection.set_value("quota", &self.bytes_max.to_string());
        ConnectionStep::Continue
    }

    fn received(
        &self,
        so_far: &mut usize,
        connection: &mut Connection<'_>,
        _: bool,
    ) -> ConnectionStep {
        match self.fits(so_far, connection) {
            Some(true) => ConnectionStep::Continue,
            Some(false) => connection.close("the quota is used up"),
            None => ConnectionStep::Fail,
        }
    }

    fn datagram_received(&self, so_far: &mut usize, flow: &mut Connection<'_>) -> DatagramStep {
        match self.fits(so_far, flow) {
            Some(true) => DatagramStep::Forward,
            Some(false) => match flow.note("the quota is used up") {
                Ok(()) => DatagramStep::Drop,
                Err(_) => DatagramStep::Fail,
            },
            None => DatagramStep::Fail,
        }
    }
}

impl Quota {
    /// Whether the bytes at hand are within the quota.
    fn fits(&self, so_far: &mut usize, connection: &mut Connection<'_>) -> Option<bool> {
        *so_far = so_far.saturating_add(connection.bytes().ok()?.len());
        if *so_far <= self.bytes_max {
            return Some(true);
        }
        connection.count(self.exceeded, 1).ok()?;
        Some(false)
    }
}

sluice_sdk::connection_module!("quota 1.0", Quota);
