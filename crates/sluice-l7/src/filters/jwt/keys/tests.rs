use sluice_testkit::tokens::{SigningKey, key_set};

use super::*;

const PUBLIC: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

fn set(text: &str) -> Result<KeySet, String> {
    KeySet::parse(text.as_bytes())
}

#[test]
fn what_a_key_of_every_kind_has_signed_is_valid_for_its_algorithm_only() {
    let keys: Vec<SigningKey> = PUBLIC.iter().map(|name| SigningKey::new(name, name)).collect();
    let set = set(&key_set(&keys)).unwrap();
    for key in &keys {
        let own = SigningAlgorithm::named(key.algorithm).unwrap();
        let signature = key.sign(b"message");
        let judge = |algorithm, id, message: &[u8], signature: &[u8]| {
            set.judge(algorithm, id, message, signature)
        };
        let id = Some(key.algorithm);
        assert_eq!(judge(own, id, b"message", &signature), SignatureVerdict::Valid, "{key:?}");
        assert_eq!(judge(own, None, b"message", &signature), SignatureVerdict::Valid);
        assert_eq!(judge(own, id, b"messagE", &signature), SignatureVerdict::Invalid);
        assert_eq!(judge(own, Some("other"), b"message", &signature), SignatureVerdict::NoKey);
        assert_eq!(judge(own, id, b"message", &[]), SignatureVerdict::Invalid);
        for cut in [1, signature.len() - 1] {
            assert_eq!(judge(own, id, b"message", &signature[..cut]), SignatureVerdict::Invalid);
        }
        for other in SigningAlgorithm::PUBLIC.into_iter().chain(SigningAlgorithm::SHARED) {
            let verdict = judge(other, id, b"message", &signature);
            assert_eq!(verdict == SignatureVerdict::Valid, other == own, "{key:?} as {other:?}");
        }
    }
}

#[test]
fn a_signature_of_zeros_is_not_valid() {
    // The "psychic" signature of ECDSA.
    let key = SigningKey::new("ES256", "a");
    let set = set(&key_set([&key])).unwrap();
    let verdict = set.judge(SigningAlgorithm::Es256, Some("a"), b"message", &[0; 64]);
    assert_eq!(verdict, SignatureVerdict::Invalid);
}

#[test]
fn a_secret_is_for_shared_algorithms_and_long_enough() {
    let text = "0123456789abcdef0123456789abcdef";
    let secret = SharedSecret::parse(format!("{text}\n").as_bytes()).unwrap().0;
    for name in ["HS256", "HS384", "HS512"] {
        let signature = SigningKey::new(name, text).sign(b"message");
        for algorithm in SigningAlgorithm::SHARED.into_iter().chain(SigningAlgorithm::PUBLIC) {
            let verdict = secret.judge(algorithm, Some("any"), b"message", &signature);
            assert_eq!(verdict == SignatureVerdict::Valid, algorithm.word() == name, "{name}");
        }
    }
    let short = SharedSecret::parse(&text.as_bytes()[1..]).map(|_| ()).unwrap_err();
    assert!(short.starts_with("it has fewer than 32 bytes"), "{short}");
}

#[test]
fn a_set_has_only_public_keys_that_are_for_signatures() {
    let ec = SigningKey::new("ES256", "a").jwk();
    let with = |name: &str, value: serde_json::Value| {
        let mut key = ec.clone();
        key[name] = value;
        format!("{{\"keys\":[{key}]}}")
    };
    assert!(set(&with("use", "sig".into())).is_ok());
    assert!(set(&with("key_ops", serde_json::json!(["verify"]))).is_ok());
    assert!(set(&with("alg", "ES256".into())).is_ok());
    let none = "it has no key that can be used; key 1 ";
    let rsa = |n: &[u8], e: &[u8]| {
        let (n, e) = (BASE64URL_NOPAD.encode(n), BASE64URL_NOPAD.encode(e));
        format!("{{\"keys\":[{{\"kty\":\"RSA\",\"n\":\"{n}\",\"e\":\"{e}\"}}]}}")
    };
    for (text, problem) in [
        (with("use", "enc".into()), format!("{none}is not for signatures")),
        (
            with("key_ops", serde_json::json!(["sign"])),
            format!("{none}is not for verifying signatures"),
        ),
        (
            with("alg", "ES384".into()),
            format!("{none}is for an algorithm that does not fit its type"),
        ),
        (
            with("alg", "HS256".into()),
            format!("{none}is for an algorithm that does not fit its type"),
        ),
        (with("crv", "secp256k1".into()), format!("{none}is on a curve that is not known")),
        (with("crv", "P-384".into()), format!("{none}is malformed")),
        (with("x", "AA==".into()), format!("{none}lacks a part or has one that is not base64url")),
        (with("x", BASE64URL_NOPAD.encode(&[7; 32]).into()), format!("{none}is malformed")),
        (
            with("kty", "oct".into()),
            format!("{none}is symmetric: that is not a public key, but a secret; use `secret`"),
        ),
        (with("kty", "dsa".into()), format!("{none}is of a type that is not known")),
        (rsa(&[0xff; 128], &[1, 0, 1]), format!("{none}has a size outside 2048 to 8192 bits")),
        (rsa(&[0xff; 1100], &[1, 0, 1]), format!("{none}has a size outside 2048 to 8192 bits")),
        (rsa(&[0xff; 256], &[]), format!("{none}is malformed")),
        (rsa(&[], &[1, 0, 1]), format!("{none}has a size outside 2048 to 8192 bits")),
        ("{\"keys\":[]}".into(), "it has no key".into()),
        ("{}".into(), "it is not a JSON Web Key Set: there is no array `keys`".into()),
        ("[]".into(), "it is not a JSON Web Key Set: there is no array `keys`".into()),
        ("{\"keys\":[7]}".into(), format!("{none}is of a type that is not known")),
        ("<html>".into(), "it is not JSON (line 1, column 1)".into()),
        (format!("{{\"keys\":[{}7]}}", "7,".repeat(KEYS_MAX)), "it has more than 256 keys".into()),
    ] {
        assert_eq!(set(&text).map(|_| ()).unwrap_err(), problem, "{text}");
    }
}

#[test]
fn what_cannot_be_used_is_left_out_and_the_rest_of_the_set_counts() {
    let (ec, shared) = (SigningKey::new("ES256", "a"), SigningKey::new("HS256", "b"));
    let set = set(&key_set([&shared, &ec])).unwrap();
    let signed = |key: &SigningKey| key.sign(b"message");
    let es = set.judge(SigningAlgorithm::Es256, Some("a"), b"message", &signed(&ec));
    assert_eq!(es, SignatureVerdict::Valid);
    // A symmetric key that stands among public ones is known to all.
    let hs = set.judge(SigningAlgorithm::Hs256, Some("b"), b"message", &signed(&shared));
    assert_eq!(hs, SignatureVerdict::NoKey);
}

#[test]
fn an_rsa_number_may_begin_with_the_zero_of_its_sign() {
    let key = SigningKey::new("RS256", "a");
    let mut jwk = key.jwk();
    let n = BASE64URL_NOPAD.decode(jwk["n"].as_str().unwrap().as_bytes()).unwrap();
    jwk["n"] = BASE64URL_NOPAD.encode(&[&[0], n.as_slice()].concat()).into();
    let set = set(&format!("{{\"keys\":[{jwk}]}}")).unwrap();
    let verdict = set.judge(SigningAlgorithm::Rs256, None, b"message", &key.sign(b"message"));
    assert_eq!(verdict, SignatureVerdict::Valid);
}

#[test]
fn a_token_without_an_id_has_only_some_keys_tried() {
    let keys: Vec<_> = (0..20).map(|n| SigningKey::new("EdDSA", &n.to_string())).collect();
    let set = set(&key_set(&keys)).unwrap();
    let judge = |key: &SigningKey, id| {
        set.judge(SigningAlgorithm::EdDsa, id, b"message", &key.sign(b"message"))
    };
    assert_eq!(judge(&keys[TRIES_MAX - 1], None), SignatureVerdict::Valid);
    assert_eq!(judge(&keys[TRIES_MAX], None), SignatureVerdict::Invalid);
    assert_eq!(judge(&keys[19], Some("19")), SignatureVerdict::Valid);
}
