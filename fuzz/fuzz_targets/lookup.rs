//! Lookup tables: no file panics; in an exact table, every key of the file is found.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l4::filters::lookup::{LookupKind, of_lines};

fuzz_target!(|input: (u8, &[u8], &str)| {
    let (kind, file, key) = input;
    let kinds = [
        LookupKind::Exact,
        LookupKind::Prefix,
        LookupKind::Suffix,
        LookupKind::Cidr,
        LookupKind::Regex,
    ];
    let kind = kinds[usize::from(kind) % kinds.len()];
    let Ok(table) = of_lines(kind, file) else { return };
    let _ = table.get(key);
    for line in String::from_utf8_lossy(file).lines().map(str::trim) {
        let own = line.split([' ', '\t']).next().unwrap_or_default();
        let found = table.get(own);
        let is_entry = !own.is_empty() && !line.starts_with('#');
        assert!(!is_entry || kind != LookupKind::Exact || found.is_some());
    }
});
