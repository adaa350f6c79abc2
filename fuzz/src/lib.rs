//! Code that the fuzz targets share.
//!
//! Owns: the property of every inspector panel, of every reader of heads, and of every dialogue of a check. Refuses to
//! know: how inputs are made. Keeps: each property is stated once, for one inspector or reader as for all of them.
#![forbid(unsafe_code)]

use sluice_codec::Head;
use sluice_codec::h1::parse::{self, HeadLimits, Meta, Scan};
use sluice_codec::parse_error::ParseError;
use sluice_l4::inspect::{Look, Needs, Panel};
use sluice_upstream::health::{CheckError, DialogueTurn, dialogue_of};
use sluice_upstream::plan::{CheckKind, Login, Password};

/// A panel reaches the same outcome whether its stream is seen at once or one byte at a time.
///
/// # Panics
/// When it does not.
pub fn cutting_changes_nothing(needs: Needs, stream: &[u8]) {
    assert_eq!(decide(needs, stream, 1), decide(needs, stream, stream.len().max(1)));
}

fn decide(needs: Needs, stream: &[u8], step: usize) -> Look {
    let inspectors = needs.inspectors();
    let mut panel = Panel::new(&inspectors);
    let mut start = 0;
    for end in (step..=stream.len()).step_by(step) {
        loop {
            match panel.look(&stream[start..end]) {
                Look::Reply { consumed, .. } => start += consumed,
                Look::More => break,
                look => return look,
            }
        }
    }
    Look::More
}

/// A head is found and parsed alike whether its stream is seen at once or one byte at a time.
///
/// # Panics
/// When it is not.
pub fn head_reads_alike_however_it_is_cut(
    stream: &[u8],
    read: impl Fn(&[u8], &mut Head, HeadLimits) -> Result<Meta, ParseError>,
) {
    let limits = HeadLimits { bytes: 2048, fields: 20 };
    let found = |step: usize| {
        let (mut scan, mut end) = (Scan::default(), 0);
        while end < stream.len() {
            end = (end + step).min(stream.len());
            if let Some((start, stop)) = scan.find_end(&stream[..end], limits)? {
                let mut head = Head::default();
                let meta = read(&stream[start..stop], &mut head, limits)?;
                return Ok(Some((format!("{head:?}"), meta, stop)));
            }
        }
        Ok::<_, ParseError>(None)
    };
    assert_eq!(found(1), found(stream.len().max(1)));
}

/// What is parsed as a request head, unsearched, is the head that the search finds.
///
/// # Panics
/// When it is not.
pub fn whole_request_is_what_the_search_finds(stream: &[u8]) {
    let limits = HeadLimits { bytes: 2048, fields: 20 };
    if stream.len() <= limits.bytes
        && parse::request(stream, &mut Head::default(), limits, true).is_ok()
    {
        let found = Scan::default().find_end(stream, limits);
        assert_eq!(found, Ok(Some((0, stream.len()))));
    }
}

/// A dialogue comes to the same end whether all that the endpoint sends is received at once or one byte at a time, and
/// keeps no more than it was sent.
///
/// # Panics
/// When it does not.
pub fn dialogue_ends_alike_however_it_is_cut(kind: &CheckKind, stream: &[u8]) {
    let whole = hold(kind, stream, stream.len().max(1));
    assert_eq!(hold(kind, stream, 1), whole);
}

/// How a dialogue ends over a connection without TLS; `None` if it waits for more.
fn hold(kind: &CheckKind, stream: &[u8], step: usize) -> Option<Result<DialogueTurn, CheckError>> {
    let (_, mut dialogue) = dialogue_of(kind, false, false).expect("the check is a dialogue");
    let (mut received, mut send) = (Vec::new(), Vec::new());
    let mut pieces = stream.chunks(step);
    loop {
        match dialogue.advance(&mut received, &mut send) {
            Ok(DialogueTurn::Receive) => received.extend_from_slice(pieces.next()?),
            end => return Some(end),
        }
        assert!(received.len() <= stream.len());
    }
}

/// A login for a dialogue.
pub fn login(user: &str) -> Login {
    Login { user: user.into(), password: Some(Password("secret".into())) }
}
