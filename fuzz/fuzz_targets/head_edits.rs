//! Editing heads: after any edits, the fields equal those of a plain list with the same edits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;

const NAMES: [&[u8]; 6] = [b"a", b"b-long-name", b"accept", b"cookie", b"te", b"content-length"];

fuzz_target!(|edits: Vec<(u8, u8, Vec<u8>)>| {
    let (mut head, mut plain) = (Head::default(), Vec::<(&[u8], Vec<u8>)>::new());
    for (what, name, value) in edits {
        let name = NAMES[usize::from(name) % NAMES.len()];
        match what % 3 {
            0 => {
                head.append(name, &value);
                plain.push((name, value));
            }
            1 => {
                head.set(name, &value);
                plain.retain(|(other, _)| *other != name);
                plain.push((name, value));
            }
            _ => {
                assert_eq!(head.remove(name), plain.iter().any(|(other, _)| *other == name));
                plain.retain(|(other, _)| *other != name);
            }
        }
        for name in NAMES {
            let found: Vec<&[u8]> = head.values(name).collect();
            let wanted = plain.iter().filter(|(other, _)| *other == name);
            let mut wanted: Vec<&[u8]> = wanted.map(|(_, value)| value.as_slice()).collect();
            let mut found = found;
            // The position of a field that is set among others of its name does not matter.
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        }
        assert_eq!(head.len(), plain.len());
    }
});
