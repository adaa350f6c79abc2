//! The TLS of a connection.
//!
//! Owns: what each fact is called, and what is read from a client's certificate. Refuses to know: how it was verified. Keeps:
//! what a client did not show is empty, as in Envoy, and zero if it is a time.

use data_encoding::{BASE64, HEXLOWER};
use mlua::{Lua, Value};
use sluice_core::connection::TlsFacts;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::args::{Args, OpResult, one};
use crate::side::ScriptRun;

/// The characters of a line of PEM.
const PEM_LINE: usize = 64;

/// Whether TLS was terminated.
pub(super) fn is_tls(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    one(lua, run.cx.conn.tls().is_some())
}

/// `(name)`.
pub(super) fn ssl(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let Some(tls) = run.cx.conn.tls() else { return one(lua, Value::Nil) };
    fact(lua, tls, &args.word(0)?)
}

/// The fact of that name.
pub(crate) fn fact(lua: &Lua, tls: &TlsFacts, name: &str) -> OpResult {
    let client = tls.client.as_deref();
    let list = |names: Option<&[Box<str>]>| -> OpResult {
        let names: Vec<String> =
            names.unwrap_or_default().iter().map(ToString::to_string).collect();
        one(lua, names)
    };
    let text = |text: Option<&str>| one(lua, text.unwrap_or_default());
    let read = || X509Certificate::from_der(&client?.der).ok().map(|(_, certificate)| certificate);
    match name {
        // A client certificate is verified whenever one is asked for.
        "peerCertificatePresented" | "peerCertificateValidated" => one(lua, client.is_some()),
        "uriSanPeerCertificate" => list(client.map(|client| &*client.uris)),
        "dnsSansPeerCertificate" => list(client.map(|client| &*client.names)),
        "subjectPeerCertificate" => text(client.map(|client| &*client.subject)),
        "sha256PeerCertificateDigest" => text(client.map(|client| &*client.sha256)),
        "issuerPeerCertificate" => text(read().map(|of| of.issuer().to_string()).as_deref()),
        "serialNumberPeerCertificate" => text(read().map(|of| serial(of.raw_serial())).as_deref()),
        "validFromPeerCertificate" => {
            one(lua, read().map_or(0, |of| of.validity().not_before.timestamp()))
        }
        "expirationPeerCertificate" => {
            one(lua, read().map_or(0, |of| of.validity().not_after.timestamp()))
        }
        "urlEncodedPemEncodedPeerCertificate" => {
            text(client.map(|client| encoded_pem(&client.der)).as_deref())
        }
        "tlsVersion" => one(lua, format!("TLSv{}", tls.version)),
        "ciphersuiteString" => one(lua, cipher_name(tls.cipher)),
        "alpn" => one(lua, lua.create_string(tls.alpn.as_deref().unwrap_or_default())?),
        _ => one(lua, Value::Nil),
    }
}

/// The name of a cipher suite as OpenSSL has it.
fn cipher_name(name: &str) -> String {
    match (name.strip_prefix("TLS13_"), name.strip_prefix("TLS_")) {
        (Some(rest), _) => format!("TLS_{rest}"),
        (None, Some(rest)) if rest.ends_with("POLY1305_SHA256") => {
            rest.replace("_WITH_", "-").replace("_SHA256", "").replace('_', "-")
        }
        (None, Some(rest)) => rest.replace("_WITH_", "-").replace("AES_", "AES").replace('_', "-"),
        (None, None) => name.to_owned(),
    }
}

/// The number in hexadecimal, without the byte that only says that it is positive.
fn serial(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(bytes))
}

/// The certificate as PEM, with percent signs for what may not be in a header.
fn encoded_pem(der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut out = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    let mut rest = &*base64;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        out += &line.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        out += "%0A";
        rest = after;
    }
    out + "-----END%20CERTIFICATE-----%0A"
}

#[cfg(test)]
mod tests {
    use super::{cipher_name, encoded_pem, serial};

    #[test]
    fn names_numbers_and_certificates_are_written_as_in_envoy() {
        assert_eq!(serial(&[0, 0x85, 1]), "8501");
        assert_eq!((serial(&[5, 0x19]), serial(&[0])), ("0519".to_owned(), "00".to_owned()));
        for (name, expected) in [
            ("TLS13_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ] {
            assert_eq!(cipher_name(name), expected);
        }
        let pem = encoded_pem(&[0xfb; 49]);
        assert!(pem.starts_with("-----BEGIN%20CERTIFICATE-----%0A%2B%2Fv7"), "{pem}");
        assert!(pem.ends_with("%2Bw%3D%3D%0A-----END%20CERTIFICATE-----%0A"), "{pem}");
    }
}
