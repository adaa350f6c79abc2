//! Logins: no cookie, query or URL panics; what opens was sealed, what is read is written alike, and no path leaves the
//! origin.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_l4::filters::Content as _;
use sluice_l7::filters::oidc::cookies::{LoginCookies, SentCookies};
use sluice_l7::filters::oidc::discovery::ProviderUrl;
use sluice_l7::filters::oidc::flow::{LoginFlow, flow_name, local_path};
use sluice_l7::filters::oidc::seal::CookieKeys;
use sluice_l7::filters::oidc::session::LoginSession;
use sluice_l7::form;

static KEYS: LazyLock<CookieKeys> = LazyLock::new(|| {
    let keys = CookieKeys::parse(b"a key of at least thirty-two bytes");
    keys.unwrap_or_else(|error| panic!("{error}"))
});

fuzz_target!(|input: (&[u8], &str)| {
    let (bytes, text) = input;
    assert_eq!(KEYS.open(b"session", bytes), None, "nobody has sealed it");
    let cookies = LoginCookies { name: "s".into(), domain: None };
    let mut head = Head::request("GET", "https", "a.test", "/");
    head.append(b"cookie", bytes);
    let sent = SentCookies::take(&mut head, [&cookies].into_iter());
    let _ = cookies.session(&sent, true, 1 << 14);
    let _ = cookies.flows(&sent, true).count();
    let mut rest = head.clone();
    assert!(SentCookies::take(&mut rest, [&cookies].into_iter()).is_empty(), "all were taken");
    // What is sealed and sent comes back.
    let sealed = KEYS.seal(b"session", bytes);
    assert_eq!(KEYS.open(b"session", sealed.as_bytes()).as_deref(), Some(bytes));
    if let Some(session) = LoginSession::of_bytes(bytes) {
        assert_eq!(session.to_bytes(), bytes);
    }
    if let Some(flow) = LoginFlow::of_bytes(bytes) {
        assert_eq!(flow.to_bytes(), bytes);
    }
    let path = local_path(text);
    assert!(path.starts_with('/') && !path.starts_with("//") && !path.contains('\\'));
    let _ = flow_name(text);
    let _ = form::parameter(text, "state");
    if let Ok(url) = ProviderUrl::parse(text) {
        assert!(!url.host().is_empty() && url.target().starts_with('/'));
    }
});
