//! What the encoder writes, and that the decoder reads it.

use super::*;

fn head_of(fields: &[(&str, &str)]) -> Head {
    let mut head = Head::request("GET", "https", "a.test", "/x");
    fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
    head
}

#[test]
fn what_repeats_becomes_a_byte_and_what_does_not_stays_out() {
    let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
    let repeats = [
        ("User-Agent", "tests/1.0"),
        ("x-tenant", "one"),
        ("accept", "*/*"),
        ("cookie", "a-long-cookie=that-nobody-guesses"),
    ];
    for round in 0..9 {
        let changes = round.to_string();
        let varies = [
            ("content-length", "7"),
            ("ETag", "\"same\""),
            ("x-request-id", "same"),
            ("x-counter", changes.as_str()),
        ];
        let block = block_of(&mut encoder, &repeats);
        assert_eq!(block.len() == repeats.len(), round >= 2, "round {round}: {block:x?}");
        let lower = repeats.map(|(name, value)| (name.to_lowercase(), value));
        let lower: Vec<_> = lower.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(fields_of(&mut decoder, &block).unwrap().shown(), lower);
        let held = decoder.bytes_held();
        let block = block_of(&mut encoder, &varies);
        assert_eq!(fields_of(&mut decoder, &block).unwrap().shown().len(), varies.len());
        assert_eq!(decoder.bytes_held(), held);
    }
}

#[test]
fn a_path_is_learned_unless_it_has_a_query() {
    for (path, is_learned) in [("/package.Service/Method", true), ("/x?token=1", false)] {
        let mut encoder = HpackEncoder::new();
        let head = Head::request("POST", "https", "a.test", path);
        let mut block = Vec::new();
        for _ in 0..3 {
            block.clear();
            encoder.request(&head, &mut block).unwrap();
        }
        assert_eq!(block.len() == 4, is_learned, "{path}");
    }
}

#[test]
fn secrets_are_never_indexed_and_stay_so_when_forwarded() {
    let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
    let secrets =
        [("authorization", "Bearer x"), ("proxy-authorization", "Basic x"), ("cookie", "short=1")];
    for _ in 0..3 {
        let block = block_of(&mut encoder, &secrets);
        let fields = fields_of(&mut decoder, &block).unwrap();
        assert_eq!(fields.shown(), secrets);
        assert_eq!(fields.sensitive(), secrets.map(|(name, _)| name));
    }
    assert_eq!(encoder.bytes_held() + decoder.bytes_held(), 0);
    // `:path`, x-token and two crumbs, of which one is never indexed; :authority is not.
    let block =
        from_hex("82 86 14012f 410161 1007 782d746f6b656e 0131 0f11 03613d31 1f11 03623d32");
    let mut head = Head::default();
    decoder.request(&block, BOUNDS, &mut head).unwrap();
    let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
    for _ in 0..3 {
        let mut block = Vec::new();
        encoder.request(&head, &mut block).unwrap();
        let fields = fields_of(&mut decoder, &block).unwrap();
        assert_eq!(fields.sensitive(), [":path", "x-token", "cookie"]);
    }
}

#[test]
fn a_head_that_cannot_be_sent_leaves_no_trace() {
    let mut encoder = HpackEncoder::new();
    encoder.set_table_max(0);
    let mut block = Vec::new();
    let mut unsound = head_of(&[("x", "1")]);
    unsound.append(b"a b", b"1");
    let mut status = Head::response(99);
    status.append(b"x", b"1");
    let tunnel = Head::request("CONNECT", "", "", "");
    assert!(encoder.request(&unsound, &mut block).is_err());
    assert!(encoder.trailers(&unsound, &mut block).is_err());
    assert!(encoder.response(&status, &mut block).is_err());
    assert!(encoder.request(&tunnel, &mut block).is_err());
    assert!(block.is_empty());
    encoder.response(&Head::response(200), &mut block).unwrap();
    assert_eq!(block, [0x20, 0x88], "the update of the size is still due");
}

#[test]
fn sizes_are_announced_once_and_the_smallest_first() {
    let mut encoder = HpackEncoder::new();
    let mut next = |sizes: &[u32]| {
        sizes.iter().for_each(|size| encoder.set_table_max(*size));
        let mut block = Vec::new();
        encoder.response(&Head::response(200), &mut block).unwrap();
        assert_eq!(block.pop(), Some(0x88));
        block
    };
    assert_eq!(next(&[]), b"");
    assert_eq!(next(&[4096, 65536]), b"", "we use no more than we did");
    assert_eq!(next(&[100, 200]), from_hex("3f45 3fa901"));
    assert_eq!(next(&[200]), b"");
    assert_eq!(next(&[0, 65536]), from_hex("20 3fe11f"));
    assert_eq!(next(&[65536, 10]), from_hex("2a"));
    assert_eq!(next(&[]), b"");
}

/// A field that may be sent, with a small vocabulary so that fields repeat.
fn random_field(random: &mut fastrand::Rng) -> (String, String) {
    let names = ["Accept", "cookie", "x-a", "X-B", "etag", "authorization", "date", "vary", "x"];
    let mut name = random.choice(names).unwrap().to_owned();
    if random.u8(..20) == 0 {
        name = "n".repeat(random.usize(1..300));
    }
    let length = match random.u8(..10) {
        0 => random.usize(..3000),
        1 => 0,
        _ => random.usize(..30),
    };
    let value = match random.u8(..3) {
        0 => "abc".repeat(length / 3),
        1 => random.u8(..4).to_string(),
        _ => (0..length).map(|_| char::from(random.u8(b'!'..=b'~'))).collect(),
    };
    (name, value)
}

#[test]
fn random_heads_go_there_and_back_while_the_table_changes() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
        let (mut block, mut head) = (Vec::new(), Head::default());
        for step in 0..40 {
            if random.u8(..8) == 0 {
                let sizes = [0, 32, 33, 70, 200, 4096, 100_000];
                for _ in 0..random.u8(1..3) {
                    encoder.set_table_max(random.choice(sizes).unwrap());
                }
            }
            let fields: Vec<_> =
                (0..random.usize(..12)).map(|_| random_field(&mut random)).collect();
            let mut sent = Head::response(random.u16(102..999));
            for (name, value) in &fields {
                sent.append(name.as_bytes(), value.as_bytes());
            }
            block.clear();
            encoder.response(&sent, &mut block).unwrap();
            let bounds = Bounds { bytes: 1 << 20, fields: 100 };
            decoder.response(&block, bounds, &mut head).unwrap_or_else(|refusal| {
                panic!("seed {seed}, step {step}: {refusal:?}");
            });
            let mut joined = Head::response(sent.status());
            fields
                .iter()
                .for_each(|(n, v)| joined.append(n.to_lowercase().as_bytes(), v.as_bytes()));
            if joined.values(b"cookie").count() > 1 {
                joined.join_cookies();
            }
            assert_eq!(format!("{head:?}"), format!("{joined:?}"), "seed {seed}, step {step}");
            assert!(encoder.bytes_held() <= 700 + 3 * 4096 / 2 + 4096);
        }
    }
}

#[test]
fn requests_go_there_and_back() {
    let (mut encoder, mut decoder) = (HpackEncoder::new(), HpackDecoder::new(TABLE_BYTES));
    let mut websocket = Head::request("GET", "https", "a.test", "/chat");
    websocket.set_upgrade(b"websocket");
    let bare = Head::request("OPTIONS", "http", "a.test", "*");
    let tunnel = Head::request("CONNECT", "", "a.test:443", "");
    for _ in 0..3 {
        for (head, line) in [
            (&head_of(&[("X-One", "1")]), ["GET", "https", "a.test", "/x", ""]),
            (&websocket, ["CONNECT", "https", "a.test", "/chat", "websocket"]),
            (&bare, ["OPTIONS", "http", "a.test", "*", ""]),
            (&tunnel, ["CONNECT", "", "a.test:443", "", ""]),
        ] {
            let (mut block, mut read) = (Vec::new(), Head::default());
            encoder.request(head, &mut block).unwrap();
            decoder.request(&block, BOUNDS, &mut read).unwrap();
            let upgrade = read.upgrade().unwrap_or("");
            let found = [read.method_text(), read.scheme(), read.authority(), read.path(), upgrade];
            assert_eq!(found, line);
            assert_eq!(read.len(), head.len());
        }
    }
}
