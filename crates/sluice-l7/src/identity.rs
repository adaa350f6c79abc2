//! Who made a request, however that was proved.
//!
//! Owns: the one notion of an identity, and its text. Refuses to know: how it was verified. Keeps: what different means
//! prove never looks alike: a user of `basic_auth` cannot be named as the subject of a token or as the holder of a
//! certificate.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sluice_core::SharedValues;
use sluice_core::connection::{ClientCertFacts, TlsFacts};

sluice_core::values! {
    WHO: Arc<Identity> = "auth.identity", "Who made the request, as the filter that verified it found out: `jwt:PROVIDER/SUBJECT`, `oidc:PROVIDER/SUBJECT`, `basic:USER` or `api_key:NAME`.";
}

/// How an identity was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By a token.
    Jwt,
    /// By a login at a provider of OpenID Connect.
    Oidc,
    /// By a password.
    Basic,
    /// By a key.
    ApiKey,
    /// By the certificate of the connection.
    Certificate,
}

impl Means {
    /// The word before the name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Oidc => "oidc",
            Self::Basic => "basic",
            Self::ApiKey => "api_key",
            Self::Certificate => "certificate",
        }
    }
}

impl Means {
    const ALL: [Self; 5] = [Self::Jwt, Self::Oidc, Self::Basic, Self::ApiKey, Self::Certificate];

    /// Whether the name has an issuer before it.
    const fn has_issuer(self) -> bool {
        matches!(self, Self::Jwt | Self::Oidc)
    }
}

/// Who made a request. Its text is `MEANS:NAME` or `MEANS:ISSUER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How it was proved.
    pub means: Means,
    /// Who vouches for it: the provider of a token, as the configuration calls it.
    pub issuer: Option<Box<str>>,
    /// The name. Its issuer decides which characters it has.
    pub name: Box<str>,
}

impl FromStr for Identity {
    type Err = String;

    /// Reads the text of an identity.
    ///
    /// # Errors
    /// Which texts there are, if it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (word, name) = text.split_once(':')?;
            let means = Means::ALL.into_iter().find(|means| means.word() == word)?;
            let (issuer, name) = match means.has_issuer() {
                true => name.split_once('/').map(|(issuer, name)| (Some(issuer), name))?,
                false => (None, name),
            };
            let whole = !name.is_empty() && issuer.is_none_or(|issuer| !issuer.is_empty());
            whole.then(|| Self { means, issuer: issuer.map(Box::from), name: name.into() })
        };
        read().ok_or_else(|| {
            format!(
                "an identity is jwt:PROVIDER/SUBJECT, oidc:PROVIDER/SUBJECT, basic:USER, api_key:NAME or certificate:NAME, not `{text}`"
            )
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.means.word())?;
        if let Some(issuer) = &self.issuer {
            write!(f, "{issuer}/")?;
        }
        f.write_str(&self.name)
    }
}

/// Who made a request: whom a filter has verified or, if none has, the holder of the client certificate. A certificate
/// with a SPIFFE ID is known by that, others by their first URI, their first DNS name, or their subject.
pub fn who(values: &SharedValues, tls: Option<&TlsFacts>) -> Option<Arc<Identity>> {
    if let Some(who) = values.get(&WHO) {
        return Some(Arc::clone(who));
    }
    let name = name_of(tls?.client.as_deref()?)?;
    Some(Arc::new(Identity { means: Means::Certificate, issuer: None, name }))
}

/// What the holder of a certificate is called: its SPIFFE ID or, without one, the first URI, the first DNS name, or the
/// subject.
pub fn name_of(client: &ClientCertFacts) -> Option<Box<str>> {
    let spiffe = client.uris.iter().find(|uri| uri.starts_with("spiffe://"));
    let named = spiffe.or_else(|| client.uris.first()).or_else(|| client.names.first());
    let name = named.unwrap_or(&client.subject);
    (!name.is_empty()).then(|| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(uris: &[&str], names: &[&str]) -> TlsFacts {
        let boxed = |all: &[&str]| all.iter().map(|text| Box::from(*text)).collect();
        let client = ClientCertFacts {
            subject: "CN=x".into(),
            uris: boxed(uris),
            names: boxed(names),
            ..ClientCertFacts::default()
        };
        TlsFacts {
            version: "1.3",
            cipher: "c",
            alpn: None,
            client: Some(Arc::new(client)),
            resumed: false,
            early: false,
        }
    }

    #[test]
    fn a_text_is_read_as_whom_it_names() {
        for text in [
            "jwt:corp/ann",
            "jwt:corp/a/b",
            "oidc:corp/ann",
            "basic:a:b/c",
            "api_key:acme",
            "certificate:spiffe://t/a",
        ] {
            let read: Identity = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!(read.issuer.is_some(), text.contains("corp"));
        }
        for wrong in
            ["", "ann", "jwt:ann", "jwt:/ann", "jwt:corp/", "basic:", "saml:a/b", "JWT:a/b"]
        {
            let error = wrong.parse::<Identity>().unwrap_err();
            assert!(error.contains("certificate:NAME"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_certificate_counts_if_no_filter_knows_more() {
        let mut values = SharedValues::default();
        let text = |values: &SharedValues, tls: &TlsFacts| {
            who(values, Some(tls)).map(|who| who.to_string()).unwrap_or_default()
        };
        for (uris, names, expected) in [
            (&["https://a.test", "spiffe://t/a"][..], &["n.test"][..], "certificate:spiffe://t/a"),
            (&["https://a.test"], &["n.test"], "certificate:https://a.test"),
            (&[], &["n.test", "o.test"], "certificate:n.test"),
            (&[], &[], "certificate:CN=x"),
        ] {
            assert_eq!(text(&values, &tls(uris, names)), expected);
        }
        let without = TlsFacts { client: None, ..tls(&[], &[]) };
        assert_eq!(text(&values, &without), "");
        assert!(who(&values, None).is_none());
        let own = Identity { means: Means::Jwt, issuer: Some("corp".into()), name: "a/b".into() };
        values.set(&WHO, Arc::new(own));
        assert_eq!(text(&values, &tls(&[], &[])), "jwt:corp/a/b");
    }
}
