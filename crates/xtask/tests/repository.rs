//! The rules of the repository as ordinary tests.

use xtask::rules;

#[track_caller]
fn holds(broken: anyhow::Result<Vec<String>>) {
    assert_eq!(broken.expect("the sources can be read"), Vec::<String>::new());
}

#[test]
fn arrows_between_crates_point_downwards() {
    holds(rules::layers());
}

#[test]
fn modules_of_a_crate_form_no_circle() {
    holds(rules::cycles());
}

#[test]
fn every_file_says_what_it_owns() {
    holds(rules::headers());
}

#[test]
fn unsafe_code_lives_in_one_crate() {
    holds(rules::safety());
}

#[test]
fn nothing_is_left_for_later() {
    holds(rules::leftovers());
}
