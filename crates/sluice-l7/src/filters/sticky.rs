//! `sticky`: sessions that stay with their endpoint, by a cookie or a header that names it.
//!
//! Owns: the token, and its way to the client and back. Refuses to know: which endpoints can be used; the balancer decides.
//! Keeps: a client learns nothing of an endpoint from its token, and cannot make a token for another; a token that is
//! not ours is as none.
//!
//! A token is the ID of an endpoint, masked, behind a tag over it: `tag = HMAC-SHA256(key, id)`, 16 bytes, and
//! `masked = id XOR HMAC-SHA256(key, tag)`, 4 bytes, in hexadecimal. It is the same for all sessions of an endpoint, as the
//! name of a server in a cookie of HAProxy is.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::{hmac, rand};
use sluice_codec::names::is_token;
use sluice_codec::{Head, Known};
use sluice_core::settings::{OrZero, ShortForm};
use sluice_core::{Node, SecretSource, Spanned, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, LiveSecret};
use sluice_upstream::cluster::PreferredEndpoint;
use sluice_upstream::endpoint::EndpointId;

use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep};
use crate::affinity;
use crate::header_values::cookie;

sluice_core::choice! {
    /// When a browser sends the cookie with requests from other sites (RFC 6265bis, §5.6.7).
    pub enum SameSite {
        /// With navigation only.
        Lax = "lax",
        /// Never.
        Strict = "strict",
        /// Always; browsers require `secure`.
        Always = "none",
    }
}

sluice_core::section! {
    /// Keeps a client with its endpoint (sticky sessions), by a cookie or a header. Exactly one of the two is required.
    pub struct Sticky {
        /// The cookie, which Sluice sets; the short form is its name.
        pub cookie: Option<Spanned<sluice_core::settings::Short<StickyCookie>>>,
        /// The header of the response that the client sends back with its requests.
        pub header: Option<Spanned<String>>,
        /// Whether a request fails if its endpoint cannot be used (`upstream.session`); otherwise it goes to another one,
        /// and the session with it.
        pub strict: bool = "false",
        /// The key of the tokens: at least 16 bytes. In a file, one key per line: the first is for new tokens. If omitted,
        /// a random one: sessions end when Sluice restarts, and other instances do not know them.
        pub key: Option<SecretSource>,
    }
}

sluice_core::section! {
    /// The cookie of a sticky session.
    pub struct StickyCookie {
        /// Its name.
        pub name: Spanned<String>,
        /// How long a browser keeps it; 0s until it is closed.
        pub ttl: OrZero = "0s",
        /// The path it is for.
        pub path: String = "/",
        /// Whether it is sent over HTTPS only; if omitted, that is so for clients that use HTTPS.
        pub secure: Option<bool>,
        /// When a browser sends it with requests from other sites.
        pub same_site: SameSite = "lax",
    }
}

impl ShortForm for StickyCookie {
    const KEY: &'static str = "name";
}

impl PlanSettings for Sticky {
    const NAME: &'static str = "sticky";
    const HELP: &'static str =
        "Keeps a client with its endpoint (sticky sessions), by a cookie or a header.";

    fn values() -> &'static [ValueDef] {
        affinity::VALUES
    }

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        let Self { cookie, header, strict, key } = self;
        let carrier = match (cookie, header) {
            (Some(cookie), None) => Carrier::Cookie(cookie_of(cookie.value.0, context)?),
            (None, Some(header)) if is_token(header.value.as_bytes()) => {
                Carrier::Header(header.value.to_ascii_lowercase())
            }
            (None, Some(header)) => {
                let message = format!("`{}` is not the name of a header", header.value);
                context.diags.error("bad-value", header.span, context.at.key("header"), message);
                return None;
            }
            (both, _) => {
                let message = "a sticky session needs a `cookie` or a `header`, and not both";
                let finding = context.not_exactly_one(span, both.is_none(), message);
                finding.help("write `sticky: { cookie: NAME }`");
                return None;
            }
        };
        let keys = match key {
            Some(source) => Keys::Given(context.secret(&source, "key")?),
            None => {
                let message = "without a key, sessions end when Sluice restarts, and other instances do not know them";
                let at = context.at.key("key");
                let finding = context.diags.warning("random-key", span, at, message);
                finding.help("add a key: `key: { file: sticky.key }`");
                Keys::Random
            }
        };
        Some(Arc::new(StickyPlan(Arc::new(Sessions { carrier, strict, keys }))))
    }
}

/// Checks the name and the attributes of a cookie (RFC 6265, §4.1.1).
fn cookie_of(cookie: StickyCookie, context: &mut CheckContext<'_>) -> Option<StickyCookie> {
    let at = context.at.key("cookie");
    let name = &cookie.name;
    if !is_token(name.value.as_bytes()) {
        let message = format!("`{}` is not the name of a cookie", name.value);
        context.diags.error("bad-value", name.span, at.key("name"), message);
        return None;
    }
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b';';
    if !cookie.path.starts_with('/') || !cookie.path.bytes().all(plain) {
        let message = format!("expected a path that begins with `/`, not `{}`", cookie.path);
        context.diags.error("bad-value", name.span, at.key("path"), message);
        return None;
    }
    if cookie.same_site == SameSite::Always && cookie.secure == Some(false) {
        let message = "browsers ignore a cookie with `same_site: none` that is not `secure`";
        let finding = context.diags.error("bad-value", name.span, at.key("secure"), message);
        finding.help("remove `secure: false`");
        return None;
    }
    Some(cookie)
}

/// What carries the token.
#[derive(Debug)]
enum Carrier {
    Cookie(StickyCookie),
    /// Lower case.
    Header(String),
}

#[derive(Debug)]
enum Keys {
    Given(LiveSecret<SessionKeys>),
    /// Of this process.
    Random,
}

#[derive(Debug)]
struct Sessions {
    carrier: Carrier,
    strict: bool,
    keys: Keys,
}

#[derive(Debug)]
struct StickyPlan(Arc<Sessions>);

impl HttpFilterPlan for StickyPlan {
    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(StickyFilter(Arc::clone(&self.0)))
    }
}

#[derive(Debug)]
struct StickyFilter(Arc<Sessions>);

impl HttpFilter for StickyFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let Sessions { carrier, strict, keys } = &*self.0;
        let token = carrier.token_of(head);
        if let Some(id) = token.and_then(|token| keys.with(|keys| keys.id_of(token))) {
            cx.values.set(&affinity::ENDPOINT, PreferredEndpoint { id, strict: *strict });
        }
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let Sessions { carrier, keys, .. } = &*self.0;
        let attempt = cx.summary.attempts.last().filter(|attempt| attempt.failure.is_none());
        if let (Some(attempt), Some(request)) = (attempt, cx.request) {
            let token = keys.with(|keys| keys.token(EndpointId::of(&attempt.endpoint)));
            if carrier.token_of(request) != Some(token.as_bytes()) {
                carrier.write(head, &token, request.scheme() == "https");
            }
        }
        ResponseStep::Continue
    }
}

impl Carrier {
    fn token_of<'h>(&self, request: &'h Head) -> Option<&'h [u8]> {
        match self {
            Self::Cookie(own) => cookie(request.get(Known::Cookie)?, own.name.value.as_bytes()),
            Self::Header(name) => request.get_named(name.as_bytes()),
        }
    }

    fn write(&self, response: &mut Head, token: &str, is_https: bool) {
        let own = match self {
            Self::Header(name) => {
                response.set(name.as_bytes(), token.as_bytes());
                return;
            }
            Self::Cookie(own) => own,
        };
        let mut text = format!("{}={token}; Path={}; HttpOnly", own.name.value, own.path);
        if !own.ttl.0.is_zero() {
            let _ = write!(text, "; Max-Age={}", own.ttl.0.as_secs());
        }
        text.push_str(match own.same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Always => "; SameSite=None",
        });
        if own.secure.unwrap_or(is_https || own.same_site == SameSite::Always) {
            text.push_str("; Secure");
        }
        response.append_known(Known::SetCookie, text.as_bytes());
    }
}

impl Keys {
    fn with<R>(&self, read: impl FnOnce(&SessionKeys) -> R) -> R {
        static RANDOM: OnceLock<SessionKeys> = OnceLock::new();
        match self {
            Self::Given(secret) => read(&secret.current()),
            Self::Random => read(RANDOM.get_or_init(SessionKeys::random)),
        }
    }
}

/// The keys of tokens: the first makes new ones, all are accepted.
struct SessionKeys(Vec<hmac::Key>);

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// The fewest bytes of a key.
const KEY_MIN: usize = 16;

/// Bytes of a tag, and of a token.
const TAG: usize = 16;
const TOKEN: usize = TAG + 4;

impl Content for SessionKeys {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let keys: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        match keys.iter().position(|key| key.len() < KEY_MIN) {
            None if keys.is_empty() => Err("it has no key".into()),
            None => Ok(Self(keys.into_iter().map(key).collect())),
            Some(place) => Err(format!(
                "key {} has fewer than {KEY_MIN} bytes; make one with `openssl rand -hex 32`",
                place + 1
            )),
        }
    }
}

fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

impl SessionKeys {
    fn random() -> Self {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the system has random bytes");
        Self(vec![key(&bytes)])
    }

    /// The token of an endpoint.
    fn token(&self, id: EndpointId) -> String {
        let key = &self.0[0];
        let tag = tag_of(key, id);
        let masked = id.0 ^ mask(key, &tag);
        let bytes = tag.iter().copied().chain(masked.to_be_bytes());
        bytes.fold(String::with_capacity(2 * TOKEN), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The endpoint of a token, if it is one of ours.
    fn id_of(&self, token: &[u8]) -> Option<EndpointId> {
        let bytes = from_hex(token)?;
        let (tag, masked) = bytes.split_first_chunk::<TAG>()?;
        let masked = u32::from_be_bytes(masked.try_into().ok()?);
        self.0.iter().find_map(|key| {
            let id = EndpointId(masked ^ mask(key, tag));
            let own = tag_of(key, id);
            aws_lc_rs::constant_time::verify_slices_are_equal(&own, tag).ok().map(|()| id)
        })
    }
}

fn tag_of(key: &hmac::Key, id: EndpointId) -> [u8; TAG] {
    let tag = hmac::sign(key, &id.0.to_be_bytes());
    *tag.as_ref().first_chunk().expect("HMAC-SHA256 has 32 bytes")
}

fn mask(key: &hmac::Key, tag: &[u8; TAG]) -> u32 {
    let mask = hmac::sign(key, tag);
    u32::from_be_bytes(*mask.as_ref().first_chunk().expect("HMAC-SHA256 has 32 bytes"))
}

/// The bytes of a token. Only one spelling of them is accepted.
fn from_hex(text: &[u8]) -> Option<[u8; TOKEN]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 2 * TOKEN] = text.try_into().ok()?;
    let mut bytes = [0; TOKEN];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
