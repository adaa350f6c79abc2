//! Public keys and signatures.
//!
//! Owns: which keys and hashes there are. Refuses to know: what is signed. Keeps: a key is checked when it is imported;
//! what cannot be verified is never taken for valid.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use mlua::{Lua, MultiValue, Value};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Natives, cut};
use crate::args::{Args, OpError, OpResult, one};

const RSA: &str = "1.2.840.113549.1.1.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";

/// What verifying a signature costs, in instructions.
const PRICE: u64 = 20_000;

/// The kind of a key, and what of it the library wants.
struct ImportedKey {
    kind: &'static str,
    bytes: Vec<u8>,
}

fn parse(der: &[u8]) -> Result<ImportedKey, OpError> {
    let Ok(([], info)) = SubjectPublicKeyInfo::from_der(der) else {
        return Err("importPublicKey(): the key is not a SubjectPublicKeyInfo in DER".into());
    };
    let curve = info.algorithm.parameters.as_ref().and_then(|of| of.as_oid().ok());
    let kinds = [info.algorithm.algorithm.to_id_string()].into_iter();
    let kinds = kinds.chain(curve.map(|curve| curve.to_id_string()));
    let known = [RSA, P256, P384];
    let kind = kinds.into_iter().find_map(|id| known.into_iter().find(|known| **known == id));
    let Some(kind) = kind else {
        return Err("importPublicKey(): only keys of RSA, P-256 and P-384 are supported".into());
    };
    Ok(ImportedKey { kind, bytes: info.subject_public_key.data.to_vec() })
}

/// `(der, length)`: the DER of a key that can be used.
pub(super) fn import_key(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    natives.budget.charge(lua, PRICE / 10)?;
    let der = args.text(0)?;
    let der = cut(&der, args.optional_integer(1)?);
    parse(&der)?;
    one(lua, lua.create_string(der)?)
}

fn algorithm(hash: &str, kind: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (hash, kind) {
        ("sha1", RSA) => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        ("sha256", RSA) => &RSA_PKCS1_2048_8192_SHA256,
        ("sha384", RSA) => &RSA_PKCS1_2048_8192_SHA384,
        ("sha512", RSA) => &RSA_PKCS1_2048_8192_SHA512,
        ("sha256", P256) => &ECDSA_P256_SHA256_ASN1,
        ("sha384", P256) => &ECDSA_P256_SHA384_ASN1,
        ("sha256", P384) => &ECDSA_P384_SHA256_ASN1,
        ("sha384", P384) => &ECDSA_P384_SHA384_ASN1,
        _ => return None,
    })
}

/// `(hash, der, signature, length, data, length)`: whether the signature is valid, and what is wrong.
pub(super) fn verify(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let hash = args.word(0)?.to_ascii_lowercase();
    let der = args.text(1)?;
    let key = parse(&der.as_bytes())?;
    let signature = args.text(2)?;
    let signature = cut(&signature, args.optional_integer(3)?);
    let data = args.text(4)?;
    let data = cut(&data, args.optional_integer(5)?);
    natives.budget.charge(lua, PRICE + data.len() as u64 / 8)?;
    let Some(algorithm) = algorithm(&hash, key.kind) else {
        let what = format!("verifySignature(): the hash {hash} is not supported for this key");
        return Err(what.into());
    };
    let valid = UnparsedPublicKey::new(algorithm, key.bytes).verify(&data, &signature).is_ok();
    let why = if valid { "" } else { "Failed to verify digest. Error code: 0" };
    let why = Value::String(lua.create_string(why)?);
    Ok(MultiValue::from_vec(vec![Value::Boolean(valid), why]))
}
