//! Redacts secrets in a configuration that is displayed.
//!
//! Owns: the single definition of a secret, and what findings do not print. Refuses to know: where it is displayed.
//! Keeps: structure and names, so that a reader sees that a field is set; only the text is removed.

use std::borrow::Cow;

use sluice_core::tree::Substitution;
use sluice_core::{Diagnostic, Plain, Value};

use crate::sources::Sources;

/// The replacement for a secret.
pub const REDACTED: &str = "[redacted]";

/// Names of secrets, whole or after a prefix such as `x-`.
const NAMES: [&str; 11] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "cookies",
    "set-cookie",
    "x-auth",
    "session",
    "session-id",
    "sessionid",
    "sid",
    "pwd",
];

/// Substrings of names of secrets.
const PARTS: [&str; 15] = [
    "access-key",
    "api-key",
    "apikey",
    "credential",
    "functions-key",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "private-key",
    "secret",
    "signature",
    "subscription-key",
    "token",
    "x-auth-",
];

/// Schemes of `Authorization`: the text after one is a secret, whatever the header.
const SCHEMES: [&str; 2] = ["bearer ", "basic "];

/// Fields of sections that hold headers, cookies or query parameters by name.
const HEADER_LIKE: [&str; 3] = ["headers", "cookies", "query"];

/// Fields of sections that hold something else under user-chosen names.
const NAMED: [&str; 5] = ["clusters", "routes", "values", "split", "json"];

/// The context of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// A section: its keys are known fields.
    Section,
    /// A map from user-chosen names to sections.
    Named,
    /// The filters of a chain or a rule: a map from filter name to settings.
    Filters,
    /// Headers, cookies, query parameters or the settings of a filter, by name.
    Judged,
    /// A secret.
    Secret,
}

/// Returns the configuration or section without secrets: headers, cookies, query parameters and filter settings whose
/// names or values mark them as secret, PEM private keys, and users in URLs.
pub fn redacted(value: Plain) -> Plain {
    redact(value, Within::Section)
}

/// The value of `{ env: }` or `{ file: }` is left out of a text wherever it occurs if it has this many bytes; a shorter
/// one, which may be a word of the text, where it is quoted.
const VALUE_BYTES_MIN: usize = 8;

/// A finding with placeholders in place of the values that came from outside the configuration.
pub(crate) fn finding<'f>(finding: &'f Diagnostic, sources: &Sources) -> Cow<'f, Diagnostic> {
    let mut shown = Cow::Borrowed(finding);
    for (placeholder, text) in sources.substitutions().filter(|(_, text)| !text.is_empty()) {
        let texts =
            [Some(&finding.message), finding.help.as_ref(), finding.other.as_ref().map(|of| &of.1)];
        if !texts.into_iter().flatten().any(|said| said.contains(text)) {
            continue;
        }
        let shown = shown.to_mut();
        shown.message = without(&shown.message, placeholder, text);
        shown.help = shown.help.as_ref().map(|help| without(help, placeholder, text));
        shown.other =
            shown.other.as_ref().map(|(at, label)| (*at, without(label, placeholder, text)));
    }
    shown
}

/// Replaces values of `{ env: }` and `{ file: }` in the texts of a part of a page.
pub fn placeholders(value: &mut serde_json::Value, sources: &Sources) {
    match value {
        serde_json::Value::String(said) => {
            for (placeholder, text) in sources.substitutions().filter(|(_, text)| !text.is_empty())
            {
                if said == text && matches!(placeholder.written, Value::Map(_)) {
                    *said = placeholder.to_string();
                } else if said.contains(text) {
                    *said = without(said, placeholder, text);
                }
            }
        }
        serde_json::Value::Array(items) => {
            items.iter_mut().for_each(|item| placeholders(item, sources));
        }
        serde_json::Value::Object(fields) => {
            fields.values_mut().for_each(|field| placeholders(field, sources));
        }
        _ => {}
    }
}

fn without(said: &str, placeholder: &Substitution, text: &str) -> String {
    let written = placeholder.to_string();
    let said = said.replace(&format!("`{text}`"), &format!("`{written}`"));
    let secret = matches!(placeholder.written, Value::Map(_)) && text.len() >= VALUE_BYTES_MIN;
    if secret { said.replace(text, &written) } else { said }
}

/// Whether `name` denotes a secret header, cookie, query parameter or filter setting.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let whole = |known: &str| {
        name.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('-'))
    };
    NAMES.iter().any(|known| whole(known)) || PARTS.iter().any(|part| name.contains(part))
}

impl Within {
    /// The context of the value under `key`.
    fn under(self, key: &str) -> Self {
        match self {
            Self::Section if key == "filters" => Self::Filters,
            Self::Section if HEADER_LIKE.contains(&key) && !is_secret(key) => Self::Judged,
            Self::Section if HEADER_LIKE.contains(&key) => Self::Secret,
            Self::Section if NAMED.contains(&key) => Self::Named,
            Self::Section | Self::Named => Self::Section,
            Self::Filters => Self::Judged,
            Self::Judged if is_secret(key) => Self::Secret,
            Self::Judged | Self::Secret => self,
        }
    }
}

fn redact(value: Plain, within: Within) -> Plain {
    match value {
        Plain::Null | Plain::Bool(_) => value,
        Plain::Number(_) | Plain::Text(_) if within == Within::Secret => {
            Plain::Text(REDACTED.into())
        }
        Plain::Number(_) => value,
        Plain::Text(text) if within == Within::Judged && has_scheme(&text) => {
            Plain::Text(REDACTED.into())
        }
        Plain::Text(text) => Plain::Text(text_without_secrets(text)),
        Plain::List(items) => {
            Plain::List(items.into_iter().map(|item| redact(item, within)).collect())
        }
        Plain::Map(fields) => {
            let field = |(name, value): (String, Plain)| {
                let value = redact(value, within.under(&name));
                (name, value)
            };
            Plain::Map(fields.into_iter().map(field).collect())
        }
    }
}

fn has_scheme(text: &str) -> bool {
    let begins = |scheme: &str| {
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    SCHEMES.iter().any(|scheme| begins(scheme))
}

fn text_without_secrets(text: String) -> String {
    if text.contains("PRIVATE KEY-----") {
        return REDACTED.into();
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{REDACTED}{}", &rest[user.len()..]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: Plain, expected: Plain) {
        assert_eq!(redacted(value), expected);
    }

    fn text(text: &str) -> Plain {
        Plain::Text(text.into())
    }

    fn map(name: &str, value: Plain) -> Plain {
        Plain::Map(vec![(name.into(), value)])
    }

    #[test]
    fn what_goes_by_the_name_of_a_secret_is_left_out() {
        for name in [
            "Authorization",
            "x-api-key",
            "X_API_KEY",
            "access_token",
            "client-secret",
            "x-auth",
            "X-Auth-Key",
            "access-key",
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "session",
            "x-session",
            "sid",
            "jwt",
            "x-jwt-assertion",
            "passphrase",
            "pwd",
            "X-Signature",
        ] {
            for asked in [text("x"), map("prefix", text("x")), Plain::List(vec![text("x")])] {
                let value = map("headers", map(name, asked));
                assert!(format!("{:?}", redacted(value)).contains(REDACTED), "{name}");
            }
            let setting = |value| map("filters", Plain::List(vec![map("any", map(name, value))]));
            check(setting(text("x")), setting(text(REDACTED)));
        }
        check(
            map("cookies", map("any", Plain::Number(5))),
            map("cookies", map("any", text(REDACTED))),
        );
        let present = || map("cookies", map("present", Plain::Bool(true)));
        check(present(), present());
        for plain in ["x-tenant", "x-inside", "authority"] {
            let value = || map("headers", map(plain, text("gold")));
            check(value(), value());
        }
        check(map("key", text("cert.key")), map("key", text("cert.key")));
    }

    #[test]
    fn names_that_the_user_chooses_are_no_secrets() {
        let cluster = || map("endpoints", text("127.0.0.1:1"));
        for named in NAMED {
            for name in ["token-service", "cookies", "headers", "filters", "x-api-key"] {
                let value = || map(named, map(name, cluster()));
                check(value(), value());
            }
        }
        // Nor are names of filters.
        let filter = || map("filters", map("jwt", map("issuer", text("a"))));
        check(filter(), filter());
    }

    #[test]
    fn credentials_are_left_out_under_any_name() {
        for value in ["Bearer abc", "basic YTpi"] {
            let headers = |value| map("headers", map("x-upstream", map("prefix", value)));
            check(headers(text(value)), headers(text(REDACTED)));
            let filter = |value| map("filters", map("set_headers", map("x-upstream", value)));
            check(filter(text(value)), filter(text(REDACTED)));
        }
        let plain = || map("headers", map("x-plan", text("basics")));
        check(plain(), plain());
    }

    #[test]
    fn keys_and_users_are_left_out_wherever_they_are() {
        check(text("-----BEGIN RSA PRIVATE KEY-----\nMII"), text(REDACTED));
        check(text("https://me:pw@a.test/x@y"), text("https://[redacted]@a.test/x@y"));
        check(text("https://a.test/x@y"), text("https://a.test/x@y"));
    }
}
