//! Secrets in a configuration that is shown.
//!
//! Owns: the one rule of what is a secret. Refuses to know: who is shown it.
//! Keeps: structure and names stay, so that a reader sees that something is asked for; only the text is left out.

use sluice_core::Plain;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Names that a secret goes by, whole.
const NAMES: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "cookies", "set-cookie"];

/// Parts of names that a secret goes by.
const PARTS: [&str; 8] =
    ["api-key", "apikey", "token", "secret", "password", "passwd", "credential", "private-key"];

/// The value without its secrets: what stands under a name that says so, keys in PEM, and the user of a URL.
pub fn redacted(value: Plain) -> Plain {
    redact(value, false)
}

/// Whether what goes by `name` is a secret: a header, a cookie, a parameter or a setting.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    NAMES.contains(&name.as_str()) || PARTS.iter().any(|part| name.contains(part))
}

fn redact(value: Plain, secret: bool) -> Plain {
    match value {
        Plain::Null | Plain::Bool(_) => value,
        Plain::Number(_) if !secret => value,
        Plain::Text(text) if !secret => Plain::Text(text_without_secrets(text)),
        Plain::Number(_) | Plain::Text(_) => Plain::Text(REDACTED.into()),
        Plain::List(items) => {
            Plain::List(items.into_iter().map(|item| redact(item, secret)).collect())
        }
        Plain::Map(fields) => {
            let field = |(name, value): (String, Plain)| {
                let secret = secret || is_secret(&name);
                (name, redact(value, secret))
            };
            Plain::Map(fields.into_iter().map(field).collect())
        }
    }
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
        for name in ["Authorization", "x-api-key", "X_API_KEY", "access_token", "client-secret"] {
            check(map(name, text("x")), map(name, text(REDACTED)));
            let asked = |value| map("headers", map(name, map("prefix", value)));
            check(asked(text("x")), asked(text(REDACTED)));
        }
        check(
            map("cookies", map("any", Plain::Number(5))),
            map("cookies", map("any", text(REDACTED))),
        );
        check(
            map("cookie", map("present", Plain::Bool(true))),
            map("cookie", map("present", Plain::Bool(true))),
        );
        check(map("x-tenant", text("gold")), map("x-tenant", text("gold")));
        check(map("key", text("cert.key")), map("key", text("cert.key")));
    }

    #[test]
    fn keys_and_users_are_left_out_wherever_they_are() {
        check(text("-----BEGIN RSA PRIVATE KEY-----\nMII"), text(REDACTED));
        check(text("https://me:pw@a.test/x@y"), text("https://[redacted]@a.test/x@y"));
        check(text("https://a.test/x@y"), text("https://a.test/x@y"));
    }
}
