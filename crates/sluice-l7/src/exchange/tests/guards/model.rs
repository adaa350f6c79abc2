//! Requests, and how they must end.

use std::collections::HashMap;

use fastrand::Rng;
use sluice_core::Reason;

use super::PARTNER;
use crate::reasons;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    None,
    /// Of this user; whether with the role `admin`.
    Valid(&'static str, bool),
    Expired,
    Forged,
    Audience,
    Malformed,
}

/// The name and the password that clients may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Password {
    None,
    /// Of this user.
    Right(&'static str),
    /// Of another, or of nobody.
    Wrong(&'static str),
    Malformed,
}

/// The session that browsers may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Session {
    None,
    /// Of a login as this user.
    Of(&'static str),
    /// Of one that ends soon.
    Brief,
    Forged,
    Cut,
}

/// What the service for limits answers, if it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitAnswer {
    Allowed,
    Limited,
    /// A message that is none.
    Malformed,
    /// A status of gRPC.
    Failed,
}

/// What the service for limits is told of a request: keys and values.
pub(super) type Descriptors = Vec<Vec<(String, String)>>;

/// A path, the same as routes see it, and the folders that servers may find it in.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathCase {
    pub(super) sent: &'static str,
    /// The rule that it fits, besides those for every path.
    pub(super) rule: &'static str,
    /// Whether some server may read it as one of /admin.
    pub(super) admin: bool,
    /// Whether every server reads it as one of /orders.
    pub(super) orders: bool,
}

const fn path(sent: &'static str, rule: &'static str, admin: bool, orders: bool) -> PathCase {
    PathCase { sent, rule, admin, orders }
}

const PATHS: [PathCase; 17] = [
    path("/", "rest", false, false),
    path("/open/a", "open", false, false),
    path("/open/..%2fadmin/x", "open", true, false),
    path("/members/a", "members", false, false),
    path("/export", "export", false, false),
    path("/vault/a", "vault", false, false),
    path("/account/a", "account", false, false),
    path("/account/a", "account", false, false),
    path("/account/api/a", "account", false, false),
    path("/admin", "admins", true, false),
    path("/admin/users?a=/open", "admins", true, false),
    path("/admin%2Fusers", "rest", true, false),
    path("/a;b/..;/admin", "rest", true, false),
    path("/orders/7", "rest", false, true),
    path("/orders/7/", "rest", false, true),
    path("/orders/..%2Fadmin", "rest", true, false),
    path("/orders%2F7", "rest", false, false),
];

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: &'static str,
    pub(super) host: &'static str,
    pub(super) path: PathCase,
    pub(super) origin: Option<&'static str>,
    pub(super) preflight: bool,
    pub(super) key: Option<&'static str>,
    pub(super) token: Token,
    pub(super) password: Password,
    pub(super) session: Session,
    /// Whether the client is a browser that asks for a page.
    pub(super) page: bool,
    /// The part of the clients that a limit of the fleet tells apart.
    pub(super) batch: u16,
    pub(super) teams: &'static [&'static str],
    pub(super) canary: bool,
    /// The last part of the address: the client is inside if it is even.
    pub(super) source: u8,
    pub(super) fault: bool,
    pub(super) body: Option<usize>,
    pub(super) limit: LimitAnswer,
    /// What the service answers, if it is asked.
    pub(super) answer: u16,
}

fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

/// How many clients a limit of the fleet tells apart, and how many requests of each it lets pass.
const BATCHES: u16 = 60;
pub(super) const OF_BATCH: u32 = 20;

const LIMIT_ANSWERS: [LimitAnswer; 8] = {
    use LimitAnswer::{Allowed, Failed, Limited, Malformed};
    [Allowed, Allowed, Allowed, Allowed, Allowed, Limited, Malformed, Failed]
};

impl Asked {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let method = pick(rng, &["GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "OPTIONS"]);
        let origins = [
            None,
            None,
            Some("https://shop.test"),
            Some(PARTNER),
            Some("https://evil.test"),
            Some("null"),
        ];
        let tokens = [
            Token::None,
            Token::None,
            Token::Valid("ann", true),
            Token::Valid("bob", false),
            Token::Valid("ann", false),
            Token::Expired,
            Token::Forged,
            Token::Audience,
            Token::Malformed,
        ];
        let passwords = [
            Password::Right("ann"),
            Password::Right("bob"),
            Password::Right("ann"),
            Password::Wrong("ann:pw-bob"),
            Password::Wrong("eve:pw-ann"),
            Password::Malformed,
        ];
        let sessions = [
            Session::None,
            Session::Of("ann"),
            Session::Of("bob"),
            Session::Brief,
            Session::Forged,
            Session::Cut,
        ];
        let password = if rng.u8(..6) == 0 { pick(rng, &passwords) } else { Password::None };
        let body = matches!(method, "POST" | "PUT").then(|| rng.usize(..11));
        Self {
            method,
            host: pick(rng, &["shop.test", "shop.test", "shop.test", "shop.test", "other.test"]),
            path: pick(rng, &PATHS),
            origin: pick(rng, &origins),
            preflight: rng.bool(),
            key: pick(rng, &[None, None, None, Some("key-acme"), Some("key-beta"), Some("key")]),
            token: pick(rng, &tokens),
            password,
            session: pick(rng, &sessions),
            page: rng.bool(),
            batch: rng.u16(..BATCHES),
            teams: pick(rng, &[&[][..], &[], &["staff"], &["guest"], &["staff", "guest"]]),
            canary: rng.u8(..4) == 0,
            source: rng.u8(..6),
            fault: rng.u8(..16) == 0,
            body,
            limit: pick(rng, &LIMIT_ANSWERS),
            answer: pick(rng, &[200, 204, 200, 200, 401, 302, 503]),
        }
    }
}

impl Asked {
    /// The last part of it says whether the client is inside.
    pub(super) fn address(&self) -> String {
        let net = if self.source.is_multiple_of(2) { "10.0.0" } else { "192.0.2" };
        format!("{net}.{}", self.source)
    }

    fn descriptors(&self, identity: Option<&str>) -> Descriptors {
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut all =
            vec![vec![entry("host", self.host), entry("remote_address", &self.address())]];
        all.extend(identity.map(|who| vec![entry("identity", who)]));
        if self.canary {
            all.push(vec![entry("method", self.method), entry("header_match", "canary")]);
        }
        let size = self.body.map(|length| if length > 4 { "large" } else { "small" });
        all.extend(size.map(|size| vec![entry("size", size)]));
        all
    }
}

/// How a request must end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    /// Whether scripts of the other site may read the response.
    pub(super) readable: bool,
    /// What the service for limits is told, if it is asked.
    pub(super) counted: Option<Descriptors>,
    /// Whether the service is asked, and with how much of the body.
    pub(super) asked: Option<usize>,
    /// The cluster that it is forwarded to, by the rule.
    pub(super) forwarded: Option<usize>,
    pub(super) told: Told,
}

/// What the endpoint is told of who asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// By a token.
    pub(super) user: Option<&'static str>,
    /// By a password.
    pub(super) login: Option<&'static str>,
    /// By a session.
    pub(super) account: Option<&'static str>,
    /// Whether the service says the role.
    pub(super) role: bool,
}

/// A bucket of tokens, in the time that one takes to come back.
struct Tokens {
    micros: u64,
    at: u64,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) now: u64,
    /// Until when the brief session lasts.
    pub(super) brief_until: u64,
    /// How many requests of each client the fleet has counted; `None` if nobody counts.
    pub(super) fleet: Option<HashMap<u16, u32>>,
    /// How many it has refused.
    pub(super) fleet_refused: usize,
    buckets: HashMap<(&'static str, String), Tokens>,
}

impl Model {
    /// Where the brief session lasts until then, and whether somebody counts for the fleet.
    pub(super) fn new(brief_until: u64, with_fleet: bool) -> Self {
        Self { brief_until, fleet: with_fleet.then(HashMap::new), ..Self::default() }
    }

    /// Takes a token from a bucket that gets one each `every` microseconds, up to `burst`.
    fn take(&mut self, limit: &'static str, key: String, every: u64, burst: u64) -> bool {
        let now = self.now;
        let tokens =
            self.buckets.entry((limit, key)).or_insert(Tokens { micros: every * burst, at: now });
        tokens.micros = (tokens.micros + now - tokens.at).min(every * burst);
        tokens.at = now;
        let taken = tokens.micros >= every;
        tokens.micros -= if taken { every } else { 0 };
        taken
    }

    /// Counts a request with the fleet.
    fn is_within_batch(&mut self, batch: u16) -> bool {
        let Some(fleet) = &mut self.fleet else { return true };
        let count = fleet.entry(batch).or_default();
        let within = *count < OF_BATCH;
        *count += u32::from(within);
        self.fleet_refused += usize::from(!within);
        within
    }

    fn user_of(&self, session: Session) -> Option<&'static str> {
        match session {
            Session::Of(user) => Some(user),
            Session::Brief => (self.now < self.brief_until).then_some("cid"),
            Session::None | Session::Forged | Session::Cut => None,
        }
    }

    pub(super) fn decide(&mut self, of: &Asked) -> Expected {
        let mut end = Expected {
            status: 0,
            reason: "",
            readable: false,
            counted: None,
            asked: None,
            forwarded: None,
            told: Told::default(),
        };
        let stop = |mut end: Expected, status, reason: Reason| {
            (end.status, end.reason) = (status, reason.code());
            end
        };
        // The route, as it is when the request arrives.
        let known = of.host == "shop.test";
        let rule = |admin: bool| match (of.path.rule, of.canary) {
            ("admins", _) if admin => "admins",
            ("admins" | "rest", true) => "canary",
            ("admins" | "rest", false) => "rest",
            (rule, _) => rule,
        };
        let mut route = if known { rule(false) } else { "" };
        // cors
        end.readable = of.origin == Some(PARTNER);
        if of.method == "OPTIONS" && of.origin.is_some() && of.preflight {
            return match end.readable {
                true => stop(end, 204, reasons::LOCAL),
                false => stop(end, 403, reasons::DENIED),
            };
        }
        // csrf
        let safe = matches!(of.method, "GET" | "OPTIONS");
        let own = known && of.origin == Some("https://shop.test");
        if route != "open" && !safe && !own && of.origin != Some(PARTNER) {
            return stop(end, 403, reasons::DENIED);
        }
        // api_key
        let mut identity = match of.key {
            Some("key-acme") => Some("api_key:acme".to_owned()),
            Some("key-beta") => Some("api_key:beta".to_owned()),
            Some(_) => return stop(end, 401, reasons::API_KEY_UNKNOWN),
            None => None,
        };
        // jwt
        match of.token {
            Token::None if route == "members" => return stop(end, 401, reasons::JWT_MISSING),
            Token::None => {}
            Token::Valid(name, admin) => {
                identity = Some(format!("jwt:corp/{name}"));
                end.told.user = Some(name);
                if known {
                    route = rule(admin);
                }
            }
            Token::Expired => return stop(end, 401, reasons::JWT_TIME),
            Token::Forged => return stop(end, 401, reasons::JWT_SIGNATURE),
            Token::Audience => return stop(end, 401, reasons::JWT_CLAIMS),
            Token::Malformed => return stop(end, 401, reasons::JWT_MALFORMED),
        }
        // basic_auth
        match of.password {
            Password::None if route == "vault" => return stop(end, 401, reasons::BASIC_MISSING),
            Password::None => {}
            Password::Right(name) => {
                identity = Some(format!("basic:{name}"));
                end.told.login = Some(name);
            }
            Password::Wrong(_) | Password::Malformed => {
                return stop(end, 401, reasons::BASIC_REFUSED);
            }
        }
        // oidc
        end.told.account = self.user_of(of.session);
        match end.told.account {
            Some(name) => identity = Some(format!("oidc:corp/{name}")),
            None if route != "account" => {}
            None if of.page && of.method == "GET" && of.path.sent == "/account/a" => {
                return stop(end, 303, reasons::LOCAL);
            }
            None => return stop(end, 401, reasons::OIDC_MISSING),
        }
        // rbac
        let outside = !of.source.is_multiple_of(2) && of.path.admin;
        let guest = of.teams.contains(&"guest") && of.method != "GET";
        let staff = identity.as_deref().is_some_and(|who| who.starts_with("jwt:"));
        let member = of.path.rule == "account" && end.told.account.is_some();
        let acme = identity.as_deref() == Some("api_key:acme") && of.path.orders;
        let passes = match route {
            "open" => true,
            "export" => of.method == "GET",
            _ => !outside && !guest && (safe || staff || acme || member),
        };
        if !passes {
            return stop(end, 403, reasons::DENIED);
        }
        // rate_limit
        let within = if route == "export" {
            self.take("export", String::new(), 1_000_000, 1)
        } else {
            self.take("source_ip", of.source.to_string(), 200_000, 3)
                && self.take("who", format!("{identity:?}"), 125_000, 2)
                && self.is_within_batch(of.batch)
        };
        if !within {
            return stop(end, 429, reasons::RATE);
        }
        // global_rate_limit
        if route != "open" {
            end.counted = Some(of.descriptors(identity.as_deref()));
            if of.limit == LimitAnswer::Limited {
                return stop(end, 429, reasons::GLOBAL_RATE);
            }
        }
        // fault
        if of.fault {
            return stop(end, 418, reasons::FAULT_ABORT);
        }
        // ext_authz
        if route != "canary" {
            end.asked = Some(of.body.unwrap_or(0).min(4));
            match of.answer {
                200 | 204 => end.told.role = true,
                503 => return stop(end, 403, reasons::DENIED),
                status => return stop(end, status, reasons::DENIED),
            }
        }
        // body_max
        if of.body.is_some_and(|length| length > 8) {
            return stop(end, 413, reasons::BODY_TOO_LARGE);
        }
        if !known {
            return stop(end, 404, reasons::ROUTE_UNMATCHED);
        }
        end.forwarded = Some(usize::from(matches!(route, "export" | "admins" | "canary")));
        stop(end, 200, reasons::VIA_UPSTREAM)
    }
}
