use proptest::prelude::*;

use super::*;

fn kept(pieces: &[&'static [u8]], keep_max: usize, buffers: &BufPool) -> Upload {
    let mut upload = Upload::new(false);
    upload.allow_replay(keep_max);
    upload.begin_attempt();
    pieces.iter().for_each(|piece| upload.keep(&Bytes::from_static(piece), buffers));
    upload
}

fn buffered(trailers: Option<Box<Head>>) -> Upload {
    let mut charge = BufPool::new(8 << 10).charge();
    charge.set(3).unwrap();
    let mut upload = Upload::new(false);
    upload.end_received();
    upload.buffered(Bytes::from_static(b"all"), trailers, charge);
    upload.check_invariants();
    upload
}

fn send(bytes: &'static [u8], last: bool) -> Next {
    Next::Send { bytes: Bytes::from_static(bytes), last }
}

#[test]
fn what_is_kept_for_a_retry_is_bounded_and_counted() {
    let buffers = BufPool::new(8 << 10);
    let upload = kept(&[b"abc", b"de"], 5, &buffers);
    assert!(upload.can_replay());
    assert_eq!(buffers.bytes_out(), 5);
    drop(upload);
    assert_eq!(buffers.bytes_out(), 0);
    for gone in [
        kept(&[b"abc", b"def"], 5, &buffers),
        kept(&[&[0; 9 << 10]], 1 << 20, &buffers),
        kept(&vec![&b"x"[..]; PIECES_MAX + 1], 1 << 20, &buffers),
    ] {
        assert!(!gone.can_replay());
        assert_eq!(buffers.bytes_out(), 0);
    }
    assert!(kept(&vec![&b"x"[..]; PIECES_MAX], 1 << 20, &buffers).can_replay());
}

#[test]
fn a_request_without_a_body_has_nothing_to_send() {
    let mut upload = Upload::new(true);
    upload.begin_attempt();
    assert!(upload.is_empty() && upload.is_sent());
    assert_eq!(upload.next(), Next::Nothing);
}

#[test]
fn a_retry_sends_what_was_kept_and_continues_reading() {
    let buffers = BufPool::new(8 << 10);
    let mut upload = kept(&[b"abc"], 100, &buffers);
    assert_eq!(upload.next(), Next::Read { keep: true });
    upload.begin_attempt();
    assert_eq!(upload.next(), send(b"abc", false));
    assert_eq!(upload.next(), Next::Read { keep: true });
    upload.keep(&Bytes::from_static(b"de"), &buffers);
    upload.end_received();
    upload.end_sent(None);
    assert_eq!(upload.next(), Next::Nothing);
    upload.begin_attempt();
    assert_eq!(upload.next(), send(b"abc", false));
    assert_eq!(upload.next(), send(b"de", true));
    assert_eq!(upload.next(), Next::Nothing);
}

#[test]
fn trailers_follow_the_last_piece() {
    let buffers = BufPool::new(8 << 10);
    let mut upload = kept(&[b"abc"], 100, &buffers);
    upload.end_received();
    upload.end_sent(Some(Box::default()));
    upload.begin_attempt();
    assert_eq!(upload.next(), send(b"abc", false));
    assert_eq!(upload.next(), Next::End);
    assert!(upload.trailers().is_some());
    assert_eq!(upload.next(), Next::Nothing);
}

#[test]
fn a_piece_that_was_not_kept_rules_out_a_retry() {
    let mut upload = Upload::new(false);
    upload.begin_attempt();
    assert_eq!(upload.next(), Next::Read { keep: false });
    assert!(upload.can_replay());
    upload.pass();
    assert!(!upload.can_replay());
    upload.end_received();
    assert_eq!(upload.next(), Next::End);
    assert!(upload.is_sent());
}

#[test]
fn a_buffered_body_is_sent_as_one_piece_and_can_be_sent_again() {
    let mut upload = buffered(None);
    for _ in 0..2 {
        assert_eq!(upload.next(), send(b"all", true));
        upload.begin_attempt();
    }
}

#[test]
fn a_buffered_body_is_taken_out_with_its_trailers() {
    let mut upload = Upload::new(false);
    assert!(upload.take_buffered().is_none(), "nothing was buffered");
    let mut upload = buffered(Some(Box::default()));
    assert!(upload.is_received() && upload.trailers().is_some());
    let (body, trailers) = upload.take_buffered().unwrap();
    assert_eq!((&body[..], trailers.is_some()), (&b"all"[..], true));
    assert!(!upload.is_received() && upload.trailers().is_none());
    upload.check_invariants();
}

#[test]
fn a_tunnel_is_never_sent_again() {
    let mut upload = Upload::of_tunnel();
    assert_eq!(upload.next(), Next::Read { keep: false });
    upload.pass();
    assert!(upload.is_tunnel() && !upload.can_replay() && !upload.is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The client sends a piece; `true` if it is the last.
    Piece(usize, bool),
    /// The client ends the body; `true` with trailers.
    End(bool),
    /// The attempt fails, and is retried if that is possible.
    Again,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1..2000_usize, prop::bool::weighted(0.1)).prop_map(|(len, last)| Op::Piece(len, last)),
        1 => any::<bool>().prop_map(Op::End),
        2 => Just(Op::Again),
    ];
    prop::collection::vec(op, 0..40)
}

proptest! {
    /// Whatever is received and whatever fails, each attempt sends what the client has sent so far, once and in
    /// order.
    #[test]
    fn every_attempt_sends_what_the_client_sent(ops in ops(), keep_max in 0..10_000_usize) {
        let buffers = BufPool::new(1 << 20);
        let mut upload = Upload::new(false);
        upload.allow_replay(keep_max);
        upload.begin_attempt();
        let (mut came, mut sent, mut ended): (Vec<u8>, Vec<u8>, Option<bool>) = Default::default();
        // Sends what is kept; returns whether to read from the client (`Some`) and to keep what it sends.
        let drain = |upload: &mut Upload, sent: &mut Vec<u8>| loop {
            upload.check_invariants();
            match upload.next() {
                Next::Send { bytes, last } => {
                    sent.extend_from_slice(&bytes);
                    assert!(!last || upload.is_sent());
                }
                Next::End => assert!(upload.is_sent()),
                Next::Read { keep } => return Some(keep),
                Next::Nothing => return None,
            }
        };
        for op in ops {
            match op {
                Op::Again => {
                    if upload.can_replay() {
                        upload.begin_attempt();
                        sent.clear();
                    }
                }
                Op::Piece(..) | Op::End(_) if ended.is_some() => {}
                Op::Piece(len, last) => {
                    let Some(keep) = drain(&mut upload, &mut sent) else { continue };
                    let piece = Bytes::from(vec![u8::try_from(came.len() % 251).unwrap(); len]);
                    came.extend_from_slice(&piece);
                    sent.extend_from_slice(&piece);
                    if keep { upload.keep(&piece, &buffers) } else { upload.pass() }
                    if last {
                        upload.end_received();
                        upload.end_sent(None);
                        ended = Some(false);
                    }
                }
                Op::End(trailers) => {
                    if drain(&mut upload, &mut sent).is_none() { continue }
                    upload.end_received();
                    upload.end_sent(trailers.then(Box::default));
                    ended = Some(trailers);
                }
            }
            drain(&mut upload, &mut sent);
            prop_assert_eq!(&sent, &came);
            prop_assert_eq!(upload.is_received(), ended.is_some());
            prop_assert_eq!(upload.is_sent(), ended.is_some());
            prop_assert_eq!(upload.trailers().is_some(), ended == Some(true));
            prop_assert!(buffers.bytes_out() <= keep_max);
        }
    }
}
