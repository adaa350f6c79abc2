//! Tokens: no input panics; what is accepted says what is required of it, however it is written.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use sluice_l4::filters::Content as _;
use sluice_l7::filters::jwt::keys::{KeySet, SharedSecret, SigningAlgorithm};
use sluice_l7::filters::jwt::token::{TokenRules, parse};
use sluice_l7::json::Json;

const SECRET: &[u8] = b"a secret of at least 32 bytes, ok";

const NOW: Duration = Duration::from_secs(1_000_000);

static RULES: LazyLock<TokenRules> = LazyLock::new(|| TokenRules {
    issuer: Some("i".into()),
    audiences: Some(["a".into()].into()),
    algorithms: [SigningAlgorithm::Hs256].into(),
    skew: Duration::ZERO,
    endless: false,
});

static KEYS: LazyLock<SharedSecret> =
    LazyLock::new(|| SharedSecret::parse(SECRET).unwrap_or_else(|error| panic!("{error}")));

static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, SECRET));

fuzz_target!(|input: (&[u8], &[u8], &[u8])| {
    let (header, claims, other) = input;
    // As it is, and as a set of keys.
    let _ = parse(other, 16 << 10).map(|token| token.check(&RULES, &KEYS.0, NOW));
    let _ = KeySet::parse(other);
    // With a signature that is valid, so that everything else is looked at.
    let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = hmac::sign(&KEY, signed.as_bytes());
    let token = format!("{signed}.{}", part(signature.as_ref()));
    let Ok(parsed) = parse(token.as_bytes(), 16 << 10) else { return };
    if let Ok(checked) = parsed.check(&RULES, &KEYS.0, NOW) {
        let claims = &checked.claims;
        assert_eq!(claims.get("iss").and_then(Json::text), Some("i"));
        assert!(claims.get("exp").and_then(Json::number).is_some_and(|exp| exp >= 1_000_001.0));
        assert!(checked.validity.judge(NOW).is_ok());
        // What is printed is JSON that prints the same.
        let printed = claims.to_string();
        let again = Json::parse(printed.as_bytes()).map(|json| json.to_string());
        assert_eq!(again.as_ref(), Ok(&printed));
        let path = std::str::from_utf8(other).unwrap_or_default();
        let _ = claims.at(path);
    }
});
