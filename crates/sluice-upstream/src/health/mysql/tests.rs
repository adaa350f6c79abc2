use super::super::dialogue::tests::{check, converse, failed, told_anything};
use super::*;
use crate::plan::{Login, Password};

fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    [&[length, 0, 0, sequence], body].concat()
}

/// A greeting with these capabilities beyond the usual, and that plugin.
fn greeting(more: u32, plugin: &str) -> Vec<u8> {
    let capabilities =
        (CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH | more).to_le_bytes();
    let body = [
        &b"\x0a10.11.6-MariaDB\0\x01\0\0\0abcdefgh\0"[..],
        &capabilities[..2],
        &[45, 2, 0],
        &capabilities[2..],
        &[21],
        &[0; 10],
        b"ijklmnopqrst\0",
        plugin.as_bytes(),
        b"\0",
    ]
    .concat();
    packet(0, &body)
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const NATIVE_NAME: &str = "mysql_native_password";
const SHA2_NAME: &str = "caching_sha2_password";

/// The rows that are the response to the query, with that value.
fn rows(value: &str) -> Vec<u8> {
    let row = [&[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    [
        packet(1, &[1]),
        packet(2, b"\x03def\0\0\0\x12@@global.read_only\0\x0c\x3f\0\x01\0\0\0\x08\x80\0\0\0\0"),
        packet(3, &[0xfe, 0, 0, 2, 0]),
        packet(4, &row),
        packet(5, &[0xfe, 0, 0, 2, 0]),
    ]
    .concat()
}

fn mysql(
    password: Option<&str>,
    role: Option<ServerRole>,
    tls: bool,
    local: bool,
) -> impl Fn() -> MysqlDialogue {
    let password = password.map(|password| Password(password.to_owned()));
    let check = MysqlCheck { login: Login { user: "u".into(), password }, role };
    move || MysqlDialogue::new(check.clone(), tls, local)
}

fn login(sequence: u8, capabilities: u32, proof: &[u8], plugin: &str) -> Vec<u8> {
    let capabilities = capabilities
        | CLIENT_LONG_PASSWORD
        | CLIENT_PROTOCOL_41
        | CLIENT_SECURE_CONNECTION
        | CLIENT_PLUGIN_AUTH;
    let body = [
        &capabilities.to_le_bytes()[..],
        &[0, 0, 0, 1, 45],
        &[0; 23],
        b"u\0",
        &[u8::try_from(proof.len()).unwrap()],
        proof,
        plugin.as_bytes(),
        b"\0",
    ]
    .concat();
    packet(sequence, &body)
}

fn native(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    scramble(&digest::SHA1_FOR_LEGACY_USE_ONLY, password, |once| [nonce, once].concat())
}

fn sha2(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    scramble(&digest::SHA256, password, |once| [once, nonce].concat())
}

const NONCE: &[u8] = b"abcdefghijklmnopqrst";
const QUIT: &[u8] = &[1, 0, 0, 0, COM_QUIT];

fn query() -> Vec<u8> {
    packet(0, b"\x03SELECT @@global.read_only")
}

#[test]
fn a_login_and_the_role() {
    let hello = greeting(0, NATIVE_NAME);
    let ok = packet(2, OK);
    let done = || Ok(DialogueTurn::Done);
    let bare = login(1, 0, b"", NATIVE_NAME);
    check(mysql(None, None, false, false), &[&hello, &ok], &[&bare, QUIT], done());
    let with = login(1, 0, &native(b"secret", NONCE), NATIVE_NAME);
    check(mysql(Some("secret"), None, false, false), &[&hello, &ok], &[&with, QUIT], done());
    let primary = mysql(None, Some(ServerRole::Primary), false, false);
    let replica = mysql(None, Some(ServerRole::Replica), false, false);
    let asked = [&bare[..], &query(), QUIT];
    check(&primary, &[&hello, &ok, &rows("0")], &asked, done());
    check(&primary, &[&hello, &ok, &rows("OFF")], &asked, done());
    check(&replica, &[&hello, &ok, &rows("1")], &asked, done());
    let demoted = Err(CheckError::Unfit("it is a replica, not a primary".into()));
    check(&primary, &[&hello, &ok, &rows("1")], &asked, demoted);
    let primary_now = Err(CheckError::Unfit("it is a primary, not a replica".into()));
    check(&replica, &[&hello, &ok, &rows("0")], &asked, primary_now);
}

#[test]
fn plugins() {
    let done = || Ok(DialogueTurn::Done);
    let secret = || mysql(Some("secret"), None, false, false);
    // The server knows the password from its cache.
    let hello = greeting(0, SHA2_NAME);
    let with = login(1, 0, &sha2(b"secret", NONCE), SHA2_NAME);
    let known = [packet(2, &[1, 3]), packet(3, OK)].concat();
    check(secret(), &[&hello, &known], &[&with, QUIT], done());
    let unknown = packet(2, &[1, 4]);
    let asks =
        "asks for the password itself, over a connection without TLS; add `tls` to the cluster";
    check(secret(), &[&hello, &unknown], &[&with], failed(asks));
    // Over a unix socket it may be sent.
    let local = mysql(Some("secret"), None, false, true);
    let clear = packet(3, b"secret\0");
    check(&local, &[&hello, &unknown, &packet(4, OK)], &[&with, &clear, QUIT], done());
    // A switch to another plugin, with another nonce.
    let other = b"01234567890123456789";
    let switch = [&b"\xfemysql_native_password\0"[..], other, b"\0"].concat();
    let again = packet(3, &native(b"secret", other));
    let sent = [&with[..], &again, QUIT];
    check(secret(), &[&hello, &packet(2, &switch), &packet(4, OK)], &sent, done());
    let wanted = packet(2, b"\xfemysql_clear_password\0");
    check(secret(), &[&hello, &wanted], &[&with], failed(asks));
    let ed25519 = packet(2, b"\xfeclient_ed25519\x00xyz");
    let message = "asks for the authentication plugin `client_ed25519`, which checks do not support; \
                   give the user mysql_native_password or caching_sha2_password";
    check(secret(), &[&hello, &ed25519], &[&with], failed(message));
}

#[test]
fn over_tls_the_login_follows_the_handshake() {
    let hello = greeting(CLIENT_SSL, SHA2_NAME);
    let with = login(2, CLIENT_SSL, &sha2(b"secret", NONCE), SHA2_NAME);
    let request = packet(1, &with[4..36]);
    let clear = packet(4, b"secret\0");
    let replies = [&hello[..], &packet(3, &[1, 4]), &packet(5, OK)];
    let sent = [&request[..], b"<tls>", &with, &clear, QUIT];
    check(mysql(Some("secret"), None, true, false), &replies, &sent, Ok(DialogueTurn::Done));
    let without = "does not offer TLS, which the cluster has";
    let plain = greeting(0, SHA2_NAME);
    check(mysql(None, None, true, false), &[&plain], &[], failed(without));
    // What arrives in the clear after the request could be anybody's.
    let early = [&hello[..], &packet(3, OK)].concat();
    let (_, end) = super::super::dialogue::tests::hold(
        mysql(None, None, true, false)(),
        &[&early],
        usize::MAX,
    );
    assert_eq!(end, failed("does not speak MySQL: it sent more before the TLS handshake"));
}

#[test]
fn errors_of_the_server() {
    let many = packet(0, b"\xff\x10\x04Too many connections");
    let message = "refused: Too many connections (error 1040)";
    check(mysql(None, None, false, false), &[&many], &[], failed(message));
    let denied = packet(2, b"\xff\x15\x04#28000Access denied");
    let bare = login(1, 0, b"", NATIVE_NAME);
    let message = "refused: Access denied (error 1045)";
    let hello = greeting(0, NATIVE_NAME);
    check(mysql(None, None, false, false), &[&hello, &denied], &[&bare], failed(message));
    let shutdown = packet(2, b"\xff\x1d\x04#08S01Server shutdown");
    let message = "refused: Server shutdown (error 1053)";
    let unfit = Err(CheckError::Unfit(message.into()));
    check(mysql(None, None, false, false), &[&hello, &shutdown], &[&bare], unfit);
}

#[test]
fn no_packet_is_too_strange() {
    let good = [greeting(CLIENT_SSL, SHA2_NAME), packet(2, &[1, 3]), packet(3, OK), rows("0")];
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    for tls in [false, true] {
        told_anything(mysql(Some("secret"), Some(ServerRole::Primary), tls, false), &good);
    }
    let (_, end) = converse(mysql(None, None, false, false), &[b"HTTP/1.1 400 Bad Request\r\n"]);
    assert_eq!(end, failed("does not speak MySQL: it sent a packet that is too long"));
}
