//! `client_cert`: endpoints learn of the client's certificate, and proxies in front may say whose it was
//! (`x-forwarded-client-cert`, as Envoy writes it).
//!
//! Owns: the header, in both directions. Refuses to know: how certificates are verified. Keeps: what a client says of
//! itself is never passed on and never believed; only the proxies that are listed are.

use std::fmt::Write as _;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::Cidr;
use sluice_core::connection::ClientCertFacts;

use super::{CheckContext, Cx, HeadStep, HttpFilter, OfSettings};
use crate::identity::{Identity, Means, WHO, name_of};

/// The most certificates in the header: one for each proxy on the way.
const ELEMENTS_MAX: usize = 16;

/// The header.
const HEADER: &[u8] = b"x-forwarded-client-cert";

sluice_core::choice! {
    /// What endpoints get in `x-forwarded-client-cert`.
    pub enum CertHeader {
        /// Nothing.
        Remove = "remove",
        /// The certificate of the client: what a trusted proxy sent or, from others, that of this connection.
        Set = "set",
        /// What a trusted proxy sent, and the certificate of this connection behind it.
        Append = "append",
    }
}

sluice_core::section! {
    /// Tells endpoints of the client's certificate, and takes the word of proxies in front for it.
    pub struct ClientCert {
        /// What endpoints get in `x-forwarded-client-cert`. What others than trusted proxies send in it is always removed.
        pub header: CertHeader = "set",
        /// The addresses of proxies in front. What they say of the client's certificate counts as its identity.
        pub trust: Vec<Cidr>,
    }
}

impl OfSettings for ClientCert {
    const NAME: &'static str = "client_cert";
    const HELP: &'static str = "Tells endpoints of the client's certificate, and takes the word of proxies in front for it.";

    fn is_usable(&self, context: &mut CheckContext<'_>) -> bool {
        let unused = self.header == CertHeader::Append && self.trust.is_empty();
        if unused {
            let message = "`header: append` appends to what proxies send, and `trust` lists none";
            let finding =
                context.diags.error("missing-field", None, context.at.key("trust"), message);
            finding.help("list the proxies, or write `header: set`");
        }
        !unused
    }
}

impl HttpFilter for ClientCert {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let peer = cx.conn.peer().ip();
        let trusted = peer.is_some_and(|ip| self.trust.iter().any(|block| block.holds(ip)));
        let sent = if trusted { joined(head) } else { None };
        head.remove(HEADER);
        let clients = sent.as_deref().and_then(parse);
        // What cannot be read is not passed on either.
        let sent = sent.filter(|_| clients.is_some());
        if let Some(client) = clients.as_ref().and_then(|clients| clients.last())
            && let Some(name) = name_of(client)
            && cx.values.get(&WHO).is_none()
        {
            let who = Identity { means: Means::Certificate, issuer: None, name };
            cx.values.set(&WHO, Arc::new(who));
            cx.reroute();
        }
        let own = || cx.conn.client_certificate().map(element);
        let value = match self.header {
            CertHeader::Remove => None,
            CertHeader::Set => sent.or_else(own),
            CertHeader::Append => match (sent, own()) {
                (Some(sent), Some(own)) => Some(format!("{sent},{own}")),
                (sent, own) => sent.or(own),
            },
        };
        if let Some(value) = value {
            head.set(HEADER, value.as_bytes());
        }
        HeadStep::Continue
    }
}

/// All that the header says, in one line; `None` if it is missing or not ASCII.
fn joined(head: &Head) -> Option<String> {
    let mut all = String::new();
    for value in head.values(HEADER) {
        let value = std::str::from_utf8(value).ok().filter(|value| value.is_ascii())?;
        all.push_str(if all.is_empty() { "" } else { "," });
        all.push_str(value);
    }
    (!all.is_empty()).then_some(all)
}

/// Writes a certificate as one element of the header.
fn element(client: &ClientCertFacts) -> String {
    let mut text = format!("Hash={}", client.sha256);
    let mut pair = |key: &str, value: &str| {
        // What no header can contain, some certificate does.
        if value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(text, ";{key}=\"{value}\"");
        }
    };
    pair("Subject", &client.subject);
    client.uris.iter().for_each(|uri| pair("URI", uri));
    client.names.iter().for_each(|name| pair("DNS", name));
    text
}

/// Splits a text at a separator that is not within quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |letter| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match letter {
            '"' => quoted = !quoted,
            '\\' if quoted => escaped = true,
            _ => return letter == separator && !quoted,
        }
        false
    })
}

/// A value, without its quotes.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else {
        return (!value.contains(['"', '\\'])).then(|| value.to_owned());
    };
    let (mut text, mut letters) = (String::new(), rest.chars());
    loop {
        match letters.next()? {
            '"' => return letters.next().is_none().then_some(text),
            '\\' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
}

/// Reads the certificates in the header, the nearest last. `None` if any of it is not as it should be, or if there are
/// too many.
fn parse(text: &str) -> Option<Vec<ClientCertFacts>> {
    let mut all = Vec::new();
    for element in split(text, ',') {
        if all.len() == ELEMENTS_MAX {
            return None;
        }
        let mut client = ClientCertFacts::default();
        let (mut uris, mut names) = (Vec::new(), Vec::new());
        for pair in split(element.trim(), ';') {
            let (key, value) = pair.split_once('=')?;
            let value = unquoted(value)?.into_boxed_str();
            match key.trim().to_ascii_lowercase().as_str() {
                "subject" => client.subject = value,
                "uri" => uris.push(value),
                "dns" => names.push(value.to_ascii_lowercase().into_boxed_str()),
                "hash" => client.sha256 = value,
                "by" | "cert" | "chain" => {}
                _ => return None,
            }
        }
        (client.uris, client.names) = (uris.into(), names.into());
        all.push(client);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(subject: &str, uris: &[&str], names: &[&str]) -> ClientCertFacts {
        let boxed = |all: &[&str]| all.iter().map(|text| Box::from(*text)).collect();
        ClientCertFacts {
            subject: subject.into(),
            uris: boxed(uris),
            names: boxed(names),
            sha256: "ab".into(),
            ..ClientCertFacts::default()
        }
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for own in [
            facts("CN=a", &["spiffe://t/a"], &["a.test", "b.test"]),
            facts("CN=\"x\", O=a;b=c\\,", &["https://a.test/?x=1;y,z"], &[]),
            facts("", &[], &[]),
        ] {
            let both = format!("{},{}", element(&facts("CN=p", &[], &[])), element(&own));
            let read = parse(&both).unwrap();
            assert_eq!((read.len(), &read[1]), (2, &own), "{both}");
        }
        let control = facts("CN=a\r\nx: y", &["spiffe://t/\u{e4}"], &["a.test"]);
        assert_eq!(element(&control), "Hash=ab;DNS=\"a.test\"");
    }

    #[test]
    fn the_forms_of_others_are_read() {
        let envoy = "By=http://frontend.lyft.com;Hash=468e;Subject=\"/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client\";URI=http://testclient.lyft.com;DNS=lyft.com;DNS=www.lyft.com";
        let read = parse(&format!("Hash=1;URI=a, {envoy}")).unwrap();
        assert_eq!(&*read[1].subject, "/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client");
        assert_eq!((read[1].uris.len(), read[1].names.len()), (1, 2));
        assert_eq!(name_of(&read[1]).as_deref(), Some("http://testclient.lyft.com"));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_not_read_at_all() {
        let many = vec!["Hash=a"; ELEMENTS_MAX + 1].join(",");
        for text in [
            "",
            "Hash",
            "Hash=a,",
            "Hash=a;",
            "Hash=a;;URI=b",
            "Subject=\"CN=a",
            "Subject=\"CN=a\"b",
            "Subject=CN=\"a\"",
            "Subject=\"a\\",
            "Color=red",
            "URI=a\"b,c\"",
            &many,
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        let whole = element(&facts("CN=a", &["spiffe://t/a"], &["a.test"]));
        for end in 0..whole.len() {
            let _ = parse(&whole[..end]);
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let letters =
                std::iter::repeat_with(|| b"URI=a\",;\\ DNS"[random.usize(..13)]).take(24);
            let bytes: Vec<u8> = letters.collect();
            let _ = parse(std::str::from_utf8(&bytes).unwrap());
        }
    }
}
