//! What a hook for a datagram may return.
//!
//! Owns: the steps. Refuses to know: flows. Keeps: a step that is none of a datagram is a failure of its flow.

use sluice_abi::step;
use sluice_io::DatagramStep;
use sluice_l7::reasons;
use sluice_sys::module::DatagramHook;

/// Judges what a hook returned.
///
/// # Errors
/// It may not return that.
pub(super) fn judged(returned: i32, hook: DatagramHook) -> Result<DatagramStep, String> {
    let name = match hook {
        DatagramHook::Received => "datagram_received",
        DatagramHook::Sent => "datagram_sent",
    };
    match returned {
        step::CONTINUE => Ok(DatagramStep::Forward),
        step::DROP => Ok(DatagramStep::Drop),
        step::CLOSE => Ok(DatagramStep::End(reasons::MODULE_CLOSED)),
        step::FAIL => Err(format!("{name} returned SLUICE_FAIL")),
        other => Err(format!("{name} returned {other}, which is no step of a datagram")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_none_of_a_datagram_is_a_failure() {
        let of = |returned| judged(returned, DatagramHook::Sent);
        assert_eq!(of(step::CONTINUE), Ok(DatagramStep::Forward));
        assert_eq!(of(step::DROP), Ok(DatagramStep::Drop));
        assert_eq!(of(step::CLOSE), Ok(DatagramStep::End(reasons::MODULE_CLOSED)));
        for (returned, why) in [
            (step::FAIL, "datagram_sent returned SLUICE_FAIL"),
            (step::WAIT, "datagram_sent returned 2, which is no step of a datagram"),
            (step::RESPOND, "which is no step"),
            (i32::MAX, "which is no step"),
        ] {
            let said = of(returned).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
