//! The rules that Envoy's definitions annotate fields with (protoc-gen-validate).
//!
//! Owns: what each rule means, and which are known. Refuses to know: how a message is written. Keeps: the rules of a
//! type are compiled once per file; a value is judged as Envoy judges it, the default of an absent field included.

use std::collections::HashMap;
use std::sync::Arc;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value,
};
use sluice_core::{Diags, Span};

use crate::descriptors;
use crate::message::{ProtoMessage, ProtoValue};

mod checks;
mod numbers;
mod strings;

use checks::FieldRules;

/// The rules of the types that have been met.
#[derive(Debug, Default)]
pub(crate) struct RuleBook {
    types: HashMap<String, Arc<[FieldCheck]>>,
}

/// What a type demands.
#[derive(Debug)]
enum FieldCheck {
    /// Of a field.
    Field(FieldDescriptor, Box<FieldRules>),
    /// One of a group of fields, by its name and the names of its fields.
    OneOf(Box<str>, Vec<String>),
}

impl RuleBook {
    /// Checks the fields of a message, not those of the messages in it.
    pub(crate) fn check(&mut self, message: &ProtoMessage, diags: &mut Diags) {
        let name = message.type_name();
        let checks = match self.types.get(name) {
            Some(checks) => Arc::clone(checks),
            None => {
                let checks: Arc<[FieldCheck]> = compile(&message.descriptor).into();
                self.types.insert(name.to_owned(), Arc::clone(&checks));
                checks
            }
        };
        for check in &*checks {
            match check {
                FieldCheck::OneOf(name, fields) => {
                    if !fields.iter().any(|field| message.has(field)) {
                        let text = format!("one of {} is required (`{name}`)", quoted(fields));
                        diags.error("missing-field", message.span, &*message.path, text);
                    }
                }
                FieldCheck::Field(field, check) => {
                    let set = message.peek(field.name());
                    let (value, span) = (set.map(|set| &set.value), message.place(field.name()));
                    let at = message.at(field.name());
                    check_field(check, field, value, span, &at, diags);
                }
            }
        }
    }
}

fn check_field(
    check: &FieldRules,
    field: &FieldDescriptor,
    value: Option<&ProtoValue>,
    span: Span,
    at: &str,
    diags: &mut Diags,
) {
    let default;
    let value = match value {
        Some(value) => value,
        // Of a group, only the field that is chosen is judged.
        None if field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()) => return,
        None if check.required() => {
            diags.error("missing-field", span, at, format!("`{}` is required", field.name()));
            return;
        }
        None => match checks::default_of(field) {
            // A field that tells whether it is set is not judged if it is not.
            None => return,
            Some(value) => {
                default = value;
                &default
            }
        },
    };
    if let Err(problem) = check.judge(value) {
        diags.error("bad-value", span, at, format!("`{}` {problem}", field.name()));
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn compile(descriptor: &MessageDescriptor) -> Vec<FieldCheck> {
    if flag(&descriptor.options(), "validate.disabled")
        || flag(&descriptor.options(), "validate.ignored")
    {
        return Vec::new();
    }
    let mut checks = Vec::new();
    for oneof in descriptor.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        if flag(&oneof.options(), "validate.required") {
            let fields = oneof.fields().map(|field| field.name().to_owned()).collect();
            checks.push(FieldCheck::OneOf(oneof.name().into(), fields));
        }
    }
    for field in descriptor.fields() {
        let options = field.options();
        if let Some(rules) = extension(&options, "validate.rules")
            && let Value::Message(rules) = &*rules
        {
            checks.push(FieldCheck::Field(field, Box::new(FieldRules::of(rules))));
        }
    }
    checks
}

fn extension<'a>(options: &'a DynamicMessage, name: &str) -> Option<std::borrow::Cow<'a, Value>> {
    let extension = descriptors::pool().get_extension_by_name(name)?;
    (options.descriptor() == extension.containing_message() && options.has_extension(&extension))
        .then(|| options.get_extension(&extension))
}

/// Whether a field is a secret.
pub(crate) fn is_sensitive(field: &FieldDescriptor) -> bool {
    flag(&field.options(), "udpa.annotations.sensitive")
}

fn flag(options: &DynamicMessage, name: &str) -> bool {
    extension(options, name).is_some_and(|value| matches!(&*value, Value::Bool(true)))
}

/// A field of a rule, if it is set.
fn get(of: &DynamicMessage, name: &str) -> Option<Value> {
    let field = of.descriptor().get_field_by_name(name)?;
    of.has_field(&field).then(|| of.get_field(&field).into_owned())
}

/// Whether a rule is on.
fn is(of: &DynamicMessage, name: &str) -> bool {
    get(of, name).and_then(|value| value.as_bool()) == Some(true)
}

/// The texts of a list.
fn texts_of(of: &DynamicMessage, name: &str) -> Vec<String> {
    match get(of, name) {
        Some(Value::List(items)) => {
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

/// The number of rules of a type.
#[cfg(test)]
pub(crate) fn count(descriptor: &MessageDescriptor) -> usize {
    compile(descriptor).len()
}
