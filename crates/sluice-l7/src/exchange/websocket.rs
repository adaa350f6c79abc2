//! WebSocket handshakes between versions of HTTP.
//!
//! Owns: the key that one side needs and the other does not send. Refuses to know: WebSocket frames. Keeps: each side
//! sees a handshake that is complete in its own version.
//!
//! Source: RFC 6455 §4 (HTTP/1.1), RFC 8441 §5 (HTTP/2).

use sluice_codec::{Head, Known, Method, Version};
use sluice_io::WorkerCx;

/// The GUID that RFC 6455 §1.3 appends to the key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The keys of a handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshake {
    /// The key from the client, if it speaks HTTP/1.
    of_client: Option<Vec<u8>>,
    /// The key that Sluice made, if the endpoint speaks HTTP/1 and the client does not.
    ours: Option<Vec<u8>>,
}

impl Handshake {
    /// Adapts the request to an endpoint of that version. May be called for every attempt.
    pub(super) fn ask(&mut self, request: &mut Head, endpoint: Version, worker: &WorkerCx) {
        let Some(protocol) = request.upgrade() else { return };
        let websocket = protocol.eq_ignore_ascii_case("websocket");
        if !endpoint.has_extended_connect() && request.method() == Method::Connect {
            // HTTP/1 requests another protocol with GET and `Upgrade`; CONNECT is a tunnel to a host.
            request.set_method(b"GET");
        }
        if !websocket {
            return;
        }
        let key = Known::SecWebSocketKey.text().as_bytes();
        if endpoint.has_extended_connect() {
            if let Some(given) = request.get(Known::SecWebSocketKey) {
                self.of_client = Some(given.to_vec());
                request.remove(key);
            }
            return;
        }
        if request.get(Known::SecWebSocketKey).is_none() {
            let given = self.of_client.clone().unwrap_or_else(|| {
                let random: [u8; 16] =
                    std::array::from_fn(|_| u8::try_from(worker.random_below(256)).unwrap_or(0));
                base64(&random).into_bytes()
            });
            request.set(key, &given);
            if self.of_client.is_none() {
                self.ours = Some(given);
            }
        }
    }

    /// Adapts the response to the client; returns whether it accepts `asked`, and the key if Sluice made it (RFC 6455
    /// §4.1).
    pub(super) fn answer(
        &self,
        response: &mut Head,
        asked: &str,
        client: Version,
        endpoint: Version,
    ) -> bool {
        // The 2xx of extended CONNECT names no protocol; a 101 must name the requested one.
        let agreed = endpoint.has_extended_connect()
            || response.upgrade().is_some_and(|given| given.eq_ignore_ascii_case(asked));
        if !agreed {
            return false;
        }
        let accept = Known::SecWebSocketAccept.text().as_bytes();
        match (client.has_extended_connect(), endpoint.has_extended_connect()) {
            (true, true) | (false, false) => true,
            (true, false) => {
                let right = match (&self.ours, response.get(Known::SecWebSocketAccept)) {
                    (Some(ours), given) => given == Some(accept_for(ours).as_bytes()),
                    (None, _) => true,
                };
                response.set_status(200);
                response.set_upgrade(b"");
                response.remove(accept);
                right
            }
            (false, true) => {
                response.set_status(101);
                response.set_upgrade(asked.as_bytes());
                if let Some(key) = &self.of_client {
                    response.set(accept, accept_for(key).as_bytes());
                }
                true
            }
        }
    }
}

/// The `sec-websocket-accept` for a key, RFC 6455 §4.2.2.
#[must_use]
pub fn accept_for(key: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        &[key, GUID].concat(),
    );
    base64(digest.as_ref())
}

/// Base64 with padding, RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn each_side_sees_a_complete_handshake() {
        let worker = WorkerCx::solitary(sluice_core::Clock::held());
        let mut request = Head::request("CONNECT", "https", "a", "/chat");
        request.set_upgrade(b"websocket");
        let mut handshake = Handshake::default();
        handshake.ask(&mut request, Version::Http11, &worker);
        let key = request.get(Known::SecWebSocketKey).unwrap().to_vec();
        assert_eq!((request.method(), key.len()), (Method::Get, 24));
        let answer = |upgrade: &[u8], accept: Option<String>| {
            let mut response = Head::response(101);
            response.set_upgrade(upgrade);
            accept.iter().for_each(|key| response.append(b"sec-websocket-accept", key.as_bytes()));
            let (client, endpoint) = (Version::Http2, Version::Http11);
            let agrees = handshake.answer(&mut response, "websocket", client, endpoint);
            (agrees, response)
        };
        assert!(!answer(b"websocket", None).0, "the key that we made must be accepted");
        assert!(!answer(b"websocket", Some("AAAA".into())).0);
        assert!(!answer(b"h2c", Some(accept_for(&key))).0, "nobody asked for h2c");
        assert!(!answer(b"", Some(accept_for(&key))).0);
        let (agrees, response) = answer(b"WebSocket", Some(accept_for(&key)));
        assert!(agrees);
        assert_eq!((response.status(), response.get(Known::SecWebSocketAccept)), (200, None));

        let mut request = Head::request("CONNECT", "https", "a", "/x");
        request.set_upgrade(b"other");
        Handshake::default().ask(&mut request, Version::Http11, &worker);
        assert_eq!((request.method(), request.get(Known::SecWebSocketKey)), (Method::Get, None));

        let mut request = Head::request("GET", "http", "a", "/chat");
        request.set_upgrade(b"websocket");
        request.append(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==");
        let mut handshake = Handshake::default();
        handshake.ask(&mut request, Version::Http2, &worker);
        assert_eq!(request.get(Known::SecWebSocketKey), None);
        let mut response = Head::response(200);
        assert!(handshake.answer(&mut response, "websocket", Version::Http11, Version::Http2));
        assert_eq!(response.status(), 101);
        assert!(response.get(Known::SecWebSocketAccept).is_some());
    }
}
