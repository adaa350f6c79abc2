//! The rules of numbers and durations.
//!
//! Owns: bounds and sets. Refuses to know: fields. Keeps: bounds in reverse exclude what is between them.

use prost_reflect::{DynamicMessage, Value};

use super::{get, is};
use crate::message::{ProtoDuration, ProtoValue};

/// Bounds of numbers, and of durations in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct NumberRules {
    constant: Option<f64>,
    low: Option<NumberBound>,
    high: Option<NumberBound>,
    among: Vec<f64>,
    not: Vec<f64>,
    ignore_empty: bool,
}

/// A bound, and whether the value itself is within it.
#[derive(Clone, Copy, Debug)]
struct NumberBound {
    value: f64,
    included: bool,
}

impl NumberRules {
    pub(super) fn of(of: &DynamicMessage) -> Self {
        let mut rules = Self { ignore_empty: is(of, "ignore_empty"), ..Self::default() };
        for (field, value) in of.fields() {
            let all: Vec<f64> = match value {
                Value::List(items) => items.iter().filter_map(number_of).collect(),
                single => number_of(single).into_iter().collect(),
            };
            let bound = |included| all.first().map(|value| NumberBound { value: *value, included });
            match field.name() {
                "const" => rules.constant = all.first().copied(),
                "lt" => rules.high = bound(false),
                "lte" => rules.high = bound(true),
                "gt" => rules.low = bound(false),
                "gte" => rules.low = bound(true),
                "in" => rules.among = all,
                "not_in" => rules.not = all,
                _ => {}
            }
        }
        rules
    }

    /// Judges a number or duration; other values have no bounds.
    #[allow(clippy::float_cmp, reason = "whole numbers are compared")]
    pub(super) fn judge(&self, value: &ProtoValue) -> Result<(), String> {
        let is_duration = matches!(value, ProtoValue::Duration(_));
        let Some(value) = read(value) else { return Ok(()) };
        if self.ignore_empty && value == 0.0 {
            return Ok(());
        }
        let show =
            |bound: f64| if is_duration { format!("{}s", bound / 1e9) } else { bound.to_string() };
        let above =
            self.low.filter(|low| value < low.value || (value == low.value && !low.included));
        let below =
            self.high.filter(|high| value > high.value || (value == high.value && !high.included));
        match (above, below, self.low.zip(self.high)) {
            // Bounds in reverse: a value is outside of both, or it is between them.
            (Some(_), Some(_), Some((low, high))) if high.value < low.value => {
                let (from, to) = (show(high.value), show(low.value));
                return Err(format!("must not be between {from} and {to}"));
            }
            (_, _, Some((low, high))) if high.value < low.value => {}
            (Some(low), _, _) => {
                let word = if low.included { "at least" } else { "more than" };
                return Err(format!("must be {word} {}", show(low.value)));
            }
            (_, Some(high), _) => {
                let word = if high.included { "at most" } else { "less than" };
                return Err(format!("must be {word} {}", show(high.value)));
            }
            _ => {}
        }
        let refused = self.constant.is_some_and(|wanted| wanted != value)
            || self.not.contains(&value)
            || !(self.among.is_empty() || self.among.contains(&value));
        if refused { Err(format!("must not be {}", show(value))) } else { Ok(()) }
    }
}

#[allow(clippy::cast_precision_loss, reason = "bounds are far below what is compared exactly")]
fn read(value: &ProtoValue) -> Option<f64> {
    match value {
        ProtoValue::Int(value) => Some(*value as f64),
        ProtoValue::Float(value) => Some(*value),
        ProtoValue::Duration(value) => Some(value.0 as f64),
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "bounds are far below what is compared exactly")]
fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::I32(value) => Some(f64::from(*value)),
        Value::I64(value) => Some(*value as f64),
        Value::U32(value) => Some(f64::from(*value)),
        Value::U64(value) => Some(*value as f64),
        Value::F32(value) => Some(f64::from(*value)),
        Value::F64(value) => Some(*value),
        Value::Message(duration) => {
            let seconds = get(duration, "seconds").and_then(|value| value.as_i64()).unwrap_or(0);
            let nanos = get(duration, "nanos").and_then(|value| value.as_i32()).unwrap_or(0);
            Some(ProtoDuration::new(seconds, nanos).0 as f64)
        }
        _ => None,
    }
}
