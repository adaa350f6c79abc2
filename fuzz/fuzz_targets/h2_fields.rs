//! HTTP/2 heads: no fields panic, what HTTP/1 cannot express unambiguously is refused, and an accepted request survives
//! the round trip unchanged.
#![no_main]

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_codec::h1::write;
use sluice_codec::h2::convert;
use sluice_io::buffers::BufPool;

const FIELDS_MAX: usize = 20;

/// A request as the library delivers it: the lines of the input are its method, authority, path, protocol and fields.
fn request(input: &[u8]) -> Option<Request<()>> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(lines.next()?).ok()?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = http::uri::Authority::try_from(lines.next()?).ok();
    uri.path_and_query = http::uri::PathAndQuery::try_from(lines.next()?).ok();
    let protocol = lines.next()?;
    if uri.authority.is_none() {
        uri.scheme = None;
    }
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    if let Ok(protocol) = std::str::from_utf8(protocol)
        && !protocol.is_empty()
    {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    }
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let name = HeaderName::from_bytes(&name.to_ascii_lowercase()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(&value[1..]).ok()?);
    }
    Some(request)
}

fuzz_target!(|input: &[u8]| {
    let Some(request) = request(input) else { return };
    let mut head = Head::default();
    let _ = convert::fields(request.headers(), &mut head, FIELDS_MAX);
    head.clear();
    if convert::request_head(&request, &mut head, FIELDS_MAX).is_err() {
        return;
    }
    assert!(head.len() <= FIELDS_MAX);
    // HTTP/1 can express it,
    let framing = write::request_framing(&head, true);
    write::request(&head, framing, &BufPool::new(1 << 20)).expect("HTTP/1 can say it");
    // and so can HTTP/2, with the same meaning.
    let Ok(again) = convert::to_request(&head) else {
        // `Host` is parsed more leniently than the library parses `:authority`.
        assert!(request.uri().authority().is_none(), "HTTP/2 can say what it said");
        return;
    };
    let mut other = Head::default();
    convert::request_head(&again, &mut other, FIELDS_MAX + 1).expect("what we say can be read");
    let shown = |head: &Head| {
        let fields: Vec<_> = head.fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        let line = [head.method_text(), head.authority(), head.path()].map(str::to_owned);
        (line, head.upgrade().map(str::to_owned), fields)
    };
    assert_eq!(shown(&head), shown(&other));
});
