//! `basic_auth`: only requests with the name and the password of a user pass (RFC 7617).
//!
//! Owns: how they are read from a request, and what becomes of it. Refuses to know: how passwords are hashed. Keeps: a
//! request without a right password gets no further; a hash is never computed on the worker; the password goes to no
//! endpoint unless that is asked for.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use data_encoding::BASE64;
use sluice_codec::Head;
use sluice_core::limits::Limit;
use sluice_core::values::{ValueDef, ValueKey};
use sluice_core::{Node, SecretSource, Spanned};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::source_of;
use sluice_l4::filters::{Fetched, LiveSecret};
use sluice_l4::metrics::count_limit;

use super::credentials::HeldCredential;
use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings};
use crate::identity::{Identity, Means, WHO};
use crate::reasons;
use crate::reply::Reply;
use crate::words::EditableHeader;

mod argon;
mod known;
mod queue;
mod sha_crypt;
mod users;

use known::KnownPasswords;
use queue::HashQueue;
use users::{AnyUsers, Users};

/// The most bytes of a name and a password together. A hash takes time in proportion.
const CREDENTIALS_MAX: usize = 1024;

/// What a request had in `authorization`, should the filter run again with the settings of another route.
const HELD: ValueKey<HeldCredential> =
    ValueKey::new(&ValueDef { name: "basic_auth.held", help: "Not for other filters." });

sluice_core::section! {
    /// Only requests with the name and the password of a user pass (RFC 7617). Exactly one of `users_file` and `users` is
    /// required.
    pub struct BasicAuth {
        /// A file of users, one `NAME:HASH` in each line, as `htpasswd -B` writes it: bcrypt, SHA-crypt (`$5$`, `$6$`) or
        /// Argon2. It is read again when it changes.
        pub users_file: Option<Spanned<PathBuf>>,
        /// The content of such a file, or a secret with it.
        pub users: Option<SecretSource>,
        /// Whether unsalted SHA-1 hashes (`{SHA}`, as `htpasswd -s` writes them) are accepted, too. Somebody who gets the file
        /// finds most passwords by trying.
        pub sha1: bool = "false",
        /// The realm that browsers show.
        pub realm: Spanned<String> = "sluice",
        /// The header that endpoints get the name in. What clients send in it is always removed.
        pub user_header: Option<EditableHeader>,
        /// Whether endpoints get the password; otherwise `authorization` is removed.
        pub forward: bool = "false",
        /// Whether requests without a password pass, without an identity.
        pub allow_missing: bool = "false",
    }
}

impl PlanSettings for BasicAuth {
    const NAME: &'static str = "basic_auth";
    const HELP: &'static str = "Only requests with the name and the password of a user pass.";

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        super::credentials::check_realm(&self.realm, context)?;
        let users = match (&self.users_file, &self.users) {
            (Some(path), None) if self.sha1 => {
                UsersSource::AnyFile(context.file(path, "users_file")?)
            }
            (Some(path), None) => UsersSource::File(context.file(path, "users_file")?),
            (None, Some(source)) if self.sha1 => {
                UsersSource::AnySecret(context.secret(source, "users")?)
            }
            (None, Some(source)) => UsersSource::Secret(context.secret(source, "users")?),
            (file, _) => {
                let message = "`basic_auth` needs exactly one of `users_file` and `users`";
                let finding = context.not_exactly_one(span, file.is_none(), message);
                finding.help("write `basic_auth: { users_file: htpasswd }`");
                return None;
            }
        };
        Some(Arc::new(BasicAuthPlan(Arc::new(PasswordGuard {
            users,
            realm: self.realm.value,
            user_header: self.user_header.map(|header| header.0),
            forward: self.forward,
            allow_missing: self.allow_missing,
        }))))
    }
}

/// Where the users are from.
#[derive(Debug)]
enum UsersSource {
    File(Fetched<Users>),
    Secret(LiveSecret<Users>),
    /// With hashes of SHA-1 as well.
    AnyFile(Fetched<AnyUsers>),
    AnySecret(LiveSecret<AnyUsers>),
}

/// What a use of the filter asks for.
#[derive(Debug)]
struct PasswordGuard {
    users: UsersSource,
    realm: String,
    user_header: Option<String>,
    forward: bool,
    allow_missing: bool,
}

impl PasswordGuard {
    /// The users as they are now; `None` only if a file could not be read even once, which `check` has tried.
    fn users(&self) -> Option<Arc<Users>> {
        match &self.users {
            UsersSource::File(users) => users.current(),
            UsersSource::Secret(users) => Some(users.current()),
            UsersSource::AnyFile(users) => users.current().map(|users| Arc::clone(&users.0)),
            UsersSource::AnySecret(users) => Some(Arc::clone(&users.current().0)),
        }
    }
}

#[derive(Debug)]
struct BasicAuthPlan(Arc<PasswordGuard>);

impl HttpFilterPlan for BasicAuthPlan {
    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        let (guard, queue) = (Arc::clone(&self.0), HashQueue::of(worker));
        let known = RefCell::new(KnownPasswords::new());
        Rc::new(BasicAuthFilter(Rc::new(PasswordJudge { guard, queue, known })))
    }
}

struct BasicAuthFilter(Rc<PasswordJudge>);

impl fmt::Debug for BasicAuthFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BasicAuthFilter({:?})", self.0.guard.realm)
    }
}

struct PasswordJudge {
    guard: Arc<PasswordGuard>,
    queue: Rc<HashQueue>,
    known: RefCell<KnownPasswords>,
}

/// A name and a password. Never printed.
struct Credentials {
    text: Vec<u8>,
    colon: usize,
}

impl Credentials {
    /// Reads what follows the scheme (RFC 7617 §2). A name has no colon, and neither part a control character.
    fn parse(encoded: &[u8]) -> Option<Self> {
        if encoded.len() > CREDENTIALS_MAX / 3 * 4 {
            return None;
        }
        let text = BASE64.decode(encoded).ok()?;
        let colon = text.iter().position(|byte| *byte == b':')?;
        (!text.iter().any(u8::is_ascii_control)).then_some(Self { text, colon })
    }

    fn name(&self) -> &[u8] {
        &self.text[..self.colon]
    }

    fn password(&self) -> &[u8] {
        &self.text[self.colon + 1..]
    }
}

/// What follows the scheme `Basic`, which is case-insensitive.
fn basic(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| rest.trim_ascii())
}

impl HttpFilter for BasicAuthFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let judge = &self.0;
        if let Some(name) = &judge.guard.user_header {
            head.remove(name.as_bytes());
        }
        let (sent, another) = {
            let mut all = head.values(b"authorization").filter_map(basic);
            (all.next().map(<[u8]>::to_vec), all.next().is_some())
        };
        let held = || cx.values.get(&HELD).map(|held| held.0.to_vec());
        let Some(sent) = sent.or_else(held) else {
            if judge.guard.allow_missing {
                return HeadStep::Continue;
            }
            return judge.refuse(
                reasons::BASIC_MISSING,
                "basic_missing",
                "a password is required\n",
            );
        };
        let Some(credentials) = Credentials::parse(&sent).filter(|_| !another) else {
            return judge.refuse(reasons::BASIC_REFUSED, "basic_malformed", WRONG);
        };
        judge.decide(cx, head, sent, credentials)
    }
}

const WRONG: &str = "the name or the password is wrong\n";

impl PasswordJudge {
    fn decide(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        head: &mut Head,
        sent: Vec<u8>,
        credentials: Credentials,
    ) -> HeadStep {
        let Some(users) = self.guard.users() else {
            return self.refuse(reasons::BASIC_REFUSED, "basic_no_users", WRONG);
        };
        let (name, password) = (credentials.name(), credentials.password());
        if self.known.borrow_mut().has(&users, name, password, cx.worker.now()) {
            self.admit(cx, head, sent, name);
            return HeadStep::Continue;
        }
        let place = match self.queue.enter(source_of(cx.summary.source)) {
            Ok(place) => place,
            Err(limit) => return busy(cx.worker, limit),
        };
        let this = Rc::clone(self);
        let of_thread = Arc::clone(&users);
        HeadStep::wait(async move {
            let judged = place.run(move || {
                let is_it = of_thread.is(credentials.name(), credentials.password());
                (is_it, credentials)
            });
            let judged = judged.await;
            move |cx: &mut Cx<'_>, head: &mut Head| match judged {
                Some((true, own)) => {
                    let (name, password) = (own.name(), own.password());
                    this.known.borrow_mut().insert(&users, name, password, cx.worker.now());
                    this.admit(cx, head, sent, name);
                    HeadStep::Continue
                }
                _ => this.refuse(reasons::BASIC_REFUSED, "basic_wrong", WRONG),
            }
        })
    }

    fn admit(&self, cx: &mut Cx<'_>, head: &mut Head, sent: Vec<u8>, name: &[u8]) {
        if !self.guard.forward {
            head.remove_where(|own, value| own == b"authorization" && basic(value).is_some());
            cx.values.set(&HELD, HeldCredential(sent.into()));
        }
        if let Some(header) = &self.guard.user_header {
            head.set(header.as_bytes(), name);
        }
        let name = String::from_utf8_lossy(name).into_owned().into_boxed_str();
        let who = Identity { means: Means::Basic, issuer: None, name };
        cx.values.set(&WHO, Arc::new(who));
        cx.reroute();
    }

    fn refuse(
        &self,
        why: sluice_core::Reason,
        details: &'static str,
        body: &'static str,
    ) -> HeadStep {
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", self.guard.realm);
        HeadStep::reply(Reply::new(401, why, details, body).with("www-authenticate", challenge))
    }
}

fn busy(worker: &WorkerCx, limit: Limit) -> HeadStep {
    count_limit(worker, limit);
    let details = match limit {
        Limit::PasswordsOfSource => "basic_busy_source",
        _ => "basic_busy",
    };
    let reply = Reply::new(503, reasons::BASIC_BUSY, details, "try again\n");
    HeadStep::reply(reply.with("retry-after", "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_password_are_read_strictly() {
        let read = |text: &[u8]| {
            let own = Credentials::parse(BASE64.encode(text).as_bytes())?;
            Some((own.name().to_vec(), own.password().to_vec()))
        };
        let both = |name: &[u8], password: &[u8]| Some((name.to_vec(), password.to_vec()));
        assert_eq!(read(b"ann:pw"), both(b"ann", b"pw"));
        assert_eq!(read(b"ann:p:w "), both(b"ann", b"p:w "));
        assert_eq!(read("ann:pä".as_bytes()), both(b"ann", "pä".as_bytes()));
        assert_eq!(read(b":"), both(b"", b""));
        for wrong in [&b"ann"[..], b"", b"a\0n:pw", b"ann:p\nw"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert!(read(&[b":", &[b'x'; CREDENTIALS_MAX - 8][..]].concat()).is_some());
        assert!(read(&[b":", &[b'x'; CREDENTIALS_MAX + 8][..]].concat()).is_none());
        for wrong in ["YW5uOnB3=", "YW5uOnB4a", "YW5uOnB3\n", "YW5uOnA", "YW5uOnB=", "-_-_"] {
            assert!(Credentials::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_scheme_has_any_case() {
        for (value, found) in [
            ("Basic YQ==", Some("YQ==")),
            ("bAsIc  YQ== ", Some("YQ==")),
            ("Basic ", Some("")),
            ("Basic", None),
            ("BasicYQ==", None),
            ("Bearer YQ==", None),
        ] {
            assert_eq!(basic(value.as_bytes()), found.map(str::as_bytes), "{value}");
        }
    }
}
