//! What becomes of a message after a hook.
//!
//! Owns: which step a hook may return when. Refuses to know: how it is carried out. Keeps: a number that no hook may return there
//! is a failure, never taken for another.

use sluice_abi::step;
use sluice_l7::Reply;
use sluice_l7::filters::BodyAccess;
use sluice_sys::module::ModuleHook;

use crate::calls::HookWait;

/// The most bytes of what a library says about a request, in records.
const SAID_MAX: usize = 512;

/// What a hook decided.
#[derive(Debug)]
pub(crate) enum HookVerdict {
    /// The message goes on; after headers, with this access to its body.
    Continue(BodyAccess),
    /// It is received whole.
    Buffer,
    /// It ends with this.
    Reply(Box<Reply>),
    /// The response ends here, though its headers have been sent.
    Cut,
    /// It waits.
    Wait(HookWait),
}

/// Where a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookPlace {
    /// With the headers of a message, before anything of it was sent.
    Head,
    /// With a whole message.
    Whole,
    /// With a piece of a message, or its trailers; the headers were sent.
    Sent,
}

/// Judges what a hook returned, and what it made before.
///
/// # Errors
/// It may not return that here.
pub(crate) fn judge(
    returned: i32,
    hook: ModuleHook,
    place: HookPlace,
    reply: Option<Box<Reply>>,
    wait: Option<HookWait>,
) -> Result<HookVerdict, String> {
    let (name, response) = named(hook);
    let head_only = |word: &str, verdict| match place {
        HookPlace::Head => Ok(verdict),
        _ => Err(format!("{name} returned {word}, which only hooks for headers may")),
    };
    match returned {
        step::CONTINUE => Ok(HookVerdict::Continue(BodyAccess::None)),
        step::READ => head_only("SLUICE_READ", HookVerdict::Continue(BodyAccess::Read)),
        step::EDIT => head_only("SLUICE_EDIT", HookVerdict::Continue(BodyAccess::Edit)),
        step::BUFFER => head_only("SLUICE_BUFFER", HookVerdict::Buffer),
        step::RESPOND => match reply {
            Some(reply) => Ok(HookVerdict::Reply(reply)),
            None if response && place == HookPlace::Sent => Ok(HookVerdict::Cut),
            None => Err(format!("{name} returned SLUICE_RESPOND without a response")),
        },
        step::WAIT => match wait {
            Some(wait) => Ok(HookVerdict::Wait(wait)),
            None => Err(format!("{name} returned SLUICE_WAIT without a ticket or a call")),
        },
        step::FAIL => Err(format!("{name} returned SLUICE_FAIL")),
        other => Err(format!("{name} returned {other}, which is no step")),
    }
}

/// The name of a hook, and whether it is of a response.
pub(crate) const fn named(hook: ModuleHook) -> (&'static str, bool) {
    match hook {
        ModuleHook::RequestHeaders => ("request_headers", false),
        ModuleHook::RequestBody => ("request_body", false),
        ModuleHook::RequestTrailers => ("request_trailers", false),
        ModuleHook::ResponseHeaders => ("response_headers", true),
        ModuleHook::ResponseBody => ("response_body", true),
        ModuleHook::ResponseTrailers => ("response_trailers", true),
    }
}

/// One line of printable characters, of a bounded length.
pub(crate) fn bounded(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(SAID_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_l7::reasons;

    fn of(returned: i32, hook: ModuleHook, place: HookPlace, replies: bool) -> Result<(), String> {
        let reply = replies.then(|| Box::new(Reply::new(403, reasons::LOCAL, "", "")));
        judge(returned, hook, place, reply, None).map(drop)
    }

    #[test]
    fn a_step_at_the_wrong_time_is_a_failure() {
        use HookPlace::{Head, Sent, Whole};
        use ModuleHook::{RequestBody, RequestHeaders, ResponseBody};
        for (returned, hook, place) in [
            (step::CONTINUE, RequestBody, Sent),
            (step::READ, RequestHeaders, Head),
            (step::EDIT, RequestHeaders, Head),
            (step::BUFFER, RequestHeaders, Head),
            (step::RESPOND, ResponseBody, Sent),
        ] {
            assert_eq!(of(returned, hook, place, false), Ok(()), "{returned} in {hook:?}");
        }
        assert_eq!(of(step::RESPOND, RequestBody, Whole, true), Ok(()));
        for (returned, hook, place, why) in [
            (step::READ, RequestBody, Sent, "only hooks for headers"),
            (step::BUFFER, RequestBody, Whole, "only hooks for headers"),
            (step::RESPOND, RequestHeaders, Head, "without a response"),
            (step::RESPOND, ResponseBody, Whole, "without a response"),
            (step::WAIT, RequestHeaders, Head, "without a ticket"),
            (step::FAIL, RequestHeaders, Head, "request_headers returned SLUICE_FAIL"),
            (77, RequestHeaders, Head, "77, which is no step"),
            (i32::MIN, ResponseBody, Sent, "which is no step"),
        ] {
            let said = of(returned, hook, place, false).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_a_library_says_is_one_line_of_bounded_length() {
        assert_eq!(bounded(b"a\r\nb\xff"), "a  b\u{fffd}");
        assert_eq!(bounded(&[b'x'; 10_000]).len(), SAID_MAX);
    }
}
