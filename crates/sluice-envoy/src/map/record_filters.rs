//! Filters of access logs, as expressions.
//!
//! Owns: what a filter asks of a request and its response. Refuses to know: what is done with those that pass. Keeps: a filter
//! that cannot be written exactly is refused: it would let others pass.

use super::Mapping;
use crate::message::ProtoMessage;

impl Mapping<'_> {
    /// The expression that is true of what passes an `AccessLogFilter`.
    pub(super) fn record_condition(&mut self, filter: &ProtoMessage) -> Option<String> {
        let field = filter.fields.first()?;
        let kind = field.descriptor.name().to_owned();
        let of = filter.message(&kind)?;
        match &*kind {
            "status_code_filter" => self.status_condition(of),
            "header_filter" => self.header_expression(of.message("header")?),
            "response_flag_filter" => Some(flag_condition(of)),
            "and_filter" => self.joined_conditions(of, " && "),
            "or_filter" => self.joined_conditions(of, " || "),
            "extension_filter" => {
                of.without_effect(&["name"]);
                let config = of.message("typed_config")?;
                if config.descriptor.name() != "ExpressionFilter" {
                    self.unsupported_type(config);
                    return None;
                }
                Some(format!("({})", config.text("expression")?))
            }
            _ => {
                let how = "write `status_code_filter`, `response_flag_filter`, `header_filter`, or an expression in CEL";
                self.unsupported(filter, &kind, how);
                None
            }
        }
    }

    fn joined_conditions(&mut self, of: &ProtoMessage, word: &str) -> Option<String> {
        // All are mapped, so that each is reported.
        let all: Vec<Option<String>> =
            of.messages("filters").map(|filter| self.record_condition(filter)).collect();
        let all: Option<Vec<String>> = all.into_iter().collect();
        Some(format!("({})", all?.join(word)))
    }

    fn status_condition(&mut self, of: &ProtoMessage) -> Option<String> {
        let comparison = of.message("comparison")?;
        let sign = match &*comparison.choice("op") {
            "GE" => ">=",
            "LE" => "<=",
            "NE" => "!=",
            _ => "==",
        };
        let value = comparison.message("value");
        if let Some(value) = value {
            // Every such value must name one.
            value.without_effect(&["runtime_key"]);
        }
        let status = value.and_then(|value| value.number("default_value")).unwrap_or(0);
        Some(format!("response.code {sign} {status}"))
    }

    /// The expression that is true of requests that a `HeaderMatcher` takes.
    fn header_expression(&mut self, of: &ProtoMessage) -> Option<String> {
        let name = of.text("name")?.to_ascii_lowercase();
        let key = cel_text(&name);
        let (value, present) = match &*name {
            ":path" => ("request.path".to_owned(), "true".to_owned()),
            ":method" => ("request.method".to_owned(), "true".to_owned()),
            ":authority" | "host" => ("request.host".to_owned(), "true".to_owned()),
            name if name.starts_with(':') => {
                self.unsupported(of, "name", "write `:path`, `:method` or `:authority`");
                return None;
            }
            _ => (format!("request.headers[{key}]"), format!("{key} in request.headers")),
        };
        let invert = of.is("invert_match");
        let missing_is_empty = of.is("treat_missing_header_as_empty");
        let value = match missing_is_empty {
            true => format!("({present} ? {value} : '')"),
            false => value,
        };
        let kinds = [
            ("exact_match", "exact"),
            ("prefix_match", "prefix"),
            ("suffix_match", "suffix"),
            ("contains_match", "contains"),
        ];
        let condition = if let Some((field, kind)) = kinds.iter().find(|(field, _)| of.has(field)) {
            text_condition(&value, kind, of.text(field).map_or("", |text| text))
        } else if let Some(matcher) = of.message("safe_regex_match") {
            let regex = self.regex(matcher).to_owned();
            regex_condition(&value, &regex)
        } else if let Some(matcher) = of.message("string_match") {
            self.string_condition(&value, matcher)?
        } else if of.has("range_match") {
            self.unsupported(of, "range_match", "write a regex");
            return None;
        } else {
            let wanted = of.bool("present_match") != Some(false);
            return Some(format!("{}({present})", if wanted == invert { "!" } else { "" }));
        };
        let condition = format!("{}({condition})", if invert { "!" } else { "" });
        // In Envoy, a request without the header does not match, even if the condition is inverted.
        Some(match missing_is_empty {
            true => condition,
            false => format!("({present} && {condition})"),
        })
    }

    fn string_condition(&mut self, value: &str, matcher: &ProtoMessage) -> Option<String> {
        let any_case = matcher.is("ignore_case");
        if let Some(regex) = matcher.message("safe_regex") {
            if any_case {
                self.unsupported(matcher, "ignore_case", "write `(?i)` in the regex");
            }
            let regex = self.regex(regex).to_owned();
            return Some(regex_condition(value, &regex));
        }
        let kinds = [
            ("exact", "", ""),
            ("prefix", "", ".*"),
            ("suffix", ".*", ""),
            ("contains", ".*", ".*"),
        ];
        let Some((kind, before, after)) = kinds.into_iter().find(|(kind, ..)| matcher.has(kind))
        else {
            self.unsupported(matcher, "custom", "");
            return None;
        };
        let text = matcher.text(kind).map_or("", |text| text);
        Some(match any_case {
            true => {
                regex_condition(value, &format!("(?is:{before}{}{after})", regex::escape(text)))
            }
            false => text_condition(value, kind, text),
        })
    }
}

/// Whether the response has one of the flags, or any at all if none is named.
fn flag_condition(of: &ProtoMessage) -> String {
    let flags: Vec<String> = of.texts("flags").map(|(flag, _)| cel_text(flag)).collect();
    if flags.is_empty() {
        return "has(response.flag)".to_owned();
    }
    format!("(has(response.flag) && response.flag in [{}])", flags.join(", "))
}

fn text_condition(value: &str, kind: &str, text: &str) -> String {
    let text = cel_text(text);
    match kind {
        "prefix" => format!("{value}.startsWith({text})"),
        "suffix" => format!("{value}.endsWith({text})"),
        "contains" => format!("{value}.contains({text})"),
        _ => format!("{value} == {text}"),
    }
}

/// A regex of Envoy matches the whole value.
fn regex_condition(value: &str, regex: &str) -> String {
    format!("{value}.matches({})", cel_text(&format!("^(?:{regex})$")))
}

/// A text as a literal of CEL.
pub(super) fn cel_text(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}
