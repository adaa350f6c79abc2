//! Redacts secrets in a configuration that is displayed.
//!
//! Owns: the single definition of a secret, and what findings do not print. Refuses to know: where it is displayed.
//! Keeps: structure and names, so that a reader sees that a field is set; only the text is removed.

use std::borrow::Cow;

pub use sluice_core::secret::REDACTED;
use sluice_core::settings::FieldShape;
use sluice_core::tree::Substitution;
use sluice_core::{Diagnostic, Plain, SecretSource, Shape, Value};

use crate::sources::Sources;

/// The shapes of the settings of the filters of that name.
pub type FilterShapes<'a> = &'a dyn Fn(&str) -> Vec<Shape>;

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

/// Returns the configuration or section without secrets: settings of filters that are secrets by their shape, headers,
/// cookies, query parameters and filter settings whose names or values mark them as secret, PEM private keys, and users
/// in URLs.
pub fn redacted(value: Plain, filters: FilterShapes<'_>) -> Plain {
    redact(value, Within::Section, filters)
}

/// The settings of a filter, of which names gave away some secrets, without those that their shape declares. `written`
/// is what was written.
fn by_shape(shown: Plain, written: &Plain, shape: &Shape) -> Plain {
    match (shape, shown, written) {
        (Shape::Secret, Plain::Text(_), _) => Plain::Text(REDACTED.into()),
        // The name of a secret is none.
        (Shape::Tagged(forms), Plain::Map(_), Plain::Map(_)) if is_name_of_secret(forms) => {
            written.clone()
        }
        (Shape::Section(section), Plain::Map(fields), Plain::Map(written)) => {
            fields_by_shape(fields, written, &section().fields)
        }
        (Shape::Tagged(known) | Shape::Fields(known), Plain::Map(fields), Plain::Map(written)) => {
            fields_by_shape(fields, written, known)
        }
        (Shape::Named(each), Plain::Map(fields), Plain::Map(written)) => {
            let field = |((name, value), (_, written)): ((String, Plain), &(String, Plain))| {
                (name, by_shape(value, written, each))
            };
            Plain::Map(fields.into_iter().zip(written).map(field).collect())
        }
        (Shape::OneOrMany(each), Plain::List(items), Plain::List(written)) => {
            let items = items.into_iter().zip(written);
            Plain::List(items.map(|(item, written)| by_shape(item, written, each)).collect())
        }
        (Shape::OneOrMany(inner) | Shape::OrNone(inner), shown, written) => {
            by_shape(shown, written, inner)
        }
        (Shape::Either(forms), shown, written) => {
            forms.iter().fold(shown, |shown, form| by_shape(shown, written, form))
        }
        (_, shown, _) => shown,
    }
}

/// Whether these are the forms of a secret that is named.
fn is_name_of_secret(forms: &[FieldShape]) -> bool {
    matches!(forms, [form] if form.key == SecretSource::KEY)
}

/// Whether a value of this shape has fields that are known.
fn has_fields(shape: &Shape) -> bool {
    match shape {
        Shape::Section(_) | Shape::Fields(_) => true,
        Shape::OneOrMany(inner) | Shape::OrNone(inner) => has_fields(inner),
        Shape::Either(forms) => forms.iter().any(has_fields),
        _ => false,
    }
}

fn fields_by_shape(
    fields: Vec<(String, Plain)>,
    written: &[(String, Plain)],
    known: &[FieldShape],
) -> Plain {
    let field = |((name, value), (_, written)): ((String, Plain), &(String, Plain))| {
        let value = match known.iter().find(|field| field.key == name) {
            // Its name gives nothing away: a field with fields of its own, such as `cookie`, contains settings.
            Some(field) if has_fields(&field.shape) => {
                let judged = redact(written.clone(), Within::Judged, &|_| Vec::new());
                by_shape(judged, written, &field.shape)
            }
            Some(field) => by_shape(value, written, &field.shape),
            None => value,
        };
        (name, value)
    };
    Plain::Map(fields.into_iter().zip(written).map(field).collect())
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
pub fn is_secret(name: &str) -> bool {
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

fn redact(value: Plain, within: Within, filters: FilterShapes<'_>) -> Plain {
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
            Plain::List(items.into_iter().map(|item| redact(item, within, filters)).collect())
        }
        Plain::Map(fields) => {
            let field = |(name, value): (String, Plain)| {
                let shapes = if within == Within::Filters { filters(&name) } else { Vec::new() };
                let shown = redact(value.clone(), within.under(&name), filters);
                let by_shape = |shown, shape| by_shape(shown, &value, shape);
                (name, shapes.iter().fold(shown, by_shape))
            };
            Plain::Map(fields.into_iter().map(field).collect())
        }
    }
}

/// Whether `text` begins as credentials do: `Bearer ...`.
pub fn has_scheme(text: &str) -> bool {
    let begins = |scheme: &str| {
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    SCHEMES.iter().any(|scheme| begins(scheme))
}

/// The text, unless it is a private key, and without the user in a URL.
pub fn text_without_secrets(text: String) -> String {
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
    use sluice_core::Setting as _;

    use super::*;

    #[track_caller]
    fn check(value: Plain, expected: Plain) {
        assert_eq!(redacted(value, &|_| Vec::new()), expected);
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
                assert!(
                    format!("{:?}", redacted(value, &|_| Vec::new())).contains(REDACTED),
                    "{name}"
                );
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
    fn settings_that_are_secrets_by_their_shape_are_left_out() {
        let field = |key, shape| FieldShape {
            key,
            doc: String::new(),
            required: true,
            default: None,
            shape,
        };
        let shapes = |name: &str| {
            let secret = || SecretSource::shape();
            let many = Shape::OneOrMany(Box::new(secret()));
            let fields =
                vec![field("lock", secret()), field("locks", many), field("by", u64::shape())];
            if name == "own" { vec![Shape::Fields(fields)] } else { Vec::new() }
        };
        let settings = |lock: Plain, locks: Plain| {
            let fields = vec![
                ("lock".to_owned(), lock),
                ("locks".to_owned(), locks),
                ("by".to_owned(), text("5")),
            ];
            map("filters", Plain::List(vec![map("own", Plain::Map(fields))]))
        };
        let gone = || text(REDACTED);
        assert_eq!(
            redacted(settings(text("a"), Plain::List(vec![text("b")])), &shapes),
            settings(gone(), Plain::List(vec![gone()]))
        );
        assert_eq!(redacted(settings(text("a"), text("b")), &shapes), settings(gone(), gone()));
        // The name of a secret is none, and neither is that of a file.
        for key in ["secret", "file", "env"] {
            let named = || map(key, text("name"));
            let shown = redacted(settings(named(), text("b")), &shapes);
            assert_eq!(shown, settings(named(), gone()), "{key}");
        }
    }

    #[test]
    fn a_field_with_known_fields_is_no_secret_for_its_name() {
        let field = |key, shape| FieldShape {
            key,
            doc: String::new(),
            required: true,
            default: None,
            shape,
        };
        let shapes = |_: &str| {
            let cookie = vec![
                field("name", String::shape()),
                field("ttl", String::shape()),
                field("token", String::shape()),
                field("lock", SecretSource::shape()),
            ];
            let cookie = Shape::Either(vec![String::shape(), Shape::Fields(cookie)]);
            vec![Shape::Fields(vec![field("cookie", cookie), field("token", String::shape())])]
        };
        let settings = |cookie: Plain, token: &str| {
            let fields = vec![("cookie".to_owned(), cookie), ("token".to_owned(), text(token))];
            map("filters", map("own", Plain::Map(fields)))
        };
        let cookie = |token: &str, lock: &str| {
            let fields = [("name", "SRV"), ("ttl", "8h"), ("token", token), ("lock", lock)];
            Plain::Map(fields.map(|(key, value)| (key.to_owned(), text(value))).into())
        };
        assert_eq!(
            redacted(settings(cookie("a", "b"), "c"), &shapes),
            settings(cookie(REDACTED, REDACTED), REDACTED)
        );
        assert_eq!(redacted(settings(text("SRV"), "c"), &shapes), settings(text("SRV"), REDACTED));
    }

    #[test]
    fn keys_and_users_are_left_out_wherever_they_are() {
        check(text("-----BEGIN RSA PRIVATE KEY-----\nMII"), text(REDACTED));
        check(text("https://me:pw@a.test/x@y"), text("https://[redacted]@a.test/x@y"));
        check(text("https://a.test/x@y"), text("https://a.test/x@y"));
    }
}
