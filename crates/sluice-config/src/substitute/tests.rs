use sluice_core::{Diags, Path as At, Setting as _};

use super::*;

fn environment(name: &str) -> Option<OsString> {
    match name {
        "HOST" => Some("10.0.0.1".into()),
        "NONE" => Some("".into()),
        "YAML" => Some("a: [b, {".into()),
        _ => None,
    }
}

#[track_caller]
fn check(text: &str, expected: Result<Option<&str>, &str>) {
    match (expand(text, &environment), expected) {
        (Ok(got), Ok(expected)) => assert_eq!(got.as_deref(), expected, "{text}"),
        (Err(error), Err(part)) => assert!(error.message.contains(part), "{}", error.message),
        (got, _) => panic!("{text}: {got:?}"),
    }
}

#[test]
fn variables_are_expanded() {
    check("plain $HOST {HOST}", Ok(None));
    check("${HOST}", Ok(Some("10.0.0.1")));
    check("${HOST}:${PORT:-80}/${HOST}", Ok(Some("10.0.0.1:80/10.0.0.1")));
    check("${NONE}", Ok(Some("")));
    check("${NONE:-a}${UNSET:-}", Ok(Some("a")));
    check("$${HOST} $$${HOST}", Ok(Some("${HOST} $${HOST}")));
    check("${YAML}", Ok(Some("a: [b, {")));
}

#[test]
fn mistakes_in_variables_are_named() {
    check("a${UNSET}", Err("`UNSET` is not set"));
    check("${HOST", Err("no closing"));
    for bad in ["${}", "${A-B}", "${1A}", "${ HOST }", "${A-B:-c}"] {
        check(bad, Err("is not the name"));
    }
}

fn read(text: &str, folder: &Path) -> (Node, Sources) {
    let mut root = crate::yaml::read(text, 0, &mut Diags::new()).expect("YAML");
    let mut sources = Sources::default();
    resolve(&mut root, folder, &mut sources, &environment);
    (root, sources)
}

#[test]
fn only_values_are_resolved() {
    let (root, _) = read("\"${HOST}\": { a: ['${HOST}', { env: HOST }] }\n", Path::new("."));
    let inner = &root.entries().expect("a map")[0];
    assert_eq!(&*inner.key, "${HOST}");
    let items = inner.node.get("a").expect("a field").node.items();
    assert!(items.iter().all(|item| item.text() == Some("10.0.0.1")));
    assert!(root.span.start < items[0].span.start, "positions are kept");
}

#[test]
fn a_file_is_read_once_and_loses_one_line_break() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("the file is written");
    };
    write("secret", b"word\n\n");
    write("latin1", b"\xe9");
    let max = usize::try_from(VALUE_BYTES_MAX).expect("it fits into memory");
    write("large", &vec![b'a'; max + 1]);
    let text = "a: [{ file: secret }, { file: secret }, { file: latin1 }, { file: large }, { file: . }, { file: none }]\n";
    let (root, sources) = read(text, folder.path());
    let items = root.get("a").expect("a field").node.items();
    assert_eq!((items[0].text(), items[1].text()), (Some("word\n"), Some("word\n")));
    let says =
        ["byte 0 is not UTF-8", "must not exceed 1048576 bytes", "is not a file", "cannot be read"];
    for (item, expected) in items[2..].iter().zip(says) {
        let mut diags = Diags::new();
        assert_eq!(String::bind(item, &At::ROOT, &mut diags), None);
        let found: Vec<_> = diags.iter().collect();
        assert!(found[0].message.contains(expected) && found[0].help.is_some(), "{found:?}");
        assert_eq!(found[0].span, Some(item.span));
    }
    assert_eq!(sources.value_paths().count(), 5, "each file is known once");
}

#[test]
fn a_placeholder_is_a_map_where_a_map_is_meant() {
    let (root, _) = read("runtime: { file: values }\nx: { env: HOST, b: 1 }\n", Path::new("."));
    let inner = |key: &str| root.get(key).expect("a field").node.entries().map(<[_]>::len);
    assert_eq!((inner("runtime"), inner("x")), (Some(1), Some(2)));
}
