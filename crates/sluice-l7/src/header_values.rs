//! Parts of header values and queries: media types, query parameters, cookies, gRPC status.
//!
//! Keeps: nothing is decoded or copied; results are slices of the input.

use sluice_codec::{Head, Known};

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

/// The gRPC status that a response's headers or trailers contain.
pub(crate) fn grpc_status(head: &Head) -> Option<u32> {
    let value = head.get(Known::GrpcStatus)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}
