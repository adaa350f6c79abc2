//! `buffer`: holds a request until its whole body has arrived.
//!
//! Keeps: an endpoint never waits for a slow client; a body larger than the limit gets a 413 response.

use sluice_codec::Head;
use sluice_core::settings::Size;

use super::{Cx, HeadStep, HttpFilter, OfSettings};

sluice_core::section! {
    /// Holds a request until its whole body has arrived. Requests to upgrade are not held.
    pub struct Buffer {
        /// The largest body; a larger one gets a 413 response.
        pub max: Size = "1MiB",
    }
}

impl OfSettings for Buffer {
    const NAME: &'static str = "buffer";
    const HELP: &'static str = "Holds a request until its whole body has arrived.";
}

impl HttpFilter for Buffer {
    fn request_head(&self, _cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        // A tunnel has no end to wait for.
        if head.upgrade().is_some() {
            return HeadStep::Continue;
        }
        HeadStep::Buffer(usize::try_from(self.max.0).unwrap_or(usize::MAX))
    }
}
