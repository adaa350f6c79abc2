//! The rules of the repository as ordinary tests, and for each rule a tree that violates it.

use std::fs;
use std::path::{Path, PathBuf};

use xtask::{rules, shell};

type Rule = fn(&Path) -> anyhow::Result<Vec<String>>;

#[track_caller]
fn holds(rule: Rule) {
    assert_eq!(rule(&shell::root()).expect("the sources can be read"), Vec::<String>::new());
}

/// A tree in which every crate is empty and follows the rules.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let tree = Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        let _ = fs::remove_dir_all(&tree.0);
        for name in rules::LAYERS.iter().chain(["sluice-testkit", "xtask", "sluice-sdk"].iter()) {
            tree.write(&format!("crates/{name}/Cargo.toml"), "[dependencies]\n");
            let root = "//! Owns: nothing.\n#![forbid(unsafe_code)]\n";
            tree.write(&format!("crates/{name}/src/lib.rs"), root);
        }
        tree.write("tests/src/lib.rs", "//! Owns: nothing.\n");
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder is made");
        fs::write(path, text).expect("a file is written");
    }
}

/// Checks that a rule holds in a valid tree, and fails, mentioning `part`, once `file` contains `text`.
#[track_caller]
fn fails(name: &str, rule: Rule, file: &str, text: &str, part: &str) {
    let tree = Tree::new(name);
    assert_eq!(rule(&tree.0).expect("the sources can be read"), Vec::<String>::new());
    tree.write(file, text);
    let broken = rule(&tree.0).expect("the sources can be read").join("\n");
    assert!(broken.contains(part), "{broken}");
}

#[test]
fn crate_dependencies_point_downwards() {
    holds(rules::layers);
    let upwards = "[dependencies]\nsluice-l7.workspace = true\n";
    fails(
        "upwards",
        rules::layers,
        "crates/sluice-l4/Cargo.toml",
        upwards,
        "sluice-l4 names sluice-l7",
    );
    let developers = "[dependencies]\nsluice-testkit.workspace = true\n";
    fails("developers", rules::layers, "crates/sluice/Cargo.toml", developers, "sluice-testkit");
}

#[test]
fn l4_is_not_built_on_http() {
    assert_eq!(rules::l4_packages().expect("cargo knows"), Vec::<String>::new());
    assert_eq!(rules::not_for_l4("sluice-l4 v0.1.0\nh2 v0.4.20\n"), ["sluice-l4 is built on h2"]);
}

#[test]
fn sibling_modules_form_no_circle() {
    holds(rules::cycles);
    let tree = Tree::new("circle");
    let broken = || rules::cycles(&tree.0).expect("the sources can be read").join("\n");
    tree.write("crates/sluice-l4/src/a.rs", "//! A.\nuse crate::b::{c::C, B};\n");
    tree.write("crates/sluice-l4/src/b.rs", "//! B.\nuse self::c::C;\n// use crate::a::A;\n");
    // A child may use its parent.
    tree.write("crates/sluice-l4/src/b/c.rs", "//! C.\nuse super::B;\n");
    assert_eq!(broken(), "");
    // Siblings below another module count as well, by whatever path they are named.
    tree.write("crates/sluice-l4/src/b/c.rs", "//! C.\nuse super::{B, d::D};\n");
    tree.write("crates/sluice-l4/src/b/d.rs", "//! D.\nuse crate::b::c::C;\n");
    assert!(broken().contains("sluice-l4::b: modules use each other in a circle"), "{}", broken());
    tree.write("crates/sluice-l4/src/b/d.rs", "//! D.\nuse super::super::a::A;\n");
    assert!(broken().contains("sluice-l4: modules use each other in a circle"), "{}", broken());
}

#[test]
fn every_lock_on_the_data_path_is_explained() {
    holds(rules::locks);
    let text = "//! A.\nstatic A: Mutex<u8> = Mutex::new(0);\n";
    fails("locks", rules::locks, "crates/sluice-l4/src/a.rs", text, "a.rs has a lock");
    fails(
        "no-lock",
        rules::locks,
        "crates/sluice-tls/src/store.rs",
        "//! A.\n",
        "store.rs has no lock",
    );
}

#[test]
fn every_source_file_has_a_header() {
    holds(rules::headers);
    fails(
        "headers",
        rules::headers,
        "crates/sluice-l4/src/a.rs",
        "pub fn a() {}\n",
        "a.rs has no header",
    );
}

#[test]
fn unsafe_code_lives_in_one_crate() {
    holds(rules::safety);
    fails(
        "safety",
        rules::safety,
        "crates/sluice-l4/src/lib.rs",
        "//! L4.\n",
        "does not forbid unsafe",
    );
    // The one crate with a file of its own for it.
    let sdk = "//! A.\n#![deny(unsafe_code)]\n";
    let tree = Tree::new("safety-sdk");
    tree.write("crates/sluice-sdk/src/lib.rs", sdk);
    tree.write("crates/sluice-sdk/src/raw.rs", "//! A.\n#![allow(unsafe_code)]\n");
    assert_eq!(rules::safety(&tree.0).expect("the sources can be read"), Vec::<String>::new());
    tree.write("crates/sluice-sdk/src/a.rs", "//! A.\n#![allow(unsafe_code)]\n");
    let broken = rules::safety(&tree.0).expect("the sources can be read").join("\n");
    assert!(broken.contains("a.rs allows unsafe code; only raw.rs may"), "{broken}");
}

#[test]
fn sources_contain_no_markers_of_unfinished_work() {
    holds(rules::leftovers);
    let text = format!("//! A.\n// {}{}: later\n", "TO", "DO");
    fails("leftovers", rules::leftovers, "crates/sluice-l4/src/a.rs", &text, "a.rs holds");
}

#[test]
fn every_file_of_tests_is_compiled() {
    holds(rules::uncompiled_tests);
    let tree = Tree::new("uncompiled");
    tree.write("tests/tests/group/main.rs", "//! A group.\n\nmod a;\n");
    tree.write("tests/tests/group/a.rs", "//! A.\n");
    // One that is a binary itself.
    tree.write("tests/tests/c.rs", "//! C.\n");
    let broken = || rules::uncompiled_tests(&tree.0).expect("the sources can be read");
    assert_eq!(broken(), Vec::<String>::new());
    tree.write("tests/tests/group/b.rs", "//! B.\n");
    assert!(broken().join("\n").contains("main.rs has no line `mod b;`"), "{:?}", broken());
}

#[test]
fn a_type_name_means_one_thing() {
    holds(rules::type_names);
    let tree = Tree::new("type-names");
    let declares = |path: &str, kind: &str| tree.write(path, &format!("//! A.\n{kind} Shelf;\n"));
    declares("crates/sluice-l4/src/a.rs", "pub struct");
    // A YAML section may share the name of the type it becomes; tests and associated types are exempt.
    declares("crates/sluice-model/src/sections.rs", "    pub struct");
    tree.write(
        "crates/sluice-l7/src/a.rs",
        "//! A.\n    type Shelf = A;\n#[cfg(test)]\nmod tests {\nstruct Shelf;\n",
    );
    let broken = || rules::type_names(&tree.0).expect("the sources can be read");
    assert_eq!(broken(), Vec::<String>::new());
    declares("crates/sluice-core/src/a.rs", "enum");
    assert!(broken().join("\n").contains("the type `Shelf` is declared in"), "{:?}", broken());
}

#[test]
fn pages_and_sources_use_the_words_of_the_field() {
    holds(rules::words);
    let text = "//! A station.\npub fn explanations() {}\n";
    fails("words", rules::words, "crates/sluice-l4/src/a.rs", text, "a.rs says `station`; write:");
    fails("words-docs", rules::words, "docs/http.md", "Whoever asks\n", "http.md says `whoever`");
}

#[test]
fn pages_name_files_that_exist() {
    holds(rules::paths);
    let page = "docs/life-of-a-connection.md";
    let path = "See `crates/sluice-l4/src/gone.rs`.\n";
    fails("paths", rules::paths, page, path, "names crates/sluice-l4/src/gone.rs");
    fails("links", rules::paths, page, "[page](gone.md#part)\n", "links to gone.md");
    let diagram = "```text\nselect  sluice-l4/src/lib.rs  find  a chain\n```\n";
    fails("names", rules::paths, page, diagram, "sluice-l4/src/lib.rs has no find");
    let placeholder = "`crates/sluice-l4/src/inspect/NAME.rs`, then `src/metrics.rs`\n";
    let tree = Tree::new("placeholders");
    tree.write(page, placeholder);
    assert_eq!(rules::paths(&tree.0).expect("the pages can be read"), Vec::<String>::new());
}
