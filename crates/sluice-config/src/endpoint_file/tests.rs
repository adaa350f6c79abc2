#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn addresses(text: &str) -> Result<Vec<String>, String> {
    let list = parse(Path::new("e.yaml"), text.to_owned())?;
    Ok(list.iter().map(|entry| entry.0.address.to_string()).collect())
}

#[track_caller]
fn check(text: &str, expected: Result<&[&str], &str>) {
    match (addresses(text), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
        (found, _) => panic!("{text:?}: {found:?}"),
    }
}

#[test]
fn a_file_is_a_list_in_yaml_or_json() {
    check(
        "- 127.0.0.1:1\n- { address: db.test:2, weight: 3 }\n",
        Ok(&["127.0.0.1:1", "db.test:2"]),
    );
    check(
        "[\"127.0.0.1:1\", {\"address\": \"[::1]:2\", \"backup\": true}]",
        Ok(&["127.0.0.1:1", "[::1]:2"]),
    );
    check("[]", Ok(&[]));
}

#[test]
fn what_is_wrong_has_its_place() {
    check("", Err("e.yaml: the file is empty; write `[]`"));
    check("# nothing\n", Err("e.yaml: the file is empty"));
    check("- 127.0.0.1:1\n- 127.0.0.1\n", Err("e.yaml:2:3: "));
    check("- 127.0.0.1:1\n- { address: 127.0.0.1:2, wieght: 3 }\n", Err("did you mean `weight`?"));
    check("- 127.0.0.1\n- 127.0.0.1\n- 127.0.0.1\n", Err("(and 2 more)"));
    check("[\"127.0.0.1:1\"", Err("e.yaml:"));
}

#[test]
fn a_file_cut_anywhere_lists_no_endpoint_that_the_whole_does_not() {
    let text = "- 127.0.0.1:80\n- { address: 127.0.0.2:80, weight: 3 }\n- address: 127.0.0.3:80\n";
    let whole = addresses(text).unwrap();
    for cut in 0..text.len() {
        let part = addresses(&text[..cut]).unwrap_or_default();
        // Only a number that is cut may mean another port.
        for address in part {
            assert!(whole.iter().any(|of| of.starts_with(&address)), "{cut}: {address}");
        }
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let mut random = fastrand::Rng::with_seed(7);
    let letters = b"-[]{}:,\"'#&*!|>%@\n 0123456789.addresswight";
    for _ in 0..2000 {
        let length = random.usize(0..64);
        let text = (0..length).map(|_| char::from(letters[random.usize(0..letters.len())]));
        drop(parse(Path::new("e.yaml"), text.collect()));
    }
}
