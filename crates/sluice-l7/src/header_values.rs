//! Parts of header values and queries: media types, query parameters, cookies.
//!
//! Keeps: nothing is decoded or copied; results are slices of the input.

/// The media type without its parameters, RFC 9110 §8.3.1.
pub fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// The first query parameter of that name, not decoded.
pub fn query_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// The first cookie of that name.
pub fn cookie<'a>(cookies: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    cookies.split(|byte| *byte == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (&pair[..at] == name).then(|| &pair[at + 1..])
    })
}
