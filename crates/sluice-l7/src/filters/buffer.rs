//! `buffer`: holds a request until its whole body has arrived.
//!
//! Keeps: an endpoint never waits for a slow client; a body larger than the limit gets a 413 response.

use sluice_codec::Head;
use sluice_core::settings::Size;

use super::{Cx, HeadStep, HttpFilter, OfSettings, WholeStep};

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
    fn request_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        let max = usize::try_from(self.max.0).unwrap_or(usize::MAX);
        HeadStep::buffer(max, |_, _| WholeStep::Continue)
    }
}
