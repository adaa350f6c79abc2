//! The errors of TLS in plain words.
//!
//! Owns: words for what the library prints as the names of its variants. Refuses to know: where an error occurred, and
//! who reads it. Keeps: no name of a variant is left, known or not, except that of an alert.

use std::fmt::{Display, Write as _};

use rustls::AlertDescription;
use sluice_core::Side;

/// Describes a TLS or QUIC error for a record. `peer` is the side that the connection leads to; it selects the settings
/// that are named. Text in double quotes is left as it is.
pub fn in_words(error: &dyn Display, peer: Side) -> String {
    let text = error.to_string();
    // The peer closed a QUIC connection: the text is its own, about us.
    let told = text.starts_with(CLOSED_BY_PEER);
    let mut words = Words { peer: (!told).then_some(peer), out: String::with_capacity(text.len()) };
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        rest = words.take(first, rest);
    }
    words.out
}

/// How quinn begins the text of a connection that the peer closed.
const CLOSED_BY_PEER: &str = "aborted by peer";

/// Texts of libraries and what they mean, by the side of the peer if it matters. Longer ones first.
const PHRASES: &[(&str, Option<Side>, &str)] = &[
    (
        "received corrupt message of type InvalidContentType",
        Some(Side::Upstream),
        "the endpoint sent bytes that are not TLS; does it speak TLS on this port?",
    ),
    (
        "peer is incompatible: NoSignatureSchemesInCommon",
        Some(Side::Downstream),
        "the client accepts none of the signature schemes of the certificates in `tls.certificates`",
    ),
    (
        "peer is incompatible: Tls12NotOfferedOrEnabled",
        Some(Side::Downstream),
        "the client offers no version of TLS from `tls.min_version` on",
    ),
    (
        "UnknownIssuer",
        Some(Side::Downstream),
        "it is not signed by an authority that `client_auth.ca` contains",
    ),
    (
        "UnknownIssuer",
        Some(Side::Upstream),
        "it is not signed by an authority that the cluster's `tls` trusts",
    ),
    ("UnknownIssuer", None, "it is not signed by an authority that the peer trusts"),
    ("UnknownRevocationStatus", None, "the revocation list does not say whether it is revoked"),
    ("NotValidForName", None, "it is not valid for the name"),
    (
        "ApplicationVerificationFailure",
        Some(Side::Downstream),
        "it has none of the names in `client_auth.names`",
    ),
    (
        "ApplicationVerificationFailure",
        Some(Side::Upstream),
        "it has none of the names in `tls.names` of the cluster",
    ),
    ("ApplicationVerificationFailure", None, "it is not accepted"),
    ("BadEncoding", None, "it cannot be parsed"),
    ("BadSignature", None, "its signature is wrong"),
    ("Revoked", None, "it is revoked"),
    ("KxGroups", None, "key exchange groups"),
];

/// Before the number of the alert with which a handshake over QUIC failed.
const QUIC_ALERT: &str = "the cryptographic handshake failed: error ";

/// Before the name of an alert.
const ALERT: &str = "fatal alert: ";

/// The kinds of names in a certificate: only what they contain is of interest.
const NAME_KINDS: &[&str] = &["DnsName(", "IpAddress(", "UniformResourceIdentifier("];

struct Words {
    peer: Option<Side>,
    out: String,
}

impl Words {
    /// Describes the beginning of `rest`; returns what follows it.
    fn take<'a>(&mut self, first: char, rest: &'a str) -> &'a str {
        let phrase = |(text, side, _): &&(&str, Option<Side>, &str)| {
            rest.starts_with(text) && (side.is_none() || *side == self.peer)
        };
        if let Some((text, _, words)) = PHRASES.iter().find(phrase) {
            self.out.push_str(words);
            return &rest[text.len()..];
        }
        if let Some(rest) = NAME_KINDS.iter().find_map(|kind| rest.strip_prefix(kind)) {
            let (name, rest) = rest.split_once(')').unwrap_or((rest, ""));
            self.out.push_str(name);
            return rest;
        }
        if let Some(after) = rest.strip_prefix(QUIC_ALERT) {
            let (digits, rest) = split(after, |c| c.is_ascii_digit());
            match digits.parse::<u8>().map(AlertDescription::from) {
                Ok(alert) => _ = write!(self.out, "the TLS handshake failed: {ALERT}{alert:?}"),
                Err(_) => _ = write!(self.out, "{QUIC_ALERT}{digits}"),
            }
            return rest;
        }
        if let Some(after) = rest.strip_prefix(ALERT) {
            let (name, rest) = split(after, char::is_alphanumeric);
            self.out.push_str(ALERT);
            self.out.push_str(name);
            return rest;
        }
        let (word, after) = match first {
            '"' => quoted(rest),
            _ if first.is_alphanumeric() => split(rest, char::is_alphanumeric),
            _ => rest.split_at(first.len_utf8()),
        };
        if is_name(word) {
            self.spell(word)
        } else {
            self.out.push_str(word)
        }
        after
    }

    /// Spells the name of a variant: `NoCipherSuitesInCommon` as "no cipher suites in common".
    fn spell(&mut self, name: &str) {
        for (at, word) in pieces(name).enumerate() {
            if at > 0 {
                self.out.push(' ');
            }
            match word {
                "Tls12" => self.out.push_str("TLS 1.2"),
                "Tls13" => self.out.push_str("TLS 1.3"),
                "Crl" | "Ech" | "Ocsp" | "Psk" | "Quic" | "Tls" => {
                    self.out.push_str(&word.to_ascii_uppercase());
                }
                _ if word.len() > 1 && !word.contains(char::is_lowercase) => {
                    self.out.push_str(word)
                }
                _ => self.out.push_str(&word.to_lowercase()),
            }
        }
    }
}

/// The words of a name. A capital begins a word if a small letter or a digit precedes it, or a small letter follows.
fn pieces(name: &str) -> impl Iterator<Item = &str> {
    let begins = |at: usize, c: char| {
        let before = name[..at].chars().next_back();
        let after = name[at..].chars().nth(1);
        let within =
            before.is_none_or(char::is_uppercase) && !after.is_some_and(char::is_lowercase);
        c.is_uppercase() && !within
    };
    let starts: Vec<usize> = name
        .char_indices()
        .filter(|(at, c)| *at > 0 && begins(*at, *c))
        .map(|(at, _)| at)
        .collect();
    let ends: Vec<usize> = starts.iter().copied().chain([name.len()]).collect();
    [0].into_iter().chain(starts).zip(ends).map(|(from, to)| &name[from..to])
}

/// Whether it is the name of a variant: letters in both cases, a capital within.
fn is_name(word: &str) -> bool {
    word.starts_with(char::is_uppercase)
        && word.contains(char::is_lowercase)
        && word.chars().skip(1).any(char::is_uppercase)
}

/// Splits where `of` ends to hold.
fn split(text: &str, of: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !of(c)).unwrap_or(text.len()))
}

/// Splits after a text in quotes.
fn quoted(text: &str) -> (&str, &str) {
    text.split_at(text[1..].find('"').map_or(text.len(), |end| end + 2))
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};

    use super::*;

    #[test]
    fn errors_are_told_in_words() {
        use Side::{Downstream, Upstream};
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for (error, peer, words) in [
            (
                unknown(),
                Upstream,
                "invalid peer certificate: it is not signed by an authority that the cluster's `tls` trusts",
            ),
            (
                unknown(),
                Downstream,
                "invalid peer certificate: it is not signed by an authority that `client_auth.ca` contains",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                Downstream,
                "peer is incompatible: no cipher suites in common",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic),
                Upstream,
                "peer is incompatible: TLS 1.3 required for QUIC",
            ),
            (
                Error::PeerMisbehaved(
                    PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported,
                ),
                Upstream,
                "peer misbehaved: attempted downgrade to TLS 1.2 when TLS 1.3 is supported",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                Downstream,
                "received fatal alert: UnknownCA",
            ),
            (
                Error::General("the \"OldName\" of it".into()),
                Upstream,
                "unexpected error: the \"OldName\" of it",
            ),
        ] {
            assert_eq!(in_words(&error, peer), words);
        }
    }

    #[test]
    fn errors_of_quic_are_told_in_words() {
        for (text, words) in [
            (
                "aborted by peer: the cryptographic handshake failed: error 48: invalid peer certificate: UnknownIssuer",
                "aborted by peer: the TLS handshake failed: fatal alert: UnknownCA: invalid peer certificate: it is not signed by an authority that the peer trusts",
            ),
            (
                "the cryptographic handshake failed: error 42: certificate is only valid for DnsName(\"a.test\") or IpAddress(127.0.0.1)",
                "the TLS handshake failed: fatal alert: BadCertificate: certificate is only valid for \"a.test\" or 127.0.0.1",
            ),
            (
                "the cryptographic handshake failed: error ",
                "the cryptographic handshake failed: error ",
            ),
            ("\"cut", "\"cut"),
        ] {
            assert_eq!(in_words(&text, Side::Upstream), words);
        }
    }

    #[test]
    fn no_text_is_too_strange() {
        for text in
            ["DnsName(x", "\"", "Ä", "ÄbÖ", "A", "AB", "aB", "X9Y", "fatal alert: ", "K\"Ab\"Kc"]
        {
            assert!(!in_words(&text, Side::Local).is_empty());
        }
        assert_eq!(in_words(&"ServerTLSVersionV2", Side::Local), "server TLS version V2");
        assert_eq!(in_words(&"Tls12NotOffered", Side::Upstream), "TLS 1.2 not offered");
    }
}
