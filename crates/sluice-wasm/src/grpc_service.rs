//! The service that a guest names: a cluster, or a serialized `envoy.config.core.v3.GrpcService`.
//!
//! Owns: the fields of it that are understood. Refuses to know: clusters. Keeps: bytes of a guest lead nowhere but into an error.
//!
//! Source: `envoy/config/core/v3/grpc_service.proto`; the encoding of protocol buffers.

/// What a guest said of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedService {
    pub(crate) cluster: String,
    pub(crate) authority: String,
}

/// Reads a serialized service; `None` if it is none, or one that is not reached through a cluster.
pub(crate) fn parse(bytes: &[u8]) -> Option<NamedService> {
    let mut found = None;
    each_field(bytes, |number, value| match (number, value) {
        (1, FieldBytes::Text(envoy)) => {
            let mut service = NamedService::default();
            each_field(envoy, |number, value| {
                let place = match number {
                    1 => &mut service.cluster,
                    2 => &mut service.authority,
                    _ => return Some(()),
                };
                let FieldBytes::Text(text) = value else { return None };
                *place = std::str::from_utf8(text).ok()?.to_owned();
                Some(())
            })?;
            found = Some(service);
            Some(())
        }
        // `google_grpc` has another client.
        (2, _) => None,
        _ => Some(()),
    })?;
    found.filter(|service| !service.cluster.is_empty())
}

/// The value of a field.
enum FieldBytes<'a> {
    Text(&'a [u8]),
    Number,
}

fn each_field<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u64, FieldBytes<'a>) -> Option<()>,
) -> Option<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => varint(&mut bytes).map(|_| FieldBytes::Number)?,
            1 => take(&mut bytes, 8).map(|_| FieldBytes::Number)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                FieldBytes::Text(take(&mut bytes, length)?)
            }
            5 => take(&mut bytes, 4).map(|_| FieldBytes::Number)?,
            _ => return None,
        };
        each(key >> 3, value)?;
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_cluster_and_perhaps_its_host() {
        let named = |cluster: &str, authority: &str| {
            Some(NamedService { cluster: cluster.into(), authority: authority.into() })
        };
        assert_eq!(parse(b"\x0a\x06\x0a\x04side"), named("side", ""));
        assert_eq!(parse(b"\x0a\x09\x0a\x04side\x12\x01h"), named("side", "h"));
        // Other fields are left out: a time-out, and one of fixed size.
        assert_eq!(parse(b"\x1a\x02\x08\x01\x0a\x03\x0a\x01s\x5d\0\0\0\0"), named("s", ""));
        for wrong in [
            &b""[..],
            b"side",
            b"grpc",
            b"\x0a\x06\x0a\x04sid",
            b"\x12\x00",
            b"\x0a\x00",
            b"\x0a\x03\x0a\x01\xff",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
