//! What the decoder refuses, and what it holds.

use super::*;
use crate::field_section::FIELD_OVERHEAD;

const GET: &str = "82 86 84 010161";

fn refusal(decoder: &mut HpackDecoder, block: &str, bounds: Bounds) -> String {
    match decoder.request(&from_hex(block), bounds, &mut Head::default()) {
        Ok(()) => "accepted".to_owned(),
        Err(BlockRefusal::Compression(reason)) => format!("compression {reason}"),
        Err(BlockRefusal::Malformed(error)) => format!("malformed {error}"),
        Err(BlockRefusal::Unacceptable(error)) => format!("{:?} {error}", error.status()),
    }
}

#[test]
fn what_no_encoder_writes_is_a_compression_error() {
    for (block, reason) in [
        ("80", "index_unknown"),                     // index 0
        ("be", "index_unknown"),                     // beyond both tables
        ("7f070178", "index_unknown"),               // the same for a name
        ("ff8080808080808000", "integer_malformed"), // longer than any integer needs
        ("007fffffffffff7f", "integer_malformed"),   // more than 32 bits
        ("ff80", "integer_malformed"),               // cut
        ("3f", "integer_malformed"),
        ("0001787f8001", "block_malformed"), // a string longer than the block
        ("00", "integer_malformed"),         // without a name
        ("000178", "integer_malformed"),     // without a value
        ("00017802", "block_malformed"),
        ("000178821fff", "string_malformed"), // padding of more than seven bits
        ("0001788118", "string_malformed"),   // padding of zeros
        ("00017884ffffffff", "string_malformed"), // EOS
        ("8220", "table_update_misplaced"),
        ("3fe21f", "table_update_too_large"), // 4097
    ] {
        let refused = refusal(&mut HpackDecoder::new(4096), block, BOUNDS);
        assert_eq!(refused, format!("compression http2.header_{reason}"), "{block}");
    }
}

#[test]
fn updates_of_the_size_come_first_and_when_they_are_due() {
    let mut decoder = HpackDecoder::new(4096);
    let accepted = |decoder: &mut HpackDecoder, updates: &str| {
        refusal(decoder, &format!("{updates} {GET}"), BOUNDS)
    };
    // 0, then 4096.
    assert_eq!(accepted(&mut decoder, "20 3fe11f"), "accepted");
    decoder.set_table_max(100);
    assert_eq!(accepted(&mut decoder, "3f45"), "accepted", "100");
    assert_eq!(accepted(&mut decoder, ""), "accepted", "nothing is due any more");
    decoder.set_table_max(200);
    assert_eq!(accepted(&mut decoder, ""), "accepted", "a larger table need not be used");
    decoder.set_table_max(99);
    let missing = "compression http2.header_table_update_missing";
    assert_eq!(accepted(&mut decoder, ""), missing);
    decoder.set_table_max(100);
    assert_eq!(accepted(&mut decoder, ""), "accepted", "what is used fits");
    decoder.set_table_max(99);
    let large = "compression http2.header_table_update_too_large";
    assert_eq!(accepted(&mut decoder, "3f45"), large);
}

#[test]
fn a_size_of_zero_forgets_everything() {
    let mut decoder = HpackDecoder::new(4096);
    // x: y enters.
    assert_eq!(fields_of(&mut decoder, &from_hex("4001780179")).unwrap().shown(), [("x", "y")]);
    assert!(decoder.bytes_held() > 0);
    assert_eq!(fields_of(&mut decoder, &from_hex("be")).unwrap().shown(), [("x", "y")]);
    fields_of(&mut decoder, &from_hex("20")).unwrap();
    assert_eq!(decoder.bytes_held(), 0);
    assert!(fields_of(&mut decoder, &from_hex("be")).is_err());
}

#[test]
fn a_new_name_may_come_from_the_entry_that_it_displaces() {
    // RFC 7541 §4.4.
    let mut decoder = HpackDecoder::new(40);
    fields_of(&mut decoder, &from_hex("4001780179")).unwrap();
    assert_eq!(fields_of(&mut decoder, &from_hex("7e027a7a")).unwrap().shown(), [("x", "zz")]);
    assert_eq!(fields_of(&mut decoder, &from_hex("be")).unwrap().shown(), [("x", "zz")]);
}

#[test]
fn past_a_bound_the_tables_stay_in_step() {
    let entry = "4001780179";
    let again = format!("{GET} be");
    let size = |fields: &[(&str, &str)]| {
        fields.iter().map(|(n, v)| n.len() + v.len() + FIELD_OVERHEAD).sum::<usize>()
    };
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let fits = Bounds { bytes: size(&get) + size(&[("x", "y")]), fields: 1 };
    let too_large = "Some(431) http2.head_too_large: more than `head_bytes`";
    for (bounds, refused) in [
        (fits, "accepted".to_owned()),
        (Bounds { bytes: fits.bytes - 1, ..fits }, format!("{too_large} ({})", fits.bytes - 1)),
        (Bounds { bytes: 0, ..fits }, format!("{too_large} (0)")),
        (
            Bounds { fields: 0, ..fits },
            "Some(431) http2.too_many_fields: more than `head_fields` (0)".to_owned(),
        ),
    ] {
        let mut decoder = HpackDecoder::new(4096);
        assert_eq!(refusal(&mut decoder, &format!("{GET} {entry}"), bounds), refused);
        assert_eq!(refusal(&mut decoder, &again, BOUNDS), "accepted");
    }
    // A malformed message, and one that is skipped.
    let mut decoder = HpackDecoder::new(4096);
    let malformed = refusal(&mut decoder, &format!("00015801 79 {entry}"), BOUNDS);
    assert_eq!(malformed, "malformed http2.field_name_malformed");
    assert_eq!(refusal(&mut decoder, &again, BOUNDS), "accepted");
    let mut decoder = HpackDecoder::new(4096);
    decoder.skip(&from_hex(&format!("{GET} {entry}")), &mut Head::default()).unwrap();
    assert_eq!(refusal(&mut decoder, &again, BOUNDS), "accepted");
}

#[test]
fn a_byte_that_stands_for_the_whole_table_is_copied_within_the_bounds_only() {
    let mut decoder = HpackDecoder::new(4096);
    let mut block = from_hex(GET);
    // One field as large as the table has room for beside `a`, and then references to it.
    let value = vec![b'v'; 3900];
    block.extend([0x40, 1, b'x', 0x7f]);
    block.extend(from_hex("bd1d"));
    block.extend(&value);
    block.extend(vec![0xbe; 60_000]);
    let mut head = Head::default();
    let refused = decoder.request(&block, BOUNDS, &mut head);
    assert!(
        matches!(refused, Err(BlockRefusal::Unacceptable(error)) if error.status() == Some(431))
    );
    assert!(head.wire_size() <= BOUNDS.bytes && head.bytes_mut().capacity() <= 4 * BOUNDS.bytes);
    decoder.skip(&vec![0xbe; 60_000], &mut head).unwrap();
    assert!(head.bytes_mut().capacity() <= 4 * BOUNDS.bytes);
    // The same with names: literals that are not kept.
    decoder.skip(&[0x0f, 0x2f, 0].repeat(30_000), &mut head).unwrap();
    assert!(head.bytes_mut().capacity() <= 4 * BOUNDS.bytes);
    assert!(decoder.bytes_held() <= 3 * 4096 / 2 + 4096);
}

#[test]
fn random_blocks_do_no_harm_and_skipping_is_reading() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..3000 {
        let mut reader = HpackDecoder::new(200);
        let mut skipper = HpackDecoder::new(200);
        let mut head = Head::default();
        for _ in 0..8 {
            // Bytes that are often valid: indices, short literals.
            let byte = |random: &mut fastrand::Rng| match random.u8(..8) {
                0 => random.u8(..),
                1..=3 => random.u8(0x82..0xc4),
                4 => random.u8(0x40..0x48),
                5 => b'a',
                _ => random.u8(..4),
            };
            let block: Vec<u8> = (0..random.usize(..30)).map(|_| byte(&mut random)).collect();
            let bounds = Bounds { bytes: random.usize(..600), fields: random.usize(..6) };
            let read = reader.request(&block, bounds, &mut head);
            assert!(head.len() <= bounds.fields && head.wire_size() <= bounds.bytes);
            let skipped = skipper.skip(&block, &mut head);
            let broken = |of: &Result<(), BlockRefusal>| match of {
                Err(BlockRefusal::Compression(reason)) => Some(*reason),
                _ => None,
            };
            assert_eq!(broken(&read), broken(&skipped), "{block:x?}");
            if broken(&read).is_some() {
                break;
            }
            assert_eq!(reader.bytes_held(), skipper.bytes_held());
        }
    }
}
