//! HTTPS records: where a site is served, and in which versions of HTTP. Source: RFC 9460.
//!
//! Owns: which records can be used, in which order, and the name that they are found at. Refuses to know: how a query is
//! sent, and which addresses are used. Keeps: a record that demands something unknown is not used; what one says of versions
//! that are not spoken is ignored.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_resolver::proto::rr::rdata::SVCB;
use hickory_resolver::proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue};

use crate::plan::HttpVersion;

/// The usual port of HTTPS.
const USUAL_PORT: u16 = 443;

/// What the records at a name say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HttpsRecords {
    /// Everything is at another name (AliasMode).
    Alias(Arc<str>),
    /// The places that serve the site, the best first (ServiceMode); there may be none that can be used.
    Places(Vec<HttpsPlace>),
    /// The name does not serve HTTPS.
    Unavailable,
}

/// A place that serves a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpsPlace {
    /// The name of the host; `None` is the name of the record.
    pub(super) host: Option<Arc<str>>,
    /// The port; `None` is that of the site.
    pub(super) port: Option<u16>,
    /// How many better priorities there are.
    pub(super) rank: u32,
    /// Whether HTTP/3 is spoken there.
    pub(super) http3: bool,
    /// Addresses for the time in which the host has none.
    pub(super) hints: Vec<IpAddr>,
}

/// The name of the records for a host and port, RFC 9460 §9.1.
pub(super) fn name_of(host: &str, port: u16) -> String {
    if port == USUAL_PORT { host.to_owned() } else { format!("_{port}._https.{host}") }
}

/// What `records` say to a client that speaks `version`; at most `places_max` places.
pub(super) fn read<'a>(
    records: impl Iterator<Item = &'a SVCB>,
    version: HttpVersion,
    places_max: usize,
) -> HttpsRecords {
    let mut records: Vec<&SVCB> = records.collect();
    // One in AliasMode sets aside all in ServiceMode, RFC 9460 §2.4.1.
    if let Some(alias) = records.iter().find(|record| record.svc_priority == 0) {
        return host_of(alias).map_or(HttpsRecords::Unavailable, HttpsRecords::Alias);
    }
    records.sort_by_key(|record| record.svc_priority);
    let mut places: Vec<HttpsPlace> = Vec::new();
    let (mut rank, mut before) = (0, None);
    for record in records {
        let Some(place) = place(record, version) else { continue };
        rank += u32::from(before.is_some_and(|before| before != record.svc_priority));
        before = Some(record.svc_priority);
        places.push(HttpsPlace { rank, ..place });
    }
    places.truncate(places_max);
    HttpsRecords::Places(places)
}

/// What a record in ServiceMode says; `None` if it cannot be used.
fn place(record: &SVCB, version: HttpVersion) -> Option<HttpsPlace> {
    let (host, hints) = (host_of(record), Vec::new());
    let mut place = HttpsPlace { host, port: None, rank: 0, http3: false, hints };
    // Without a word about it, a site is served over HTTP/1.1, RFC 9460 §9.5.
    let (mut by_default, mut http1, mut http2) = (true, false, false);
    for (key, value) in &record.svc_params {
        match value {
            SvcParamValue::Mandatory(keys) if !keys.0.iter().all(is_known) => return None,
            SvcParamValue::Alpn(alpn) => {
                http2 = alpn.0.iter().any(|one| one == "h2");
                place.http3 = alpn.0.iter().any(|one| one == "h3");
                http1 = alpn.0.iter().any(|one| one == "http/1.1");
            }
            SvcParamValue::Port(0) => return None,
            SvcParamValue::Port(port) => place.port = Some(*port),
            SvcParamValue::Ipv4Hint(hint) => {
                place.hints.extend(hint.0.iter().map(|of| IpAddr::V4(of.0)));
            }
            SvcParamValue::Ipv6Hint(hint) => {
                place.hints.extend(hint.0.iter().map(|of| IpAddr::V6(of.0)));
            }
            _ if *key == SvcParamKey::NoDefaultAlpn => by_default = false,
            _ => {}
        }
    }
    let http1 = http1 || by_default;
    let is_spoken = match version {
        HttpVersion::Http1 => http1,
        HttpVersion::Http2 => http2,
        HttpVersion::Http3 => place.http3,
        // HTTP/3 only adds to what goes over TCP.
        HttpVersion::Auto | HttpVersion::Same => http1 || http2,
    };
    is_spoken.then_some(place)
}

/// The name that a record leads to; `None` is the root.
fn host_of(record: &SVCB) -> Option<Arc<str>> {
    let name = (!record.target_name.is_root()).then(|| record.target_name.to_ascii())?;
    Some(name.trim_end_matches('.').to_ascii_lowercase().into())
}

/// Whether a parameter is heeded. Encrypted client hellos are not sent.
const fn is_known(key: &SvcParamKey) -> bool {
    matches!(
        key,
        SvcParamKey::Alpn
            | SvcParamKey::NoDefaultAlpn
            | SvcParamKey::Port
            | SvcParamKey::Ipv4Hint
            | SvcParamKey::Ipv6Hint
    )
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_resolver::proto::rr::Name;
    use hickory_resolver::proto::rr::rdata::A;
    use hickory_resolver::proto::rr::rdata::svcb::{Alpn, IpHint, Mandatory};

    use super::*;

    fn record(priority: u16, target: &str, params: Vec<(SvcParamKey, SvcParamValue)>) -> SVCB {
        SVCB::new(priority, Name::from_str(target).unwrap(), params)
    }

    fn alpn(words: &[&str]) -> (SvcParamKey, SvcParamValue) {
        let words = words.iter().map(ToString::to_string).collect();
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(words)))
    }

    fn no_default() -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn)
    }

    fn mandatory(keys: &[SvcParamKey]) -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(keys.to_vec())))
    }

    fn places(records: &[SVCB], version: HttpVersion) -> Vec<HttpsPlace> {
        match read(records.iter(), version, 8) {
            HttpsRecords::Places(places) => places,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_of_other_ports_have_a_name_of_their_own() {
        assert_eq!(name_of("a.test", 443), "a.test");
        assert_eq!(name_of("a.test", 8443), "_8443._https.a.test");
    }

    #[test]
    fn places_come_in_the_order_of_their_priorities() {
        let port = (SvcParamKey::Port, SvcParamValue::Port(8443));
        let hint = IpHint(vec![A::new(192, 0, 2, 7)]);
        let hint = (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint));
        let records = [
            record(20, "B.test.", vec![alpn(&["h2"])]),
            record(1, ".", vec![alpn(&["h2", "h3"]), port, hint]),
            record(20, "c.test.", Vec::new()),
        ];
        let all = places(&records, HttpVersion::Auto);
        let first = HttpsPlace {
            host: None,
            port: Some(8443),
            rank: 0,
            http3: true,
            hints: vec!["192.0.2.7".parse().unwrap()],
        };
        assert_eq!(all[0], first);
        let rest: Vec<_> =
            all[1..].iter().map(|of| (of.host.as_deref(), of.rank, of.http3)).collect();
        assert_eq!(rest, [(Some("b.test"), 1, false), (Some("c.test"), 1, false)]);
        let HttpsRecords::Places(few) = read(records.iter(), HttpVersion::Auto, 2) else {
            panic!("there are places")
        };
        assert_eq!(few.len(), 2);
    }

    #[test]
    fn only_what_is_spoken_is_used() {
        let plain = [record(1, ".", Vec::new())];
        let both = [record(1, ".", vec![alpn(&["h2", "h3"])])];
        let only = |word| [record(1, ".", vec![alpn(&[word]), no_default()])];
        let used = |records: &[SVCB]| {
            use HttpVersion::{Auto, Http1, Http2, Http3, Same};
            [Http1, Http2, Http3, Auto, Same].map(|version| places(records, version).len())
        };
        assert_eq!(used(&plain), [1, 0, 0, 1, 1]);
        assert_eq!(used(&both), [1, 1, 1, 1, 1]);
        assert_eq!(used(&only("h2")), [0, 1, 0, 1, 1]);
        assert_eq!(used(&only("h3")), [0, 0, 1, 0, 0]);
        assert_eq!(used(&only("http/1.1")), [1, 0, 0, 1, 1]);
        assert_eq!(used(&only("dot")), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_a_record_demands_must_be_known() {
        let used = |keys: &[SvcParamKey]| {
            !places(&[record(1, ".", vec![mandatory(keys)])], HttpVersion::Http1).is_empty()
        };
        assert!(used(&[SvcParamKey::Alpn, SvcParamKey::Port, SvcParamKey::Ipv6Hint]));
        assert!(!used(&[SvcParamKey::EchConfigList]));
        assert!(!used(&[SvcParamKey::Port, SvcParamKey::Unknown(7)]));
        let port = (SvcParamKey::Port, SvcParamValue::Port(0));
        assert!(places(&[record(1, ".", vec![port])], HttpVersion::Http1).is_empty());
    }

    #[test]
    fn an_alias_sets_everything_else_aside() {
        let records = [record(1, ".", Vec::new()), record(0, "Cdn.test.", Vec::new())];
        let read_as = |records: &[SVCB]| read(records.iter(), HttpVersion::Http1, 8);
        assert_eq!(read_as(&records), HttpsRecords::Alias("cdn.test".into()));
        assert_eq!(read_as(&[record(0, ".", Vec::new())]), HttpsRecords::Unavailable);
        assert_eq!(read_as(&[]), HttpsRecords::Places(Vec::new()));
    }
}
