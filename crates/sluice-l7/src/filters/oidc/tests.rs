use proptest::prelude::*;

use super::login::ProviderAnswer;
use super::refusal::LoginRefusal;

#[test]
fn an_answer_has_one_reading() {
    for (query, refusal) in [
        ("", LoginRefusal::Malformed),
        ("code=c", LoginRefusal::Malformed),
        ("state=s&state=s", LoginRefusal::Malformed),
        ("state=s&%73tate=t", LoginRefusal::Malformed),
        ("state=s&code=a&code=b", LoginRefusal::Malformed),
        ("state=s&iss=a&iss=b", LoginRefusal::Malformed),
        ("state=s&error=a&error=b", LoginRefusal::Malformed),
        ("state=%f", LoginRefusal::Malformed),
        ("state=s&code=%ff", LoginRefusal::Malformed),
    ] {
        assert_eq!(ProviderAnswer::parse(query), Err(refusal), "{query}");
    }
}

#[test]
fn a_code_counts_if_the_provider_that_was_meant_has_agreed() {
    const ISSUER: &str = "https://id.test";
    let code = |query: &str, states_issuer| {
        let answer = ProviderAnswer::parse(&format!("state=s&{query}")).unwrap();
        answer.code(ISSUER, states_issuer).map(str::to_owned)
    };
    for (query, states_issuer, expected) in [
        ("code=a%2Bb", false, Ok("a+b")),
        ("code=c&iss=https://id.test", false, Ok("c")),
        ("code=c&iss=https://id.test", true, Ok("c")),
        ("code=c", true, Err(LoginRefusal::Issuer)),
        ("code=c&iss=https://id.test/", false, Err(LoginRefusal::Issuer)),
        ("code=c&iss=HTTPS://id.test", true, Err(LoginRefusal::Issuer)),
        ("code=c&iss=", false, Err(LoginRefusal::Issuer)),
        ("error=access_denied&iss=https://evil.test", false, Err(LoginRefusal::Issuer)),
        ("error=access_denied", false, Err(LoginRefusal::Denied)),
        ("error=access_denied&code=c", false, Err(LoginRefusal::Denied)),
        ("error=server_error", false, Err(LoginRefusal::Unavailable)),
        ("code=", false, Err(LoginRefusal::Malformed)),
        ("x=y", false, Err(LoginRefusal::Malformed)),
    ] {
        let expected = expected.map(str::to_owned);
        assert_eq!(code(query, states_issuer), expected, "{query} {states_issuer}");
    }
}

proptest! {
    #[test]
    fn any_query_can_be_read(query: String) {
        let _ = ProviderAnswer::parse(&query);
    }
}
