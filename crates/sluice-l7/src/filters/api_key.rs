//! `api_key`: only requests with a key that is known pass.
//!
//! Owns: which keys there are, by the names of their holders. Refuses to know: what a holder may do beyond that. Keeps:
//! keys are known by their hashes only, so that no file and no memory that is read by others gives one away; no endpoint
//! gets a key unless that is asked for.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER_PERMISSIVE;
use sluice_codec::Head;
use sluice_core::settings::{Plain, bind_entries, bind_scalar, entries_of};
use sluice_core::values::{ValueDef, ValueKey};
use sluice_core::{Diags, Name, Node, Path, Reason, Setting, Shape, Spanned};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, Fetched};

use super::credentials::{CredentialFrom, CredentialSource, HeldCredential, check_realm};
use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings};
use crate::identity::{Identity, Means, WHO};
use crate::reasons;
use crate::reply::Reply;
use crate::words::EditableHeader;

/// The key of a request, should the filter run again with the settings of another route.
const HELD: ValueKey<HeldCredential> =
    ValueKey::new(&ValueDef { name: "api_key.held", help: "Not for other filters." });

sluice_core::section! {
    /// Only requests with a key that is known pass. Exactly one of `keys` and `keys_file` is required.
    pub struct ApiKey {
        /// The SHA-256 hashes of the keys, in hexadecimal, by the names of their holders: `printf %s KEY | sha256sum`.
        pub keys: KeyHashes,
        /// A file of keys, one `NAME:HASH` in each line; a holder may have several. It is read again when it changes.
        pub keys_file: Option<Spanned<PathBuf>>,
        /// Where requests carry keys; by default in the header `x-api-key`.
        pub from: CredentialFrom,
        /// The holders whose keys pass; all by default. Those of others get 403.
        pub allow: Vec<Name>,
        /// The header that endpoints get the name of the holder in. What clients send in it is always removed.
        pub user_header: Option<EditableHeader>,
        /// Whether endpoints get the key; otherwise it is removed from the request.
        pub forward: bool = "false",
        /// Whether requests without a key pass, without an identity.
        pub allow_missing: bool = "false",
        /// The realm in the challenge of a 401.
        pub realm: Spanned<String> = "sluice",
    }
}

/// The SHA-256 hash of a key.
type KeyHash = [u8; 32];

fn parse_hash(text: &str) -> Result<KeyHash, String> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        "expected the SHA-256 hash of a key, 64 hexadecimal digits: `printf %s KEY | sha256sum`"
            .into()
    })
}

/// Hashes of keys by the names of their holders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyHashes(Vec<(Name, KeyHash)>);

impl Setting for KeyHashes {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of names to hashes of keys")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let hash = bind_scalar(&entry.node, here, diags, "the hash of a key", parse_hash)?;
            Some((Name::from(&*entry.key), hash))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        let example = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        Shape::Named(Box::new(Shape::Text { what: "the SHA-256 hash of a key", example }))
    }

    fn show(&self) -> Plain {
        let shown = |(name, hash): &(Name, KeyHash)| {
            (name.to_string(), Plain::Text(HEXLOWER_PERMISSIVE.encode(hash)))
        };
        Plain::Map(self.0.iter().map(shown).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Who holds which key.
struct KeyHolders(HashMap<KeyHash, Arc<Identity>>);

impl fmt::Debug for KeyHolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl KeyHolders {
    fn new(keys: impl IntoIterator<Item = (Name, KeyHash)>) -> Result<Self, String> {
        let mut all = HashMap::new();
        for (name, hash) in keys {
            let who = Identity { means: Means::ApiKey, issuer: None, name: (*name).into() };
            if let Some(other) = all.insert(hash, Arc::new(who)) {
                return Err(format!("`{}` and `{name}` have the same key", other.name));
            }
        }
        Ok(Self(all))
    }

    /// Who holds a key. The look-up compares hashes, of which a guess at a key says nothing.
    fn holder(&self, key: &[u8]) -> Option<&Arc<Identity>> {
        let hash: KeyHash = digest(&SHA256, key).as_ref().try_into().ok()?;
        self.0.get(&hash)
    }
}

impl Content for KeyHolders {
    /// Parses lines of the form `NAME:HASH`; empty lines and those that begin with `#` are ignored.
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem: &str| format!("line {}: {problem}", number + 1);
            let (name, hash) = line.split_once(':').ok_or_else(|| wrong("expected `NAME:HASH`"))?;
            if name.is_empty() {
                return Err(wrong("expected a name before the colon"));
            }
            keys.push((Name::from(name), parse_hash(hash).map_err(|problem| wrong(&problem))?));
        }
        if keys.is_empty() {
            return Err("it has no keys".into());
        }
        Self::new(keys)
    }
}

impl PlanSettings for ApiKey {
    const NAME: &'static str = "api_key";
    const HELP: &'static str = "Only requests with a key that is known pass.";

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        check_realm(&self.realm, context)?;
        let keys = match (self.keys.0.is_empty(), &self.keys_file) {
            (false, None) => match KeyHolders::new(self.keys.0) {
                Ok(keys) => KeysSource::Fixed(Arc::new(keys)),
                Err(problem) => {
                    context.diags.error("duplicate-name", span, context.at.key("keys"), problem);
                    return None;
                }
            },
            (true, Some(path)) => KeysSource::File(context.file(path, "keys_file")?),
            (is_empty, _) => {
                let message = "`api_key` needs exactly one of `keys` and `keys_file`";
                context.not_exactly_one(span, is_empty, message);
                return None;
            }
        };
        Some(Arc::new(ApiKeyPlan(Arc::new(KeyGuard {
            keys,
            sources: self.from.sources("x-api-key"),
            allow: self.allow,
            user_header: self.user_header.map(|header| header.0),
            forward: self.forward,
            allow_missing: self.allow_missing,
            realm: self.realm.value,
        }))))
    }
}

/// Where the keys are from.
#[derive(Debug)]
enum KeysSource {
    Fixed(Arc<KeyHolders>),
    File(Fetched<KeyHolders>),
}

/// What a use of the filter asks for.
#[derive(Debug)]
struct KeyGuard {
    keys: KeysSource,
    sources: Vec<CredentialSource>,
    allow: Vec<Name>,
    user_header: Option<String>,
    forward: bool,
    allow_missing: bool,
    realm: String,
}

#[derive(Debug)]
struct ApiKeyPlan(Arc<KeyGuard>);

impl HttpFilterPlan for ApiKeyPlan {
    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(ApiKeyFilter(Arc::clone(&self.0)))
    }
}

#[derive(Debug)]
struct ApiKeyFilter(Arc<KeyGuard>);

impl HttpFilter for ApiKeyFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let guard = &*self.0;
        if let Some(header) = &guard.user_header {
            head.remove(header.as_bytes());
        }
        let (mut sent, mut several): (Option<Vec<u8>>, bool) = (None, false);
        for source in &guard.sources {
            source.each(head, |key| match &sent {
                Some(other) => several |= other != key,
                None => sent = Some(key.to_vec()),
            });
        }
        let held = || cx.values.get(&HELD).map(|held| held.0.to_vec());
        let Some(sent) = sent.or_else(held) else {
            if guard.allow_missing {
                return HeadStep::Continue;
            }
            return guard.refuse(
                401,
                reasons::API_KEY_MISSING,
                "api_key_missing",
                "a key is required\n",
            );
        };
        if several {
            let body = "there are several keys\n";
            return guard.refuse(401, reasons::API_KEY_UNKNOWN, "api_key_several", body);
        }
        let keys = match &guard.keys {
            KeysSource::Fixed(keys) => Some(Arc::clone(keys)),
            KeysSource::File(keys) => keys.current(),
        };
        let who = keys.and_then(|keys| keys.holder(&sent).cloned());
        let Some(who) = who else {
            let body = "the key is not known\n";
            return guard.refuse(401, reasons::API_KEY_UNKNOWN, "api_key_unknown", body);
        };
        if !guard.allow.is_empty() && !guard.allow.iter().any(|name| **name == *who.name) {
            let body = "the key is not for this\n";
            return guard.refuse(403, reasons::API_KEY_DENIED, "api_key_denied", body);
        }
        if !guard.forward {
            guard.sources.iter().for_each(|source| source.remove(head));
            cx.values.set(&HELD, HeldCredential(sent.into()));
        }
        if let Some(header) = &guard.user_header {
            head.set(header.as_bytes(), who.name.as_bytes());
        }
        cx.values.set(&WHO, who);
        cx.reroute();
        HeadStep::Continue
    }
}

impl KeyGuard {
    fn refuse(
        &self,
        status: u16,
        why: Reason,
        details: &'static str,
        body: &'static str,
    ) -> HeadStep {
        let reply = Reply::new(status, why, details, body);
        if status != 401 {
            return HeadStep::reply(reply);
        }
        let challenge = format!("ApiKey realm=\"{}\"", self.realm);
        HeadStep::reply(reply.with("www-authenticate", challenge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn keys_are_known_by_their_hashes() {
        let other = HASH.replace('2', "3").to_uppercase();
        let text = format!("# keys\n\npartner:{HASH}\r\npartner:{other}\n");
        let keys = KeyHolders::parse(text.as_bytes()).unwrap();
        assert_eq!(keys.holder(b"secret").unwrap().to_string(), "api_key:partner");
        for key in [&b"Secret"[..], b"", b"secret ", HASH.as_bytes()] {
            assert!(keys.holder(key).is_none(), "{key:?}");
        }
        assert_eq!(format!("{keys:?}"), "2 keys");
    }

    #[test]
    fn a_file_with_anything_else_is_refused() {
        for (text, problem) in [
            ("partner:secret", "line 1: expected the SHA-256 hash of a key"),
            ("\npartner", "line 2: expected `NAME:HASH`"),
            (&format!(":{HASH}"), "line 1: expected a name"),
            (&format!("a:{HASH}\nb:{HASH}"), "`a` and `b` have the same key"),
            (&format!("a:{HASH}00"), "line 1: expected the SHA-256 hash"),
            ("", "it has no keys"),
        ] {
            let error = KeyHolders::parse(text.as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
