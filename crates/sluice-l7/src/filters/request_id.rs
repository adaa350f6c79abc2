//! `request_id`: gives every request an ID that follows it through services and logs.
//!
//! Keeps: an ID that the client sent is kept if `keep` is set, else replaced; a generated ID is a UUID of version 4,
//! RFC 9562 §5.4.

use sluice_codec::{Head, Known};
use sluice_io::WorkerCx;

use super::{Cx, HeadStep, HttpFilter, OfSettings, ResponseStep};

sluice_core::section! {
    /// Gives every request an ID in `x-request-id`.
    pub struct RequestId {
        /// Whether an ID that the client sent is kept.
        pub keep: bool = "true",
        /// Whether the response gets the ID too.
        pub respond: bool = "false",
    }
}

impl OfSettings for RequestId {
    const NAME: &'static str = "request_id";
    const HELP: &'static str = "Identifies every request in `x-request-id`.";
}

impl HttpFilter for RequestId {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if !self.keep || head.get(Known::XRequestId).is_none() {
            head.set_known(Known::XRequestId, &uuid(cx.worker));
        }
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        if self.respond
            && let Some(id) = cx.request.and_then(|request| request.get(Known::XRequestId))
        {
            head.set_known(Known::XRequestId, id);
        }
        ResponseStep::Continue
    }
}

/// Returns a UUID of version 4 as text.
fn uuid(worker: &WorkerCx) -> [u8; 36] {
    let mut text = [b'-'; 36];
    for (place, letter) in text.iter_mut().enumerate() {
        let nibble = match place {
            8 | 13 | 18 | 23 => continue,
            14 => 4,
            19 => 8 + worker.random_below(4),
            _ => worker.random_below(16),
        };
        *letter = b"0123456789abcdef"[nibble];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_uuid_of_version_4() {
        let worker = WorkerCx::solitary(sluice_core::Clock::held());
        let (one, other) = (uuid(&worker), uuid(&worker));
        assert_ne!(one, other);
        let text = String::from_utf8(one.to_vec()).unwrap();
        let parts: Vec<&str> = text.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('4') && "89ab".contains(&parts[3][..1]), "{text}");
    }
}
