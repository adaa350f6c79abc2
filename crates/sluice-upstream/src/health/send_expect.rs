//! A check that sends bytes and expects bytes, in steps.
//!
//! Owns: where in the steps a check is. Refuses to know: what the bytes mean. Keeps: what is expected may be anywhere in
//! what the endpoint sends; bytes before it are skipped, and those after it belong to the next step.

use memchr::memmem;

use super::CheckError;
use super::dialogue::{Dialogue, DialogueTurn};
use crate::plan::SendExpect;

/// The steps of a check.
#[derive(Debug)]
pub(super) struct Steps {
    steps: Vec<SendExpect>,
    at: usize,
    sent: bool,
}

impl Steps {
    /// A check of these steps, in order.
    pub(super) const fn new(steps: Vec<SendExpect>) -> Self {
        Self { steps, at: 0, sent: false }
    }
}

impl Dialogue for Steps {
    fn advance(
        &mut self,
        received: &mut Vec<u8>,
        send: &mut Vec<u8>,
    ) -> Result<DialogueTurn, CheckError> {
        while let Some(SendExpect { send: request, expect }) = self.steps.get(self.at) {
            if !self.sent {
                send.extend_from_slice(request);
                self.sent = true;
            }
            if !expect.is_empty() {
                let Some(found) = memmem::find(received, expect) else {
                    // The part that can be the beginning of what is expected stays.
                    let kept = expect.len().saturating_sub(1).min(received.len());
                    received.drain(..received.len().saturating_sub(kept));
                    return Ok(DialogueTurn::Receive);
                };
                received.drain(..found.saturating_add(expect.len()));
            }
            self.at = self.at.saturating_add(1);
            self.sent = false;
        }
        Ok(DialogueTurn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialogue::tests::{converse, told_anything};
    use super::*;

    fn steps(of: &[(&str, &str)]) -> impl Fn() -> Steps {
        let step = |(send, expect): &(&str, &str)| SendExpect {
            send: send.as_bytes().to_vec(),
            expect: expect.as_bytes().to_vec(),
        };
        let steps: Vec<SendExpect> = of.iter().map(step).collect();
        move || Steps::new(steps.clone())
    }

    #[track_caller]
    fn check(of: &[(&str, &str)], replies: &[&str], sent: &[&str], turn: DialogueTurn) {
        let replies: Vec<&[u8]> = replies.iter().map(|reply| reply.as_bytes()).collect();
        let (said, end) = converse(steps(of), &replies);
        let said: Vec<String> =
            said.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect();
        assert_eq!(said, sent);
        assert_eq!(end, Ok(turn));
    }

    #[test]
    fn steps_run_in_order_and_find_what_they_expect_anywhere() {
        check(&[("PING\r\n", "+PONG")], &["+PONG\r\n"], &["PING\r\n"], DialogueTurn::Done);
        check(&[("PING\r\n", "+PONG")], &["-ERR no\r\n"], &["PING\r\n"], DialogueTurn::Receive);
        check(&[("", "220 ")], &["hello\r\n220 mail\r\n"], &[], DialogueTurn::Done);
        let mail = [("", "220 "), ("EHLO a\r\n", "250 "), ("QUIT\r\n", "221 ")];
        let replies = ["220 mail\r\n", "250-X\r\n250 Y\r\n", "221 bye\r\n"];
        check(&mail, &replies, &["EHLO a\r\n", "QUIT\r\n"], DialogueTurn::Done);
        check(&[("", "aab")], &["aaaab"], &[], DialogueTurn::Done);
        // The second step does not find again what the first one found.
        check(&[("", "ok"), ("", "ok")], &["ok"], &[], DialogueTurn::Receive);
        check(&[("", "ok"), ("", "ok")], &["okok"], &[], DialogueTurn::Done);
        check(&[("bye", "")], &[], &["bye"], DialogueTurn::Done);
    }

    #[test]
    fn what_was_skipped_is_not_kept() {
        let mut dialogue = steps(&[("", "end")])();
        let mut received = b"e".repeat(5000);
        assert_eq!(dialogue.advance(&mut received, &mut Vec::new()), Ok(DialogueTurn::Receive));
        assert_eq!(received, b"ee");
        told_anything(steps(&[("a", "bc"), ("d", "ef")]), &[b"xxbc", b"ef"]);
    }
}
