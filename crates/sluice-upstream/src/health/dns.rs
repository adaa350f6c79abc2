//! A check of a DNS server: a query over UDP.
//!
//! Owns: the query, and which response it accepts. Refuses to know: the records in a response. Keeps: datagrams that are
//! not the response to the query are ignored.
//!
//! Source: RFC 1035 §4.1.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use sluice_core::reader::Reader;

use super::{CheckError, datagram};
use crate::endpoint::Target;
use crate::plan::{ClusterPlan, DnsCheck};

const RECURSION_DESIRED: u16 = 0x0100;
const RESPONSE: u16 = 0x8000;
const CLASS_IN: u16 = 1;

/// Sends the query, and waits for its response.
pub(super) async fn check(
    plan: &ClusterPlan,
    target: &Target,
    check: &DnsCheck,
) -> Result<(), CheckError> {
    let query = query(fastrand::u16(..), check);
    judge(
        datagram::ask(plan, target, &query, |response| rcode(&query, response)).await?,
        check.rcode,
    )
}

fn judge(rcode: u8, expected: u8) -> Result<(), CheckError> {
    if rcode == expected {
        return Ok(());
    }
    let message = format!("responded {}, not {}", rcode_name(rcode), rcode_name(expected));
    Err(CheckError::Unfit(message))
}

/// A query with one question.
pub fn query(id: u16, check: &DnsCheck) -> Vec<u8> {
    let mut query = Vec::new();
    for number in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        query.extend_from_slice(&number.to_be_bytes());
    }
    for label in check.name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).unwrap_or(63));
        query.extend(label.bytes().take(63));
    }
    query.push(0);
    query.extend_from_slice(&check.record.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    query
}

/// The response code, if this is the response to `query`: the same id, and the same question if it has one.
pub fn rcode(query: &[u8], response: &[u8]) -> Option<u8> {
    let mut reader = Reader(response);
    let (id, flags, questions) = (reader.array::<2>()?, reader.u16()?, reader.u16()?);
    let _counts = reader.take(6)?;
    let question = query.get(12..)?;
    let same = match questions {
        0 => true,
        1 => reader.take(question.len())?.eq_ignore_ascii_case(question),
        _ => false,
    };
    let ours = query.starts_with(&id) && flags & RESPONSE != 0 && same;
    ours.then(|| flags.to_be_bytes()[1] & 0x0f)
}

/// The name of a response code (RFC 1035 §4.1.1, RFC 2136 §2.2).
fn rcode_name(rcode: u8) -> String {
    const NAMES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    let name = NAMES.get(usize::from(rcode));
    name.map_or_else(|| format!("code {rcode}"), ToString::to_string)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn asked() -> Vec<u8> {
        let check = DnsCheck { name: "Example.org.".into(), record: 1, rcode: 0 };
        query(0xabcd, &check)
    }

    /// The response with that response code.
    fn answer(rcode: u8) -> Vec<u8> {
        let mut answer = asked();
        answer[2] = 0x81;
        answer[3] = 0x80 | rcode;
        answer.make_ascii_lowercase();
        answer[..2].copy_from_slice(&[0xab, 0xcd]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        answer
    }

    #[test]
    fn a_query_and_its_response() {
        let query = asked();
        assert_eq!(query[..12], [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&query[12..], b"\x07Example\x03org\x00\x00\x01\x00\x01");
        assert_eq!(rcode(&query, &answer(0)), Some(0));
        assert_eq!(rcode(&query, &answer(3)), Some(3));
        assert_eq!(judge(0, 0), Ok(()));
        let wrong = CheckError::Unfit("responded SERVFAIL, not NOERROR".into());
        assert_eq!(judge(2, 0), Err(wrong));
        assert_eq!(rcode_name(9), "code 9");
    }

    #[test]
    fn what_is_not_the_response_is_ignored() {
        let query = asked();
        assert_eq!(rcode(&query, &query), None, "a query");
        let mut other = answer(0);
        other[0] = 1;
        assert_eq!(rcode(&query, &other), None, "another id");
        let mut other = answer(0);
        other[13] = b'x';
        assert_eq!(rcode(&query, &other), None, "another name");
        let whole = answer(0);
        for cut in 0..query.len() {
            assert_eq!(rcode(&query, &whole[..cut]), None, "cut at {cut}");
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..5000 {
            let bytes: Vec<u8> = (0..random.usize(..64)).map(|_| random.u8(..)).collect();
            let _ = rcode(&query, &bytes);
            let mut changed = whole.clone();
            let at = random.usize(..changed.len());
            changed[at] = random.u8(..);
            let _ = rcode(&query, &changed);
        }
    }
}
