//! What the reader takes and what it refuses.

use sluice_core::{Diags, Severity};

use crate::message::ProtoMessage;
use crate::{UnknownFields, descriptors, read};

mod forms;
mod hostile;
mod mapping;
mod validation;
mod wire;

/// Reads a message of a type from YAML: the message, and the findings as `path: message`.
fn read_as(name: &str, text: &str, unknown: UnknownFields) -> (Option<ProtoMessage>, Vec<String>) {
    let mut diags = Diags::new();
    let node = sluice_config::yaml::read(text, 0, &mut diags);
    let descriptor = descriptors::message(name).expect(name);
    let message = node.and_then(|node| read::read(&node, &descriptor, unknown, &mut diags));
    let shown = diags.iter().map(|found| {
        let word = if found.severity == Severity::Error { "" } else { "warning: " };
        format!("{word}{}: {}", found.path, found.message)
    });
    (message, shown.collect())
}

fn findings(name: &str, text: &str) -> Vec<String> {
    read_as(name, text, UnknownFields::Refuse).1
}

#[track_caller]
fn taken(name: &str, text: &str) -> ProtoMessage {
    let (message, found) = read_as(name, text, UnknownFields::Refuse);
    assert_eq!(found, Vec::<String>::new(), "{text}");
    message.expect("a message without findings")
}

#[track_caller]
fn refused(name: &str, text: &str, expected: &str) {
    let found = findings(name, text);
    assert!(
        found.iter().any(|one| one.contains(expected)),
        "{text}\nexpected {expected}\n{found:#?}"
    );
}
