use serde_json::json;
use sluice_l4::filters::Content as _;
use sluice_testkit::tokens::{SigningKey, key_set};

use super::*;

const NOW: Duration = Duration::from_secs(1_000_000);

const MAX: usize = 16 << 10;

fn rules() -> TokenRules {
    TokenRules {
        issuer: Some("https://id.test".into()),
        audiences: Some(["shop".into(), "api".into()].into()),
        algorithms: SigningAlgorithm::PUBLIC.into(),
        skew: Duration::from_secs(60),
        endless: false,
    }
}

struct Bench {
    key: SigningKey,
    keys: KeySet,
    rules: TokenRules,
}

impl Bench {
    fn new() -> Self {
        let key = SigningKey::new("ES256", "k");
        let keys = KeySet::parse(key_set([&key]).as_bytes()).unwrap();
        Self { key, keys, rules: rules() }
    }

    fn judge(&self, token: &str) -> Result<CheckedToken, TokenRefusal> {
        parse(token.as_bytes(), MAX)?.check(&self.rules, &self.keys, NOW)
    }

    #[track_caller]
    fn check(&self, token: &str, expected: Option<TokenRefusal>) {
        assert_eq!(self.judge(token).err(), expected, "{token}");
    }

    /// A token whose claims are sound but for these.
    fn with(&self, claims: &serde_json::Value) -> String {
        let mut all =
            json!({ "iss": "https://id.test", "aud": "shop", "exp": 1_000_100, "sub": "a" });
        for (name, value) in claims.as_object().unwrap() {
            match value {
                serde_json::Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
                value => all[name] = value.clone(),
            }
        }
        self.key.token(&all)
    }

    /// A token with this header.
    fn headed(&self, header: &str) -> String {
        let claims = r#"{"iss":"https://id.test","aud":"shop","exp":1000100}"#;
        self.key.token_of(header, claims)
    }
}

#[test]
fn times_are_judged_to_the_second() {
    let bench = Bench::new();
    let (expired, early) = (Some(TokenRefusal::Expired), Some(TokenRefusal::Early));
    for (claims, expected) in [
        (json!({ "exp": 1_000_001 }), None),
        // Within the skew of a minute; RFC 7519 §4.1.4: not on or after the time.
        (json!({ "exp": 999_941 }), None),
        (json!({ "exp": 999_940 }), expired),
        (json!({ "exp": 999_940.9 }), expired),
        (json!({ "exp": 999_941.0 }), None),
        (json!({ "exp": 0 }), expired),
        (json!({ "exp": -1 }), expired),
        (json!({ "exp": 1e300 }), None),
        (json!({ "exp": -1e300 }), expired),
        (json!({ "exp": 18_446_744_073_709_551_615_u64 }), None),
        (json!({ "exp": i64::MIN }), expired),
        (json!({ "exp": null }), expired),
        (json!({ "nbf": 1_000_060 }), None),
        (json!({ "nbf": 1_000_061 }), early),
        (json!({ "nbf": 1_000_060.1 }), early),
        (json!({ "nbf": 1e300 }), early),
        (json!({ "nbf": -5 }), None),
        (json!({ "exp": "1000100" }), Some(TokenRefusal::Malformed)),
        (json!({ "exp": [1_000_100] }), Some(TokenRefusal::Malformed)),
        (json!({ "exp": true }), Some(TokenRefusal::Malformed)),
        (json!({ "nbf": "0" }), Some(TokenRefusal::Malformed)),
    ] {
        bench.check(&bench.with(&claims), expected);
    }
    let endless = Bench { rules: TokenRules { endless: true, ..rules() }, ..bench };
    endless.check(&endless.with(&json!({ "exp": null })), None);
    endless.check(&endless.with(&json!({ "exp": 1 })), expired);
}

#[test]
fn issuer_and_audience_must_be_those_of_the_provider() {
    let bench = Bench::new();
    let (issuer, audience) = (Some(TokenRefusal::Issuer), Some(TokenRefusal::Audience));
    for (claims, expected) in [
        (json!({ "iss": "https://id.test/" }), issuer),
        (json!({ "iss": "HTTPS://ID.TEST" }), issuer),
        (json!({ "iss": ["https://id.test"] }), issuer),
        (json!({ "iss": null }), issuer),
        (json!({ "aud": "api" }), None),
        (json!({ "aud": ["other", "shop"] }), None),
        (json!({ "aud": "Shop" }), audience),
        (json!({ "aud": "shop api" }), audience),
        (json!({ "aud": "" }), audience),
        (json!({ "aud": [] }), audience),
        (json!({ "aud": null }), audience),
        // Only strings, and no list within a list.
        (json!({ "aud": [["shop"]] }), Some(TokenRefusal::Malformed)),
        (json!({ "aud": ["shop", 7] }), Some(TokenRefusal::Malformed)),
        (json!({ "aud": ["shop", null] }), Some(TokenRefusal::Malformed)),
        (json!({ "aud": { "shop": true } }), Some(TokenRefusal::Malformed)),
        (json!({ "aud": true }), Some(TokenRefusal::Malformed)),
    ] {
        bench.check(&bench.with(&claims), expected);
    }
    let any = TokenRules { issuer: None, audiences: None, ..rules() };
    let any = Bench { rules: any, ..bench };
    any.check(&any.with(&json!({ "iss": null, "aud": null })), None);
    any.check(&any.with(&json!({ "iss": "x", "aud": ["y"] })), None);
}

#[test]
fn a_header_cannot_choose_how_it_is_verified() {
    let bench = Bench::new();
    let algorithm = Some(TokenRefusal::Algorithm);
    for (header, expected) in [
        (r#"{"alg":"ES256","kid":"k"}"#, None),
        (r#"{"alg":"ES256"}"#, None),
        (r#"{"alg":"ES256","kid":"k","typ":"at+jwt","cty":"x","extra":[1]}"#, None),
        (r#"{"alg":"none"}"#, algorithm),
        (r#"{"alg":"None"}"#, algorithm),
        (r#"{"alg":"","kid":"k"}"#, algorithm),
        (r#"{"alg":"es256","kid":"k"}"#, algorithm),
        (r#"{"alg":"ES256 ","kid":"k"}"#, algorithm),
        (r#"{"alg":"HS256","kid":"k"}"#, algorithm),
        (r#"{"alg":"ES384","kid":"k"}"#, Some(TokenRefusal::Key)),
        (r#"{"alg":"RS256","kid":"k"}"#, Some(TokenRefusal::Key)),
        (r#"{"kid":"k"}"#, Some(TokenRefusal::Malformed)),
        (r#"{"alg":["ES256"],"kid":"k"}"#, Some(TokenRefusal::Malformed)),
        (r#"{"alg":null,"kid":"k"}"#, Some(TokenRefusal::Malformed)),
        // `kid` is a name to compare, never a path or a query.
        (r#"{"alg":"ES256","kid":"../../dev/null"}"#, Some(TokenRefusal::Key)),
        (r#"{"alg":"ES256","kid":"k' OR '1'='1"}"#, Some(TokenRefusal::Key)),
        (r#"{"alg":"ES256","kid":""}"#, Some(TokenRefusal::Key)),
        (r#"{"alg":"ES256","kid":"k\u0000"}"#, Some(TokenRefusal::Key)),
        (r#"{"alg":"ES256","kid":7}"#, Some(TokenRefusal::Malformed)),
        (r#"{"alg":"ES256","kid":["k"]}"#, Some(TokenRefusal::Malformed)),
        // Keys that a token brings along are not looked at.
        (
            r#"{"alg":"ES256","kid":"x","jwk":{"kty":"oct","k":"AA"},"jku":"http://evil.test/"}"#,
            Some(TokenRefusal::Key),
        ),
        (r#"{"alg":"ES256","kid":"k","crit":["exp"],"exp":1}"#, Some(TokenRefusal::Critical)),
        (r#"{"alg":"ES256","kid":"k","crit":[]}"#, Some(TokenRefusal::Critical)),
        (r#"{"alg":"ES256","kid":"k","crit":null}"#, Some(TokenRefusal::Critical)),
        (r#"{"alg":"ES256","kid":"k","b64":false}"#, Some(TokenRefusal::Critical)),
        (r#"{"alg":"none","alg":"ES256","kid":"k"}"#, Some(TokenRefusal::Malformed)),
        (r#"["alg"]"#, Some(TokenRefusal::Malformed)),
        ("{", Some(TokenRefusal::Malformed)),
        ("", Some(TokenRefusal::Malformed)),
    ] {
        bench.check(&bench.headed(header), expected);
    }
    let only = TokenRules { algorithms: [SigningAlgorithm::Rs256].into(), ..rules() };
    let only = Bench { rules: only, ..bench };
    only.check(&only.headed(r#"{"alg":"ES256","kid":"k"}"#), algorithm);
}

#[test]
fn a_public_key_is_no_shared_secret() {
    // Signed with the text of the public key as an HMAC secret, as every client could.
    let rsa = SigningKey::new("RS256", "k");
    let set = key_set([&rsa]);
    let keys = KeySet::parse(set.as_bytes()).unwrap();
    let all = SigningAlgorithm::PUBLIC.into_iter().chain(SigningAlgorithm::SHARED).collect();
    let bench = Bench { keys, rules: TokenRules { algorithms: all, ..rules() }, key: rsa };
    for secret in [set, bench.key.jwk().to_string(), bench.key.jwk()["n"].as_str().unwrap().into()]
    {
        let forger = Bench { key: SigningKey::new("HS256", &secret), ..Bench::new() };
        bench.check(&forger.headed(r#"{"alg":"HS256","kid":"k"}"#), Some(TokenRefusal::Key));
        bench.check(&forger.headed(r#"{"alg":"RS256","kid":"k"}"#), Some(TokenRefusal::Signature));
    }
}

#[test]
fn claims_have_one_reading() {
    let bench = Bench::new();
    let header = r#"{"alg":"ES256","kid":"k"}"#;
    let sound = r#""iss":"https://id.test","aud":"shop","exp":1000100"#;
    for claims in [
        format!(r#"{{{sound},"exp":1}}"#),
        format!(r#"{{{sound},"sub":"a","sub":"b"}}"#),
        format!(r#"{{{sound},"s\u0075b":"a","sub":"b"}}"#),
        format!(r#"{{{sound},"realm":{{"role":"a","role":"b"}}}}"#),
        format!("{{{sound}}}x"),
        format!("{{{sound},}}"),
        format!("[{{{sound}}}]"),
        "null".into(),
        String::new(),
        format!("{{{sound},\"x\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)),
    ] {
        bench.check(&bench.key.token_of(header, &claims), Some(TokenRefusal::Malformed));
    }
    bench.check(&bench.key.token_of(header, &format!(" {{ {sound} }} ")), None);
}

#[test]
fn a_token_has_one_spelling() {
    let bench = Bench::new();
    let token = bench.with(&json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    bench.check(&token, None);
    for other in [
        format!("{token}="),
        format!("{header}=.{claims}.{signature}"),
        format!("{token}."),
        format!("{token}.x"),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!(".{claims}.{signature}"),
        format!("{header}..{signature}"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{header}.{claims}.{signature}.x.y"),
        header.into(),
        "..".into(),
        "....".into(),
        String::new(),
    ] {
        let judged = bench.judge(&other).err();
        assert!(
            matches!(judged, Some(TokenRefusal::Malformed | TokenRefusal::Signature)),
            "{other}: {judged:?}"
        );
    }
    // 64 bytes leave four bits over in the last letter, which must be zero.
    let (last, alphabet) =
        (signature.len() - 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
    let place = alphabet.find(&signature[last..]).unwrap();
    assert_eq!(place % 16, 0);
    let other = &alphabet[place + 1..=place + 1];
    bench.check(
        &format!("{header}.{claims}.{}{other}", &signature[..last]),
        Some(TokenRefusal::Malformed),
    );
    // The other alphabet of Base64.
    let standard = token.replace('-', "+").replace('_', "/");
    if standard != token {
        bench.check(&standard, Some(TokenRefusal::Malformed));
    }
}

#[test]
fn a_token_that_is_changed_or_cut_anywhere_is_refused() {
    let bench = Bench::new();
    let token = bench.with(&json!({}));
    for end in 0..token.len() {
        assert!(bench.judge(&token[..end]).is_err(), "cut at {end}");
        let mut changed = token.clone().into_bytes();
        changed[end] = if changed[end] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(bench.judge(&changed).is_err(), "changed at {end}");
    }
}

#[test]
fn a_large_token_is_refused_before_it_is_read() {
    let bench = Bench::new();
    let token = bench.with(&json!({ "x": "y".repeat(9000) }));
    let judge = |max| parse(token.as_bytes(), max).map(|_| ());
    assert_eq!((judge(token.len()), judge(token.len() - 1)), (Ok(()), Err(TokenRefusal::TooLarge)));
}

#[test]
fn random_bytes_are_refused() {
    let bench = Bench::new();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let length = random.usize(..80);
        let bytes: Vec<u8> = std::iter::repeat_with(|| b"eyJ.{}\"-_A=\x00\xff"[random.usize(..13)])
            .take(length)
            .collect();
        let judged =
            parse(&bytes, MAX).and_then(|token| token.check(&bench.rules, &bench.keys, NOW));
        assert!(judged.is_err(), "{bytes:?}");
    }
}

#[test]
fn what_is_accepted_says_what_is_required_however_it_is_written() {
    let key = SigningKey::new("EdDSA", "k");
    let keys = KeySet::parse(key_set([&key]).as_bytes()).unwrap();
    let rules = TokenRules { skew: Duration::ZERO, ..rules() };
    let header = r#"{"alg":"EdDSA"}"#;
    let claims =
        r#"{"iss":"https://id.test","aud":["shop"],"exp":1000001,"nbf":1,"a":{"b":[1.5,null]}}"#;
    let mut random = fastrand::Rng::with_seed(11);
    let mut changed = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        for _ in 0..random.usize(..3) {
            let place = random.usize(..letters.len());
            let letter = char::from(*random.choice(b"{}[]\",:.\\u0019eE-+ainx").unwrap());
            match random.u8(..3) {
                0 => letters[place] = letter,
                1 => letters.insert(place, letter),
                _ => drop(letters.remove(place)),
            }
        }
        String::from_iter(letters)
    };
    let mut accepted = 0;
    for _ in 0..10_000 {
        let token = key.token_of(&changed(header), &changed(claims));
        let checked = parse(token.as_bytes(), MAX).and_then(|own| own.check(&rules, &keys, NOW));
        let Ok(CheckedToken { claims, validity, .. }) = checked else { continue };
        accepted += 1;
        assert_eq!(claims.get("iss").and_then(Json::text), Some("https://id.test"));
        assert!(claims.get("aud").is_some_and(|aud| aud.to_string().contains("shop")));
        assert!(claims.get("exp").and_then(Json::number).is_some_and(|exp| exp >= 1_000_001.0));
        assert_eq!(validity.judge(NOW), Ok(()));
        let printed = claims.to_string();
        assert_eq!(Json::parse(printed.as_bytes()).unwrap().to_string(), printed);
    }
    assert!(accepted > 500, "{accepted}");
}

#[test]
fn a_refusal_says_what_rfc_6750_asks_for() {
    let challenge = |refusal: TokenRefusal| {
        let reply = refusal.reply("api");
        let fields = reply.fields.iter().find(|(name, _)| name == "www-authenticate");
        (reply.status, fields.map(|(_, value)| value.clone()).unwrap_or_default())
    };
    assert_eq!(challenge(TokenRefusal::Missing), (401, "Bearer realm=\"api\"".into()));
    let expired = "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"the token has expired\"";
    assert_eq!(challenge(TokenRefusal::Expired), (401, expired.into()));
    let (status, several) = challenge(TokenRefusal::Several);
    assert!(status == 400 && several.contains("error=\"invalid_request\""), "{several}");
    assert_eq!(challenge(TokenRefusal::Unavailable), (503, String::new()));
    assert_eq!(challenge(TokenRefusal::Provider), (500, String::new()));
}
