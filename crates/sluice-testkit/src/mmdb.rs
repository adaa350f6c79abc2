//! Databases of addresses in MaxMind's format.
//!
//! Owns: their binary form (MaxMind DB 2.0). Refuses to know: which fields a database has. Keeps: one that is written here is
//! read by any reader; IPv4 addresses are at `::/96`, as in the databases that are sold.

use std::net::IpAddr;

/// A value in a database.
#[derive(Clone, Debug)]
pub enum MmdbValue {
    /// A text.
    Text(&'static str),
    /// A number of 16 bits.
    Short(u16),
    /// A number of 32 bits.
    Number(u32),
    /// A number of 64 bits.
    Long(u64),
    /// Fields by name.
    Map(Vec<(&'static str, Self)>),
    /// A list.
    List(Vec<Self>),
}

/// The bytes of a database of this type, with these blocks, none of which contains another.
///
/// # Panics
/// When a block is within another.
pub fn database(kind: &'static str, blocks: &[(IpAddr, u8, MmdbValue)]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut tree: Vec<[Record; 2]> = vec![[Record::None; 2]];
    for (network, bits, value) in blocks {
        let start = data.len();
        write(value, &mut data);
        let (network, bits) = match network {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), u32::from(*bits) + 96),
            IpAddr::V6(v6) => (v6.to_bits(), u32::from(*bits)),
        };
        let mut node = 0;
        for depth in 0..bits {
            let side = usize::from(network >> (127 - depth) & 1 == 1);
            if depth + 1 == bits {
                assert!(matches!(tree[node][side], Record::None), "a block is within another");
                tree[node][side] = Record::Data(start);
                break;
            }
            node = match tree[node][side] {
                Record::Node(next) => next,
                Record::None => {
                    let next = tree.len();
                    tree.push([Record::None; 2]);
                    tree[node][side] = Record::Node(next);
                    next
                }
                Record::Data(_) => panic!("a block is within another"),
            };
        }
    }
    let nodes = tree.len();
    let mut out = Vec::new();
    for record in tree.iter().flatten() {
        let number = match record {
            Record::None => nodes,
            Record::Node(node) => *node,
            Record::Data(start) => nodes + 16 + start,
        };
        out.extend_from_slice(&u32::try_from(number).expect("it is small").to_be_bytes());
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    let number = |number: usize| MmdbValue::Number(u32::try_from(number).expect("it is small"));
    let metadata = MmdbValue::Map(vec![
        ("node_count", number(nodes)),
        ("record_size", MmdbValue::Short(32)),
        ("ip_version", MmdbValue::Short(6)),
        ("database_type", MmdbValue::Text(kind)),
        ("languages", MmdbValue::List(vec![MmdbValue::Text("en")])),
        ("binary_format_major_version", MmdbValue::Short(2)),
        ("binary_format_minor_version", MmdbValue::Short(0)),
        ("build_epoch", MmdbValue::Long(1)),
        ("description", MmdbValue::Map(vec![("en", MmdbValue::Text("of a test"))])),
    ]);
    write(&metadata, &mut out);
    out
}

#[derive(Clone, Copy)]
enum Record {
    None,
    Node(usize),
    Data(usize),
}

fn write(value: &MmdbValue, out: &mut Vec<u8>) {
    let short = |of: usize| u8::try_from(of).expect("a test has short values");
    match value {
        MmdbValue::Text(text) => {
            // A longer one has the rest of its length behind.
            match short(text.len()).checked_sub(29) {
                None => out.push(2 << 5 | short(text.len())),
                Some(rest) => out.extend_from_slice(&[2 << 5 | 29, rest]),
            }
            out.extend_from_slice(text.as_bytes());
        }
        MmdbValue::Short(number) => {
            out.push(5 << 5 | 2);
            out.extend_from_slice(&number.to_be_bytes());
        }
        MmdbValue::Long(number) => {
            // An extended type: 64 bits, 9.
            out.extend_from_slice(&[8, 9 - 7]);
            out.extend_from_slice(&number.to_be_bytes());
        }
        MmdbValue::Number(number) => {
            out.push(6 << 5 | 4);
            out.extend_from_slice(&number.to_be_bytes());
        }
        MmdbValue::Map(fields) => {
            out.push(7 << 5 | short(fields.len()));
            for (name, value) in fields {
                write(&MmdbValue::Text(name), out);
                write(value, out);
            }
        }
        MmdbValue::List(items) => {
            // An extended type: the array, 11.
            out.extend_from_slice(&[short(items.len()), 11 - 7]);
            items.iter().for_each(|item| write(item, out));
        }
    }
}
