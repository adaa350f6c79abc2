use super::*;

use proptest::prelude::*;

fn keys(text: &str) -> SessionKeys {
    SessionKeys::parse(text.as_bytes()).unwrap()
}

const ONE: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";

#[test]
fn a_token_leads_back_to_its_endpoint_under_its_key_only() {
    let (one, other) = (keys(ONE), keys(OTHER));
    let endpoints = ["127.0.0.1:80", "127.0.0.1:81", "[::1]:80", "unix:///run/a.sock"];
    for name in endpoints {
        let id = EndpointId::of(name);
        let token = one.token(id);
        assert_eq!(one.id_of(token.as_bytes()), Some(id));
        assert_eq!(other.id_of(token.as_bytes()), None);
        // A new key, with the old one for the tokens of before.
        let both = keys(&format!("{OTHER}\n{ONE}\n"));
        assert_eq!(both.id_of(token.as_bytes()), Some(id));
        assert_ne!(both.token(id), token);
        assert!(!token.contains(&id.to_string()), "the ID is masked");
    }
    let tokens: std::collections::HashSet<String> =
        endpoints.iter().map(|name| one.token(EndpointId::of(name))).collect();
    assert_eq!(tokens.len(), endpoints.len());
}

#[test]
fn no_other_text_is_a_token() {
    let one = keys(ONE);
    let token = one.token(EndpointId::of("127.0.0.1:80"));
    assert_eq!(one.id_of(token.to_uppercase().as_bytes()), None);
    for cut in 0..token.len() {
        assert_eq!(one.id_of(&token.as_bytes()[..cut]), None);
    }
    for place in 0..token.len() {
        for other in b"0123456789abcdef \xff" {
            let mut changed = token.clone().into_bytes();
            if changed[place] != *other {
                changed[place] = *other;
                assert_eq!(one.id_of(&changed), None, "{place}");
            }
        }
    }
    assert_eq!(one.id_of(format!("{token}0").as_bytes()), None);
}

#[test]
fn keys_have_a_least_length() {
    for (text, expected) in [
        ("", "it has no key"),
        ("\n \n", "it has no key"),
        ("short", "key 1 has fewer than 16 bytes"),
        ("0123456789abcdef\nshort\n", "key 2 has fewer than 16 bytes"),
    ] {
        let error = SessionKeys::parse(text.as_bytes()).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains("short"), "{error}");
    }
    assert_eq!(keys("0123456789abcdef\r\n\r\nfedcba9876543210").0.len(), 2);
    assert_ne!(
        SessionKeys::random().token(EndpointId(1)),
        SessionKeys::random().token(EndpointId(1))
    );
}

#[test]
fn a_cookie_has_the_attributes_asked_for() {
    let plain = StickyCookie {
        name: Spanned { value: "SRV".into(), span: sluice_core::Span::default() },
        ttl: OrZero(std::time::Duration::ZERO),
        path: "/".into(),
        secure: None,
        same_site: SameSite::Lax,
    };
    let long = StickyCookie {
        ttl: OrZero(std::time::Duration::from_secs(90)),
        path: "/shop".into(),
        secure: Some(false),
        same_site: SameSite::Strict,
        ..plain.clone()
    };
    let anywhere = StickyCookie { same_site: SameSite::Always, ..plain.clone() };
    for (cookie, is_https, expected) in [
        (&plain, false, "SRV=t; Path=/; HttpOnly; SameSite=Lax"),
        (&plain, true, "SRV=t; Path=/; HttpOnly; SameSite=Lax; Secure"),
        (&long, true, "SRV=t; Path=/shop; HttpOnly; Max-Age=90; SameSite=Strict"),
        (&anywhere, false, "SRV=t; Path=/; HttpOnly; SameSite=None; Secure"),
    ] {
        let mut head = Head::response(200);
        Carrier::Cookie(cookie.clone()).write(&mut head, "t", is_https);
        assert_eq!(head.get(Known::SetCookie), Some(expected.as_bytes()));
    }
}

proptest! {
    #[test]
    fn random_bytes_are_no_token(text in prop::collection::vec(any::<u8>(), 0..60)) {
        prop_assert_eq!(keys(ONE).id_of(&text), None);
    }

    #[test]
    fn every_id_has_a_token(id: u32) {
        let one = keys(ONE);
        prop_assert_eq!(one.id_of(one.token(EndpointId(id)).as_bytes()), Some(EndpointId(id)));
    }
}
