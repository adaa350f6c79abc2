//! A check of a Redis server: PING, or ROLE.
//!
//! Owns: the commands, and what their replies mean. Refuses to know: the connection. Keeps: a reply is read to the end
//! of what is needed of it, and no further.
//!
//! Source: the RESP protocol specification; the commands AUTH, PING and ROLE.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::CheckError;
use super::dialogue::{Dialogue, DialogueTurn};
use crate::plan::{RedisCheck, ServerRole};

/// The longest line of a reply.
const LINE_MAX: usize = 4096;

/// The conversation with a Redis server.
#[derive(Debug)]
pub(super) struct RedisDialogue {
    check: RedisCheck,
    at: RedisStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisStep {
    Start,
    Authenticated,
    Pong,
    RoleArray,
    RoleLength,
    RoleWord(usize),
}

impl RedisDialogue {
    /// The conversation of that check.
    pub(super) const fn new(check: RedisCheck) -> Self {
        Self { check, at: RedisStep::Start }
    }

    /// Sends the commands, all at once, and returns which reply comes first.
    fn start(&self, send: &mut Vec<u8>) -> RedisStep {
        let RedisCheck { user, password, role } = &self.check;
        let mut next = match role {
            Some(_) => RedisStep::RoleArray,
            None => RedisStep::Pong,
        };
        if let Some(password) = password {
            match user {
                Some(user) => command(send, &["AUTH", user, &password.0]),
                None => command(send, &["AUTH", &password.0]),
            }
            next = RedisStep::Authenticated;
        }
        command(send, &[if role.is_some() { "ROLE" } else { "PING" }]);
        next
    }

    fn line(&self, line: &str) -> Result<Option<RedisStep>, CheckError> {
        let kind = line.get(..1).unwrap_or_default();
        if kind == "-" {
            return Err(refused(line.get(1..).unwrap_or_default()));
        }
        match (self.at, kind) {
            (RedisStep::Authenticated, "+") if self.check.role.is_some() => {
                Ok(Some(RedisStep::RoleArray))
            }
            (RedisStep::Authenticated, "+") => Ok(Some(RedisStep::Pong)),
            (RedisStep::Pong, "+") if line == "+PONG" => Ok(None),
            (RedisStep::RoleArray, "*") => Ok(Some(RedisStep::RoleLength)),
            (RedisStep::RoleLength, "$") => match line.get(1..).unwrap_or_default().parse() {
                Ok(length @ 1..=32) => Ok(Some(RedisStep::RoleWord(length))),
                _ => Err(strange(line)),
            },
            (RedisStep::RoleWord(_), _) => self.role(line),
            _ => Err(strange(line)),
        }
    }

    fn role(&self, word: &str) -> Result<Option<RedisStep>, CheckError> {
        let role = match word {
            "master" => ServerRole::Primary,
            "slave" => ServerRole::Replica,
            "sentinel" => return Err(CheckError::Unfit("it is a sentinel".into())),
            _ => return Err(strange(word)),
        };
        super::expect_role(self.check.role, role, "replica").map(|()| None)
    }
}

impl Dialogue for RedisDialogue {
    fn advance(
        &mut self,
        received: &mut Vec<u8>,
        send: &mut Vec<u8>,
    ) -> Result<DialogueTurn, CheckError> {
        if self.at == RedisStep::Start {
            self.at = self.start(send);
            return Ok(DialogueTurn::Receive);
        }
        loop {
            let Some(end) = memchr::memmem::find(received, b"\r\n") else {
                if received.len() > LINE_MAX {
                    return Err(CheckError::Endpoint("sent a line that is too long".into()));
                }
                return Ok(DialogueTurn::Receive);
            };
            let line: Vec<u8> = received.drain(..end.saturating_add(2)).take(end).collect();
            match self.line(&String::from_utf8_lossy(&line))? {
                Some(next) => self.at = next,
                None => return Ok(DialogueTurn::Done),
            }
        }
    }
}

/// Adds a command: an array of bulk strings.
fn command(send: &mut Vec<u8>, words: &[&str]) {
    send.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        send.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// An error reply. A server that loads its data, or whose primary is gone, says so; other errors may be of passage.
fn refused(error: &str) -> CheckError {
    let message = format!("replied with the error `{}`", super::excerpt(error));
    match error.split(' ').next() {
        Some("LOADING" | "MASTERDOWN") => CheckError::Unfit(message),
        _ => CheckError::Endpoint(message),
    }
}

fn strange(line: &str) -> CheckError {
    CheckError::Endpoint(format!("replied `{}`, which Redis does not", super::excerpt(line)))
}

#[cfg(test)]
mod tests {
    use super::super::dialogue::tests::{converse, told_anything};
    use super::*;
    use crate::plan::Password;

    fn redis(login: Option<(&str, &str)>, role: Option<ServerRole>) -> impl Fn() -> RedisDialogue {
        let check = RedisCheck {
            user: login.map(|(user, _)| user.to_owned()).filter(|user| !user.is_empty()),
            password: login.map(|(_, password)| Password(password.to_owned())),
            role,
        };
        move || RedisDialogue::new(check.clone())
    }

    #[track_caller]
    fn check(
        dialogue: impl Fn() -> RedisDialogue,
        reply: &str,
        sent: &str,
        end: Result<DialogueTurn, CheckError>,
    ) {
        let (said, came_to) = converse(dialogue, &[reply.as_bytes()]);
        assert_eq!(String::from_utf8(said.concat()).unwrap(), sent);
        assert_eq!(came_to, end, "{reply:?}");
    }

    const PING: &str = "*1\r\n$4\r\nPING\r\n";
    const ROLE: &str = "*1\r\n$4\r\nROLE\r\n";
    const MASTER: &str = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";
    const SLAVE: &str = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n";

    #[test]
    fn commands_and_replies() {
        let done = Ok(DialogueTurn::Done);
        let failed = |message: &str| Err(CheckError::Endpoint(message.into()));
        let unfit = |message: &str| Err(CheckError::Unfit(message.into()));
        check(redis(None, None), "+PONG\r\n", PING, done.clone());
        check(redis(None, None), "+PON", PING, Ok(DialogueTurn::Receive));
        let noauth = "replied with the error `NOAUTH Authentication required.`";
        check(redis(None, None), "-NOAUTH Authentication required.\r\n", PING, failed(noauth));
        let loading = "replied with the error `LOADING data`";
        check(redis(None, None), "-LOADING data\r\n", PING, unfit(loading));
        let http = "replied `HTTP/1.1 400 Bad Request`, which Redis does not";
        check(redis(None, None), "HTTP/1.1 400 Bad Request\r\n", PING, failed(http));
        let auth = format!("*2\r\n$4\r\nAUTH\r\n$3\r\npäx\r\n{PING}").replace("$3", "$4");
        check(redis(Some(("", "päx")), None), "+OK\r\n+PONG\r\n", &auth, done.clone());
        let auth = format!("*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n{ROLE}");
        let primary = || redis(Some(("u", "p")), Some(ServerRole::Primary));
        check(primary(), &format!("+OK\r\n{MASTER}"), &auth, done.clone());
        let demoted = "it is a replica, not a primary";
        check(primary(), &format!("+OK\r\n{SLAVE}"), &auth, unfit(demoted));
        let replica = redis(None, Some(ServerRole::Replica));
        check(&replica, SLAVE, ROLE, done);
        check(&replica, MASTER, ROLE, unfit("it is a primary, not a replica"));
        check(&replica, "*1\r\n$8\r\nsentinel\r\n", ROLE, unfit("it is a sentinel"));
        check(&replica, "*1\r\n$99\r\n", ROLE, failed("replied `$99`, which Redis does not"));
    }

    #[test]
    fn no_reply_is_too_strange() {
        told_anything(
            redis(Some(("u", "p")), Some(ServerRole::Primary)),
            &[b"+OK\r\n", MASTER.as_bytes()],
        );
        told_anything(redis(None, None), &[b"+PONG\r\n"]);
        let mut dialogue = redis(None, None)();
        let (mut received, mut send) = (Vec::new(), Vec::new());
        assert_eq!(dialogue.advance(&mut received, &mut send), Ok(DialogueTurn::Receive));
        received = b"+".repeat(LINE_MAX + 1);
        let long = CheckError::Endpoint("sent a line that is too long".into());
        assert_eq!(dialogue.advance(&mut received, &mut send), Err(long));
    }
}
