//! Scripts that a server runs.
//!
//! Owns: the commands that run them. Refuses to know: what a script does. Keeps: a script is sent by its digest, and as a
//! whole only to a server that does not know it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::HEXLOWER;

use super::resp::{self, RespValue};

/// A script in Lua that takes one key.
#[derive(Debug)]
pub(crate) struct RedisScript {
    source: &'static str,
    /// Redis calls scripts by their SHA-1.
    digest: String,
}

/// What a script is run with.
#[derive(Debug)]
pub(crate) struct ScriptCall {
    /// The key that it may use.
    pub(crate) key: Vec<u8>,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
}

impl RedisScript {
    /// A script.
    pub(crate) fn new(source: &'static str) -> Self {
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
        Self { source, digest: HEXLOWER.encode(digest.as_ref()) }
    }

    /// The command that runs it by its digest.
    pub(crate) fn by_digest(&self, call: &ScriptCall) -> Vec<u8> {
        command("EVALSHA", &self.digest, call)
    }

    /// The command that runs it, and has the server remember it.
    pub(crate) fn whole(&self, call: &ScriptCall) -> Vec<u8> {
        command("EVAL", self.source, call)
    }
}

/// Whether the server does not know the script.
pub(crate) fn is_unknown(reply: &RespValue) -> bool {
    matches!(reply, RespValue::Error(error) if error.starts_with("NOSCRIPT"))
}

fn command(name: &str, script: &str, call: &ScriptCall) -> Vec<u8> {
    let arguments = call.arguments.iter().map(String::as_bytes);
    let mut words = vec![name.as_bytes(), script.as_bytes(), b"1", &call.key];
    words.extend(arguments);
    let mut out = Vec::new();
    resp::write(&mut out, words.into_iter());
    out
}
