use std::fmt::Write as _;

use super::*;

fn table(kind: LookupKind, lines: &str) -> LookupTable {
    of_lines(kind, lines.as_bytes()).unwrap()
}

#[test]
fn keys_are_found_as_the_table_compares_them() {
    use LookupKind::{Cidr, Exact, Prefix, Regex, Suffix};
    for (kind, lines, found) in [
        (Exact, "a 1\nb\n", &[("a", Some("1")), ("b", Some("")), ("", None), ("ab", None)][..]),
        (
            Prefix,
            "/a 1\n/a/b 2\n/ 3\n",
            &[
                ("/a/b/c", Some("2")),
                ("/ab", Some("1")),
                ("/x", Some("3")),
                ("x", None),
                ("", None),
            ],
        ),
        (
            Suffix,
            ".test 1\n.a.test 2\nb.test 3\n",
            &[
                ("x.a.test", Some("2")),
                ("x.b.test", Some("3")),
                ("b.test", Some("3")),
                ("test", None),
            ],
        ),
        (
            Cidr,
            "10.0.0.0/8 wide\n10.1.0.0/16 narrow\n10.1.2.3 one\n2001:db8::/32 six\n",
            &[
                ("10.1.2.3", Some("one")),
                ("10.1.2.4", Some("narrow")),
                ("10.2.0.0", Some("wide")),
                ("::ffff:10.2.0.0", Some("wide")),
                ("2001:db8::1", Some("six")),
                ("2001:db9::1", None),
                ("11.0.0.0", None),
                ("10.1.2.3:443", Some("one")),
                ("[2001:db8::1]:443", Some("six")),
                ("10.1.2.3:", None),
                ("a.test", None),
                ("", None),
            ],
        ),
        (Cidr, "0.0.0.0/0 all\n", &[("255.255.255.255", Some("all")), ("::1", None)]),
        (
            Regex,
            "a+ 1\n[a-c]+ 2\n(?i)X 3\n",
            &[("aa", Some("1")), ("ab", Some("2")), ("x", Some("3")), ("xa", None), ("", None)],
        ),
    ] {
        let table = table(kind, lines);
        for (key, value) in found {
            assert_eq!(table.get(key), *value, "{kind:?} {key}");
        }
    }
}

#[test]
fn a_file_that_is_wrong_names_the_line() {
    use LookupKind::{Cidr, Exact, Prefix, Regex};
    let long = format!("{} 1", "x".repeat(256));
    let huge = format!("{} 1", "x".repeat(70_000));
    for (kind, lines, problem) in [
        (Exact, "a 1\n\n# a comment\na 2\n", "line 4: the key occurs twice"),
        (Exact, &huge, "line 1: the entry is too large"),
        (Prefix, &long, "line 1: a key must have 1 to 255 bytes"),
        (
            Cidr,
            "10.0.0.1/8 x",
            "line 1: `10.0.0.1/8` has bits set after its prefix; write 10.0.0.0/8",
        ),
        (
            Cidr,
            "\n10.0.0.0/33 x",
            "line 2: the prefix length of `10.0.0.0/33` must be from 0 to 32",
        ),
        (Cidr, "host x", "line 1: expected an address block such as 10.0.0.0/8, not `host`"),
    ] {
        assert_eq!(of_lines(kind, lines.as_bytes()).unwrap_err(), problem);
    }
    assert!(of_lines(Regex, b"ok 1\n(a 2").unwrap_err().starts_with("line 2: "));
    assert!(of_lines(Regex, b"\\w{9}{9}{9}{9}{9} 1").unwrap_err().starts_with("line 1: "));
    assert_eq!(of_lines(Exact, b"\xff 1").unwrap_err(), "it is not UTF-8");
    let many: String = (0..1001).map(|number| format!("a{number} 1\n")).collect();
    assert_eq!(
        of_lines(Regex, many.as_bytes()).unwrap_err(),
        "line 1001: there are more than 1000 regexes"
    );
}

#[test]
fn any_bytes_are_a_table_or_an_error() {
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let alphabet = b"a1./: \n#\t*\\[(|\xc3\xa9\xff";
    for _ in 0..2000 {
        let length = next() as usize % 40;
        let bytes: Vec<u8> =
            (0..length).map(|_| alphabet[next() as usize % alphabet.len()]).collect();
        for kind in [
            LookupKind::Exact,
            LookupKind::Prefix,
            LookupKind::Suffix,
            LookupKind::Cidr,
            LookupKind::Regex,
        ] {
            let Ok(table) = of_lines(kind, &bytes) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            for key in text.split_whitespace().chain(["", "10.0.0.1", "::1"]) {
                let _ = table.get(key);
            }
        }
    }
}

#[test]
fn a_million_entries_are_held_in_little_more_than_their_text() {
    let mut lines = String::new();
    for number in 0..1_000_000_u32 {
        let _ = writeln!(lines, "host-{number}.example.com tenant-{}", number % 1000);
    }
    let table = table(LookupKind::Exact, &lines);
    assert_eq!(table.len(), 1_000_000);
    assert_eq!(table.get("host-999999.example.com"), Some("tenant-999"));
    assert_eq!(table.get("host-1000000.example.com"), None);
    let more = table.entries.heap_bytes() - lines.len();
    assert!(more <= 20 * 1_000_000 + (1 << 20), "{more} bytes beside the text");
}

#[test]
fn equal_values_in_a_row_are_held_once() {
    let lines: String =
        (0..1000).map(|number| format!("{number} {}\n", "v".repeat(1000))).collect();
    let table = table(LookupKind::Exact, &lines);
    assert!(table.entries.heap_bytes() < 40_000, "{}", table.entries.heap_bytes());
    assert_eq!(table.get("999").map(str::len), Some(1000));
}
