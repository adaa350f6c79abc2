//! A check of a PostgreSQL server: the start of a session, and the role that it reports.
//!
//! Owns: the messages up to the first `ReadyForQuery`. Refuses to know: the connection and its TLS. Keeps: no query is
//! sent; a password is sent in clear text only over an encrypted connection.
//!
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol": message flow and message formats.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use data_encoding::BASE64;
use sluice_core::reader::Reader;

use super::CheckError;
use super::dialogue::{Dialogue, DialogueTurn, RECEIVED_MAX};
use super::scram::Scram;
use crate::plan::{Password, PostgresCheck, ServerRole};

/// The request for TLS, and the byte that grants it.
pub(super) const SSL_REQUEST: (&[u8], u8) = (&[0, 0, 0, 8, 4, 210, 22, 47], b'S');

/// Version 3.0 of the protocol.
const VERSION: u32 = 196_608;

/// The user if none is configured: the session is not meant to begin.
const NOBODY: &str = "postgres";

/// The conversation with a PostgreSQL server.
pub(super) struct PostgresDialogue {
    check: PostgresCheck,
    encrypted: bool,
    started: bool,
    scram: Option<Scram>,
    /// Whether the server has proven that it knows the password, if it must.
    proven: bool,
    role: Option<ServerRole>,
}

impl PostgresDialogue {
    /// The conversation of that check; `encrypted` tells whether passwords may be sent as they are.
    pub(super) const fn new(check: PostgresCheck, encrypted: bool) -> Self {
        Self { check, encrypted, started: false, scram: None, proven: true, role: None }
    }

    fn startup(&self, send: &mut Vec<u8>) {
        let user = self.check.login.as_ref().map_or(NOBODY, |login| &login.user);
        let mut body = VERSION.to_be_bytes().to_vec();
        let mut parameter = |name: &str, value: &str| {
            for text in [name, value] {
                body.extend_from_slice(text.as_bytes());
                body.push(0);
            }
        };
        parameter("user", user);
        if let Some(database) = &self.check.database {
            parameter("database", database);
        }
        parameter("application_name", "sluice-health-check");
        body.push(0);
        frame(send, None, &body);
    }

    /// Takes one message; returns whether the check has succeeded.
    fn message(&mut self, kind: u8, body: &[u8], send: &mut Vec<u8>) -> Result<bool, CheckError> {
        let mut reader = Reader(body);
        match kind {
            b'R' if self.check.login.is_none() => return Ok(true),
            b'R' => self.authenticate(&mut reader, send)?,
            b'S' => {
                let (name, value) = (reader.until_zero(), reader.until_zero());
                if name == Some(b"in_hot_standby") {
                    let standby = value == Some(b"on");
                    self.role =
                        Some(if standby { ServerRole::Replica } else { ServerRole::Primary });
                }
            }
            b'E' => return self.error(reader).map(|()| true),
            b'Z' => {
                if !self.proven {
                    return Err(strange("a session without authentication"));
                }
                frame(send, Some(b'X'), &[]);
                return self.judge().map(|()| true);
            }
            // BackendKeyData, NoticeResponse, NegotiateProtocolVersion.
            b'K' | b'N' | b'v' => {}
            _ => return Err(strange("an unexpected message")),
        }
        Ok(false)
    }

    fn judge(&self) -> Result<(), CheckError> {
        let Some(expected) = self.check.role else { return Ok(()) };
        let Some(role) = self.role else {
            let message = "does not report `in_hot_standby`, from which its role is known; \
                           PostgreSQL does since version 14";
            return Err(CheckError::Endpoint(message.into()));
        };
        super::expect_role(Some(expected), role, "standby")
    }

    fn authenticate(
        &mut self,
        reader: &mut Reader<'_>,
        send: &mut Vec<u8>,
    ) -> Result<(), CheckError> {
        match reader.u32() {
            Some(0) => Ok(()),
            Some(3) if !self.encrypted => Err(CheckError::Endpoint(
                "asks for the password in clear text, over a connection without TLS; add `tls` to the cluster"
                    .into(),
            )),
            Some(3) => {
                let password = self.password()?.0.clone();
                frame(send, Some(b'p'), &[password.as_bytes(), b"\0"].concat());
                Ok(())
            }
            Some(5) => {
                let salt: [u8; 4] = reader.array().ok_or_else(|| strange("a salt cut short"))?;
                let user = self.check.login.as_ref().map_or(NOBODY, |login| &login.user);
                let response = md5_response(user, &self.password()?.0, salt);
                frame(send, Some(b'p'), &[response.as_bytes(), b"\0"].concat());
                Ok(())
            }
            Some(10) => self.start_scram(reader, send),
            Some(11) => {
                let last = self.scram.as_mut().zip(text(reader.0));
                let last = last.and_then(|(scram, first)| scram.respond(first));
                let last = last.ok_or_else(|| strange("an invalid SCRAM message"))?;
                frame(send, Some(b'p'), last.as_bytes());
                Ok(())
            }
            Some(12) => {
                let verified = self.scram.as_ref().zip(text(reader.0));
                self.proven = verified.is_some_and(|(scram, last)| scram.verify(last));
                if self.proven { Ok(()) } else { Err(strange("a wrong SCRAM signature")) }
            }
            _ => Err(CheckError::Endpoint(
                "asks for a kind of authentication that checks do not support; use \
                 scram-sha-256, md5, password or trust in pg_hba.conf"
                    .into(),
            )),
        }
    }

    fn start_scram(
        &mut self,
        reader: &mut Reader<'_>,
        send: &mut Vec<u8>,
    ) -> Result<(), CheckError> {
        const MECHANISM: &[u8] = b"SCRAM-SHA-256";
        let mut offered =
            std::iter::from_fn(|| reader.until_zero().filter(|name| !name.is_empty()));
        if self.scram.is_some() || !offered.any(|name| name == MECHANISM) {
            return Err(strange("no SASL mechanism that checks support"));
        }
        let nonce: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(18).collect();
        // The server takes the user from the start of the session.
        let scram = Scram::new("", &self.password()?.0, BASE64.encode(&nonce));
        let first = scram.first();
        let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
        let body = [MECHANISM, b"\0", &length.to_be_bytes(), first.as_bytes()].concat();
        frame(send, Some(b'p'), &body);
        self.scram = Some(scram);
        self.proven = false;
        Ok(())
    }

    fn password(&self) -> Result<&Password, CheckError> {
        let password = self.check.login.as_ref().and_then(|login| login.password.as_ref());
        password.ok_or_else(|| {
            CheckError::Endpoint(
                "asks for a password; set `password` beside `user` in the check".into(),
            )
        })
    }

    /// An error ends the session before it began. Without a login, only the refusal of every session counts.
    fn error(&self, mut reader: Reader<'_>) -> Result<(), CheckError> {
        let (mut code, mut message) = (String::new(), String::new());
        while let Some(field) = reader.u8().filter(|field| *field != 0) {
            let Some(value) = reader.until_zero() else { break };
            match field {
                b'C' => code = String::from_utf8_lossy(value).into_owned(),
                b'M' => message = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
        let message = format!("refused the session: {} ({code})", super::excerpt(&message));
        // admin_shutdown, crash_shutdown, cannot_connect_now.
        match &*code {
            "57P01" | "57P02" | "57P03" => Err(CheckError::Unfit(message)),
            _ if self.check.login.is_none() => Ok(()),
            _ => Err(CheckError::Endpoint(message)),
        }
    }
}

impl Dialogue for PostgresDialogue {
    fn advance(
        &mut self,
        received: &mut Vec<u8>,
        send: &mut Vec<u8>,
    ) -> Result<DialogueTurn, CheckError> {
        if !self.started {
            self.started = true;
            self.startup(send);
        }
        loop {
            let mut reader = Reader(received);
            let (Some(kind), Some(length)) = (reader.u8(), reader.u32()) else {
                return Ok(DialogueTurn::Receive);
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let body = length.checked_sub(4).filter(|_| length < RECEIVED_MAX / 2);
            let body = body.ok_or_else(|| strange("a message of an impossible length"))?;
            let Some(body) = reader.take(body) else { return Ok(DialogueTurn::Receive) };
            let body = body.to_vec();
            received.drain(..length.saturating_add(1));
            if self.message(kind, &body, send)? {
                return Ok(DialogueTurn::Done);
            }
        }
    }
}

/// Adds a message: its kind, unless it is the first, its length and its body.
fn frame(send: &mut Vec<u8>, kind: Option<u8>, body: &[u8]) {
    send.extend(kind);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).saturating_add(4);
    send.extend_from_slice(&length.to_be_bytes());
    send.extend_from_slice(body);
}

/// The response to a request for an MD5 password: md5(md5(password, user), salt).
fn md5_response(user: &str, password: &str, salt: [u8; 4]) -> String {
    let inner = format!("{:x}", md5::compute([password.as_bytes(), user.as_bytes()].concat()));
    format!("md5{:x}", md5::compute([inner.as_bytes(), &salt].concat()))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn strange(what: &str) -> CheckError {
    CheckError::Endpoint(format!("does not speak PostgreSQL: it sent {what}"))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
