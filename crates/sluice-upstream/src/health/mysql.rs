//! A check of a MySQL or MariaDB server: a login, and whether it is read-only.
//!
//! Owns: the packets from the greeting to the first row. Refuses to know: the connection. Keeps: a password is sent as
//! it is only over an encrypted connection; a login is completed, because a server blocks clients that break it off.
//!
//! Source: MySQL Internals Manual, "Client/Server Protocol": connection phase and text protocol.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::digest;
use sluice_core::reader::Reader;

use super::CheckError;
use super::dialogue::{Dialogue, DialogueTurn, RECEIVED_MAX};
use crate::plan::{MysqlCheck, ServerRole};

const CLIENT_LONG_PASSWORD: u32 = 1;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;

const NATIVE: &[u8] = b"mysql_native_password";
const CACHING_SHA2: &[u8] = b"caching_sha2_password";
const CLEAR: &[u8] = b"mysql_clear_password";

/// `utf8mb4_general_ci`.
const CHARSET: u8 = 45;

const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;

/// Error 1053, ER_SERVER_SHUTDOWN.
const SHUTTING_DOWN: u16 = 1053;

/// The conversation with a MySQL server.
#[derive(Debug)]
pub(super) struct MysqlDialogue {
    check: MysqlCheck,
    /// Whether the cluster has TLS.
    tls: bool,
    /// Whether what is sent is encrypted, or does not leave the host.
    private: bool,
    at: MysqlStep,
    nonce: Vec<u8>,
    plugin: Vec<u8>,
    /// The number of the next packet.
    sequence: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MysqlStep {
    Greeting,
    TlsStarted,
    LoggedIn,
    ColumnCount,
    Column,
    ColumnsEnd,
    Row,
}

impl MysqlDialogue {
    /// The conversation of that check, over TLS or `local`ly, or neither.
    pub(super) const fn new(check: MysqlCheck, tls: bool, local: bool) -> Self {
        Self {
            check,
            tls,
            private: local,
            at: MysqlStep::Greeting,
            nonce: Vec::new(),
            plugin: Vec::new(),
            sequence: 0,
        }
    }

    /// Takes one packet; returns how the conversation continues, unless it goes on with the next packet.
    fn packet(
        &mut self,
        body: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<DialogueTurn>, CheckError> {
        let mut reader = Reader(body);
        let first = body.first().copied();
        if first == Some(0xff) {
            return Err(error(body));
        }
        match (self.at, first) {
            (MysqlStep::Greeting, _) => return self.greeting(&mut reader, send).map(Some),
            (MysqlStep::LoggedIn, Some(0)) => return Ok(self.logged_in(send)),
            (MysqlStep::LoggedIn, Some(1)) => self.more(body.get(1..).unwrap_or_default(), send)?,
            (MysqlStep::LoggedIn, Some(0xfe)) => self.switch(&mut reader, send)?,
            (MysqlStep::ColumnCount, Some(1)) => self.at = MysqlStep::Column,
            (MysqlStep::Column, Some(_)) => self.at = MysqlStep::ColumnsEnd,
            (MysqlStep::ColumnsEnd, Some(0xfe)) => self.at = MysqlStep::Row,
            (MysqlStep::Row, Some(_)) => {
                let value = reader.vector8().ok_or_else(|| strange("a row cut short"))?;
                let role = match value {
                    b"0" | b"OFF" => ServerRole::Primary,
                    _ => ServerRole::Replica,
                };
                self.sequence = 0;
                self.send(send, &[COM_QUIT]);
                return super::expect_role(self.check.role, role, "replica")
                    .map(|()| Some(DialogueTurn::Done));
            }
            _ => return Err(strange("an unexpected packet")),
        }
        Ok(None)
    }

    fn greeting(
        &mut self,
        reader: &mut Reader<'_>,
        send: &mut Vec<u8>,
    ) -> Result<DialogueTurn, CheckError> {
        let greeting =
            Greeting::read(reader).ok_or_else(|| strange("no greeting of version 10"))?;
        self.nonce = greeting.nonce;
        self.plugin = greeting.plugin;
        if !self.tls {
            self.respond(send);
            return Ok(DialogueTurn::Receive);
        }
        if greeting.capabilities & CLIENT_SSL == 0 {
            return Err(CheckError::Endpoint("does not offer TLS, which the cluster has".into()));
        }
        let request = self.response_start();
        self.send(send, &request);
        self.at = MysqlStep::TlsStarted;
        self.private = true;
        Ok(DialogueTurn::StartTls)
    }

    /// The part of the response that also asks for TLS.
    fn response_start(&self) -> Vec<u8> {
        let tls = if self.tls { CLIENT_SSL } else { 0 };
        let capabilities = CLIENT_LONG_PASSWORD
            | CLIENT_PROTOCOL_41
            | CLIENT_SECURE_CONNECTION
            | CLIENT_PLUGIN_AUTH
            | tls;
        let mut body = capabilities.to_le_bytes().to_vec();
        body.extend_from_slice(&(1_u32 << 24).to_le_bytes());
        body.push(CHARSET);
        body.extend_from_slice(&[0; 23]);
        body
    }

    fn respond(&mut self, send: &mut Vec<u8>) {
        let mut body = self.response_start();
        body.extend_from_slice(self.check.login.user.as_bytes());
        body.push(0);
        // A server with another plugin asks to switch to it.
        if self.plugin != CACHING_SHA2 {
            self.plugin = NATIVE.to_vec();
        }
        let proof = self.proof();
        body.push(u8::try_from(proof.len()).unwrap_or_default());
        body.extend_from_slice(&proof);
        body.extend_from_slice(&self.plugin);
        body.push(0);
        self.send(send, &body);
        self.at = MysqlStep::LoggedIn;
    }

    fn password(&self) -> &[u8] {
        self.check.login.password.as_ref().map_or(&[], |password| password.0.as_bytes())
    }

    /// What proves to the server that the password is known; nothing for no password.
    fn proof(&self) -> Vec<u8> {
        let password = self.password();
        if password.is_empty() {
            return Vec::new();
        }
        if self.plugin == NATIVE {
            scramble(&digest::SHA1_FOR_LEGACY_USE_ONLY, password, |once| {
                [&self.nonce, once].concat()
            })
        } else {
            scramble(&digest::SHA256, password, |once| [once, &self.nonce].concat())
        }
    }

    /// The server wants another plugin.
    fn switch(&mut self, reader: &mut Reader<'_>, send: &mut Vec<u8>) -> Result<(), CheckError> {
        let plugin = reader.u8().and_then(|_| reader.until_zero()).unwrap_or_default();
        self.plugin = plugin.to_vec();
        let nonce = reader.0.strip_suffix(b"\0").unwrap_or(reader.0);
        match plugin {
            NATIVE | CACHING_SHA2 => {
                self.nonce = nonce.to_vec();
                let proof = self.proof();
                self.send(send, &proof);
                Ok(())
            }
            CLEAR => self.send_password(send),
            _ => {
                let plugin = String::from_utf8_lossy(plugin);
                let plugin = super::excerpt(&plugin);
                Err(CheckError::Endpoint(format!(
                    "asks for the authentication plugin `{plugin}`, which checks do not support; \
                     give the user mysql_native_password or caching_sha2_password"
                )))
            }
        }
    }

    /// More of `caching_sha2_password`: whether the server knows the password from its cache.
    fn more(&mut self, body: &[u8], send: &mut Vec<u8>) -> Result<(), CheckError> {
        match body {
            [3] => Ok(()),
            [4] => self.send_password(send),
            _ => Err(strange("an unexpected packet")),
        }
    }

    fn send_password(&mut self, send: &mut Vec<u8>) -> Result<(), CheckError> {
        if !self.private {
            return Err(CheckError::Endpoint(
                "asks for the password itself, over a connection without TLS; add `tls` to the cluster".into(),
            ));
        }
        let body = [self.password(), b"\0"].concat();
        self.send(send, &body);
        Ok(())
    }

    fn logged_in(&mut self, send: &mut Vec<u8>) -> Option<DialogueTurn> {
        self.sequence = 0;
        if self.check.role.is_none() {
            self.send(send, &[COM_QUIT]);
            return Some(DialogueTurn::Done);
        }
        self.send(send, &[&[COM_QUERY], &b"SELECT @@global.read_only"[..]].concat());
        self.at = MysqlStep::ColumnCount;
        None
    }

    /// Adds a packet.
    fn send(&mut self, send: &mut Vec<u8>, body: &[u8]) {
        let [low, middle, high, _] = u32::try_from(body.len()).unwrap_or_default().to_le_bytes();
        send.extend_from_slice(&[low, middle, high, self.sequence]);
        send.extend_from_slice(body);
        self.sequence = self.sequence.wrapping_add(1);
    }
}

impl Dialogue for MysqlDialogue {
    fn advance(
        &mut self,
        received: &mut Vec<u8>,
        send: &mut Vec<u8>,
    ) -> Result<DialogueTurn, CheckError> {
        if self.at == MysqlStep::TlsStarted {
            self.respond(send);
            return Ok(DialogueTurn::Receive);
        }
        loop {
            let mut reader = Reader(received);
            let Some([low, middle, high, sequence]) = reader.array() else {
                return Ok(DialogueTurn::Receive);
            };
            let length = u32::from_le_bytes([low, middle, high, 0]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > RECEIVED_MAX / 2 {
                return Err(strange("a packet that is too long"));
            }
            let Some(body) = reader.take(length) else { return Ok(DialogueTurn::Receive) };
            let body = body.to_vec();
            received.drain(..length.saturating_add(4));
            self.sequence = sequence.wrapping_add(1);
            if let Some(turn) = self.packet(&body, send)? {
                if turn == DialogueTurn::StartTls && !received.is_empty() {
                    return Err(strange("more before the TLS handshake"));
                }
                return Ok(turn);
            }
        }
    }
}

/// What the server says first.
struct Greeting {
    capabilities: u32,
    nonce: Vec<u8>,
    plugin: Vec<u8>,
}

impl Greeting {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.u8()? != 10 {
            return None;
        }
        let _version = reader.until_zero()?;
        let _thread = reader.take(4)?;
        let mut nonce = reader.take(8)?.to_vec();
        let _filler = reader.take(1)?;
        let low: [u8; 2] = reader.array()?;
        let _charset_and_status = reader.take(3)?;
        let high: [u8; 2] = reader.array()?;
        let length = usize::from(reader.u8()?);
        let _reserved = reader.take(10)?;
        let rest = reader.take(length.saturating_sub(8).max(13))?;
        nonce.extend_from_slice(rest.strip_suffix(b"\0").unwrap_or(rest));
        let plugin = reader.until_zero().unwrap_or_default().to_vec();
        let capabilities = u32::from_le_bytes([low[0], low[1], high[0], high[1]]);
        Some(Self { capabilities, nonce, plugin })
    }
}

/// H(password) XOR H(`salted`(H(H(password)))).
fn scramble(
    hash: &'static digest::Algorithm,
    password: &[u8],
    salted: impl Fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let once = digest::digest(hash, password);
    let twice = digest::digest(hash, once.as_ref());
    let mask = digest::digest(hash, &salted(twice.as_ref()));
    once.as_ref().iter().zip(mask.as_ref()).map(|(once, mask)| once ^ mask).collect()
}

/// An error packet.
fn error(body: &[u8]) -> CheckError {
    let mut reader = Reader(body);
    let code = reader.take(1).and_then(|_| reader.array()).map(u16::from_le_bytes);
    let text = match reader.0 {
        // The SQL state; absent before the server knows the client's version.
        [b'#', _, _, _, _, _, rest @ ..] => rest,
        rest => rest,
    };
    let text = String::from_utf8_lossy(text);
    let message =
        format!("refused: {} (error {})", super::excerpt(&text), code.unwrap_or_default());
    if code == Some(SHUTTING_DOWN) {
        return CheckError::Unfit(message);
    }
    CheckError::Endpoint(message)
}

fn strange(what: &str) -> CheckError {
    CheckError::Endpoint(format!("does not speak MySQL: it sent {what}"))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
