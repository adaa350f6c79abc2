use super::super::dialogue::tests::{check, converse, failed, hold, told_anything};
use super::*;
use crate::plan::Login;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    frame(&mut message, Some(kind), body);
    message
}

fn status(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

fn error_of(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

/// A session that begins on a server with that value of `in_hot_standby`.
fn session(standby: Option<&str>) -> Vec<u8> {
    let standby = standby.map(|value| status("in_hot_standby", value)).unwrap_or_default();
    [
        message(b'R', &[0, 0, 0, 0]),
        status("server_version", "15.8"),
        standby,
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn postgres(
    login: Option<(&str, Option<&str>)>,
    role: Option<ServerRole>,
    encrypted: bool,
) -> impl Fn() -> PostgresDialogue {
    let login = login.map(|(user, password)| Login {
        user: user.to_owned(),
        password: password.map(|password| Password(password.to_owned())),
    });
    let check = PostgresCheck { login, database: Some("app".into()), role };
    move || PostgresDialogue::new(check.clone(), encrypted)
}

const STARTUP: &[u8] =
    b"\x00\x00\x00\x42\x00\x03\x00\x00user\0u\0database\0app\0application_name\0sluice-health-check\0\0";
const TERMINATE: &[u8] = b"X\0\0\0\x04";

fn unfit(message: &str) -> Result<DialogueTurn, CheckError> {
    Err(CheckError::Unfit(message.into()))
}

#[test]
fn a_session_tells_the_role() {
    let done = || Ok(DialogueTurn::Done);
    let user = Some(("u", None));
    let primary = postgres(user, Some(ServerRole::Primary), false);
    let replica = postgres(user, Some(ServerRole::Replica), false);
    let (on, off) = (session(Some("on")), session(Some("off")));
    check(postgres(user, None, false), &[&on], &[STARTUP, TERMINATE], done());
    check(&primary, &[&off], &[STARTUP, TERMINATE], done());
    check(&replica, &[&on], &[STARTUP, TERMINATE], done());
    check(&primary, &[&on], &[STARTUP, TERMINATE], unfit("it is a standby, not a primary"));
    check(&replica, &[&off], &[STARTUP, TERMINATE], unfit("it is a primary, not a standby"));
    let old = "does not report `in_hot_standby`, from which its role is known; PostgreSQL does since version 14";
    check(&primary, &[&session(None)], &[STARTUP, TERMINATE], failed(old));
    check(&primary, &[&off[..40]], &[STARTUP], Ok(DialogueTurn::Receive));
}

#[test]
fn without_a_login_any_response_but_a_refusal_will_do() {
    let (said, end) = converse(postgres(None, None, false), &[&message(b'R', &[0, 0, 0, 10])]);
    assert_eq!(end, Ok(DialogueTurn::Done));
    assert!(said[0].starts_with(b"\x00\x00\x00\x49\x00\x03\x00\x00user\0postgres\0"), "{said:?}");
    let nobody = error_of("28000", "no such role");
    assert_eq!(converse(postgres(None, None, false), &[&nobody]).1, Ok(DialogueTurn::Done));
    let starting = error_of("57P03", "the database system is starting up");
    let message = "refused the session: the database system is starting up (57P03)";
    assert_eq!(converse(postgres(None, None, false), &[&starting]).1, unfit(message));
}

#[test]
fn passwords() {
    let clear = message(b'R', &[0, 0, 0, 3]);
    let user = Some(("u", Some("secret")));
    let off = session(Some("off"));
    let password = message(b'p', b"secret\0");
    let done = Ok(DialogueTurn::Done);
    let sent = [STARTUP, &password, TERMINATE];
    check(postgres(user, None, true), &[&clear, &off], &sent, done.clone());
    let open = "asks for the password in clear text, over a connection without TLS; add `tls` to the cluster";
    check(postgres(user, None, false), &[&clear], &[STARTUP], failed(open));
    let hashed = message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]);
    // From libpq: md5(md5("secret" "u") 0x01020304).
    let inner = format!("{:x}", md5::compute(b"secretu"));
    let outer = md5::compute([inner.as_bytes(), &[1, 2, 3, 4]].concat());
    let response = message(b'p', format!("md5{outer:x}\0").as_bytes());
    check(postgres(user, None, false), &[&hashed, &off], &[STARTUP, &response, TERMINATE], done);
    let none = "asks for a password; set `password` beside `user` in the check";
    check(postgres(Some(("u", None)), None, true), &[&clear], &[STARTUP], failed(none));
    let kerberos = message(b'R', &[0, 0, 0, 7]);
    let unsupported = "asks for a kind of authentication that checks do not support; use \
                       scram-sha-256, md5, password or trust in pg_hba.conf";
    check(postgres(user, None, true), &[&kerberos], &[STARTUP], failed(unsupported));
}

#[test]
fn a_server_that_does_not_prove_itself_is_not_believed() {
    let user = Some(("u", Some("secret")));
    let offer = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let (said, end) = hold(postgres(user, None, false)(), &[&offer], 3);
    assert_eq!(end, Ok(DialogueTurn::Receive));
    let first = b"\0\0\0\x20n,,n=,r=";
    assert!(said[1].windows(first.len()).any(|part| part == first), "{:?}", said[1]);
    let without = "does not speak PostgreSQL: it sent a session without authentication";
    let skipped = [&offer[..], &session(Some("off"))].concat();
    assert_eq!(hold(postgres(user, None, false)(), &[&skipped], 5).1, failed(without));
    let wrong = [&offer[..], &message(b'R', b"\0\0\0\x0cv=AAAA")].concat();
    let signature = "does not speak PostgreSQL: it sent a wrong SCRAM signature";
    assert_eq!(hold(postgres(user, None, false)(), &[&wrong], 5).1, failed(signature));
}

#[test]
fn no_response_is_too_strange() {
    let user = Some(("u", Some("secret")));
    let good = session(Some("off"));
    told_anything(postgres(user, Some(ServerRole::Primary), true), &[&good]);
    let offer = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let server = message(b'R', b"\0\0\0\x0br=x,s=AAAA,i=4096");
    told_anything(postgres(user, None, true), &[&offer, &server, &good]);
    told_anything(postgres(None, None, true), &[&error_of("57P03", "starting")]);
    let http = "does not speak PostgreSQL: it sent a message of an impossible length";
    let (_, end) = converse(postgres(user, None, true), &[b"HTTP/1.1 400 Bad Request\r\n"]);
    assert_eq!(end, failed(http));
}
