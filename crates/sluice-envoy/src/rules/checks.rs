//! The rules of one field, compiled.
//!
//! Owns: bounds of lists, maps, enums, `Any`. Refuses to know: where a value was written. Keeps: a rule judges a
//! value the way Envoy does, the default of an absent field included.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

use super::numbers::NumberRules;
use super::strings::StringRules;
use super::{get, is, texts_of};
use crate::message::{ProtoItem, ProtoValue};

/// The rules of a field.
#[derive(Debug, Default)]
pub(super) struct FieldRules {
    required: bool,
    skipped: bool,
    kind: RuleKind,
}

#[derive(Debug, Default)]
enum RuleKind {
    #[default]
    Nothing,
    Number(NumberRules),
    Bool(Option<bool>),
    Text(StringRules),
    Bytes(StringRules),
    Enum(EnumRules),
    List {
        min: u64,
        max: u64,
        unique: bool,
        item: Option<Box<FieldRules>>,
    },
    Map {
        min: u64,
        max: u64,
        key: Option<Box<FieldRules>>,
        value: Option<Box<FieldRules>>,
    },
    Any {
        among: Vec<String>,
        not: Vec<String>,
    },
}

#[derive(Debug, Default)]
struct EnumRules {
    constant: Option<i32>,
    defined_only: bool,
    among: Vec<i32>,
    not: Vec<i32>,
}

/// The value of a field that is not set, if its default is judged.
pub(super) fn default_of(field: &FieldDescriptor) -> Option<ProtoValue> {
    if field.is_map() {
        return Some(ProtoValue::Map(Vec::new()));
    }
    if field.is_list() {
        return Some(ProtoValue::List(Vec::new()));
    }
    if field.supports_presence() {
        return None;
    }
    match field.kind() {
        Kind::Message(_) => None,
        Kind::Bool => Some(ProtoValue::Bool(false)),
        Kind::Float | Kind::Double => Some(ProtoValue::Float(0.0)),
        Kind::String => Some(ProtoValue::Text("".into())),
        Kind::Bytes => Some(ProtoValue::Bytes([].into())),
        Kind::Enum(of) => {
            Some(ProtoValue::Enum(0, of.get_value(0).map(|value| value.name().into())))
        }
        _ => Some(ProtoValue::Int(0)),
    }
}

impl FieldRules {
    pub(super) const fn required(&self) -> bool {
        self.required
    }

    /// Compiles `validate.FieldRules`.
    pub(super) fn of(rules: &DynamicMessage) -> Self {
        let mut check = Self::default();
        for (field, value) in rules.fields() {
            let Value::Message(of) = value else { continue };
            check.required |= is(of, "required");
            check.skipped |= is(of, "skip");
            if field.name() != "message" {
                check.kind = RuleKind::of(field.name(), of);
            }
        }
        check
    }

    /// Judges a value: what is wrong with it, as the end of a sentence.
    pub(super) fn judge(&self, value: &ProtoValue) -> Result<(), String> {
        if self.skipped {
            return Ok(());
        }
        match (&self.kind, value) {
            (RuleKind::Number(rules), value) => rules.judge(value),
            (RuleKind::Bool(Some(wanted)), ProtoValue::Bool(value)) if wanted != value => {
                Err(format!("must be {wanted}"))
            }
            (RuleKind::Text(rules), ProtoValue::Text(text)) => rules.judge(text),
            (RuleKind::Bytes(rules), ProtoValue::Bytes(bytes)) => rules.judge_length(bytes),
            (RuleKind::Enum(rules), ProtoValue::Enum(number, name)) => {
                rules.judge(*number, name.as_deref())
            }
            (RuleKind::List { min, max, unique, item }, ProtoValue::List(items)) => {
                length(items.len(), *min, *max)?;
                if *unique && has_twins(items) {
                    return Err("has the same item twice".into());
                }
                let judge = |check: &Self| items.iter().try_for_each(|one| check.judge(&one.value));
                item.as_deref().map_or(Ok(()), judge)
            }
            (RuleKind::Map { min, max, key, value }, ProtoValue::Map(entries)) => {
                length(entries.len(), *min, *max)?;
                for (name, item) in entries {
                    let name = ProtoValue::Text(name.clone());
                    key.as_deref().map_or(Ok(()), |check| check.judge(&name))?;
                    value.as_deref().map_or(Ok(()), |check| check.judge(&item.value))?;
                }
                Ok(())
            }
            (RuleKind::Any { among, not }, ProtoValue::Message(message)) => {
                let is = |url: &String| url.ends_with(&format!("/{}", message.type_name()));
                if not.iter().any(is) || !(among.is_empty() || among.iter().any(is)) {
                    return Err(format!("must not be a {}", message.type_name()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl RuleKind {
    fn of(kind: &str, of: &DynamicMessage) -> Self {
        match kind {
            "string" => Self::Text(StringRules::of(of)),
            "bytes" => Self::Bytes(StringRules::of(of)),
            "bool" => Self::Bool(get(of, "const").and_then(|value| value.as_bool())),
            "enum" => Self::Enum(EnumRules {
                constant: get(of, "const").and_then(|value| value.as_i32()),
                defined_only: is(of, "defined_only"),
                among: numbers_of(of, "in"),
                not: numbers_of(of, "not_in"),
            }),
            "repeated" => Self::List {
                min: bound(of, "min_items", 0),
                max: bound(of, "max_items", u64::MAX),
                unique: is(of, "unique"),
                item: inner(of, "items"),
            },
            "map" => Self::Map {
                min: bound(of, "min_pairs", 0),
                max: bound(of, "max_pairs", u64::MAX),
                key: inner(of, "keys"),
                value: inner(of, "values"),
            },
            "any" => Self::Any { among: texts_of(of, "in"), not: texts_of(of, "not_in") },
            _ => Self::Number(NumberRules::of(of)),
        }
    }
}

impl EnumRules {
    fn judge(&self, number: i32, name: Option<&str>) -> Result<(), String> {
        if self.defined_only && name.is_none() {
            return Err(format!("has no value {number}"));
        }
        let refused = self.constant.is_some_and(|wanted| wanted != number)
            || self.not.contains(&number)
            || !(self.among.is_empty() || self.among.contains(&number));
        let shown = name.map_or_else(|| number.to_string(), str::to_owned);
        if refused { Err(format!("must not be {shown}")) } else { Ok(()) }
    }
}

fn length(length: usize, min: u64, max: u64) -> Result<(), String> {
    match length as u64 {
        length if length < min => Err(format!("must have at least {min} of them")),
        length if length > max => Err(format!("must have at most {max} of them")),
        _ => Ok(()),
    }
}

fn has_twins(items: &[ProtoItem]) -> bool {
    let texts = items.iter().filter_map(|item| match &item.value {
        ProtoValue::Text(text) => Some(&**text),
        _ => None,
    });
    let mut seen = std::collections::HashSet::new();
    texts.into_iter().any(|text| !seen.insert(text))
}

fn bound(of: &DynamicMessage, name: &str, otherwise: u64) -> u64 {
    get(of, name).and_then(|value| value.as_u64()).unwrap_or(otherwise)
}

fn inner(of: &DynamicMessage, name: &str) -> Option<Box<FieldRules>> {
    match get(of, name)? {
        Value::Message(rules) => Some(Box::new(FieldRules::of(&rules))),
        _ => None,
    }
}

fn numbers_of(of: &DynamicMessage, name: &str) -> Vec<i32> {
    let number = |value: &Value| value.as_i32().or_else(|| value.as_enum_number());
    match get(of, name) {
        Some(Value::List(items)) => items.iter().filter_map(number).collect(),
        _ => Vec::new(),
    }
}
