//! Texts that are written differently: regexes, substitutions, percentages, operators.
//!
//! Owns: how each is written in the native form. Refuses to know: fields that have one. Keeps: what cannot be written
//! exactly is refused.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{plain, quoted, single};

impl Mapping<'_> {
    /// The regex in a `RegexMatcher`.
    pub(super) fn regex<'m>(&mut self, matcher: &'m ProtoMessage) -> &'m str {
        matcher.without_effect(&["google_re2"]);
        if let Some(engine) = matcher.message("google_re2") {
            engine.all_without_effect();
        }
        matcher.text("regex").map_or("", |text| text)
    }

    /// A `StringMatcher` as a condition on a value.
    pub(super) fn string_match(&mut self, matcher: &ProtoMessage) -> Option<Node> {
        let any_case = matcher.is("ignore_case");
        let span = matcher.span;
        if let Some(regex) = matcher.message("safe_regex") {
            if any_case {
                self.unsupported(matcher, "ignore_case", "write `(?i)` in the regex");
            }
            let text = self.regex(regex);
            return Some(single("regex", quoted(text, regex.span)));
        }
        let kinds = [
            ("exact", "", ""),
            ("prefix", "", ".*"),
            ("suffix", ".*", ""),
            ("contains", ".*", ".*"),
        ];
        for (kind, before, after) in kinds {
            if !matcher.has(kind) {
                continue;
            }
            let text = matcher.text(kind).map_or("", |text| text);
            if any_case {
                let regex = format!("(?is){before}{}{after}", regex::escape(text));
                return Some(single("regex", quoted(&regex, span)));
            }
            let value = quoted(text, matcher.place(kind));
            return Some(if kind == "exact" { value } else { single(kind, value) });
        }
        if matcher.has("custom") {
            self.unsupported(matcher, "custom", "");
        }
        None
    }

    /// A whole percentage, from a `FractionalPercent`.
    pub(super) fn fraction(&mut self, of: &ProtoMessage, field: &str) -> Option<u64> {
        let percent = of.message(field)?;
        let numerator = percent.number("numerator").unwrap_or(0);
        let unit = match &*percent.choice("denominator") {
            "TEN_THOUSAND" => 100,
            "MILLION" => 10_000,
            _ => 1,
        };
        if numerator.is_multiple_of(unit) {
            return Some((numerator / unit).min(100));
        }
        self.unsupported(percent, "numerator", "only whole percentages are");
        None
    }

    /// A percentage with up to four decimals as the native form writes it, from a `FractionalPercent`.
    pub(super) fn fine_fraction(&mut self, of: &ProtoMessage, field: &str) -> Option<String> {
        let percent = of.message(field)?;
        let numerator = percent.number("numerator").unwrap_or(0);
        let millionths = match &*percent.choice("denominator") {
            "TEN_THOUSAND" => numerator * 100,
            "MILLION" => numerator,
            _ => numerator * 10_000,
        };
        let millionths = millionths.min(1_000_000);
        let decimals = format!("{:04}", millionths % 10_000);
        Some(match decimals.trim_end_matches('0') {
            "" => format!("{}%", millionths / 10_000),
            decimals => format!("{}.{decimals}%", millionths / 10_000),
        })
    }

    /// A whole percentage, from a `Percent`.
    pub(super) fn percent(&mut self, of: &ProtoMessage, field: &str) -> Option<Node> {
        let percent = of.message(field)?;
        let value = percent.float("value").unwrap_or(0.0);
        if value.fract() != 0.0 {
            self.unsupported(percent, "value", "only whole percentages are");
            return None;
        }
        Some(plain(format!("{value:.0}%"), percent.span))
    }

    /// The text of a `DataSource`; a file is read once, as in Envoy.
    pub(super) fn inline_text(&mut self, source: &ProtoMessage) -> Option<String> {
        let Some(path) = source.text("filename") else {
            return self.given_text(source).map(|text| text.to_string());
        };
        match sluice_config::read_file(std::path::Path::new(&**path)) {
            Ok(text) => Some(text),
            Err(problem) => {
                let at = source.at("filename");
                self.diags.error("bad-file", source.place("filename"), at, problem);
                None
            }
        }
    }

    /// The substitution of a `RegexMatchAndSubstitute` and its regex, as the native form writes them. Envoy replaces
    /// every match, Sluice the first: a regex that can match once only means the same.
    pub(super) fn substitution(&mut self, rewrite: &ProtoMessage) -> Option<Node> {
        let pattern = rewrite.message("pattern")?;
        let regex = self.regex(pattern).to_owned();
        // Greedy from the begin: nothing is left for a second match.
        let whole = regex.starts_with(".*") && !regex.contains('|') && !regex.starts_with(".*?");
        if !regex.starts_with('^') && !whole {
            self.unsupported(
                pattern,
                "regex",
                "every match would be replaced; begin the regex with `^` or `.*`, so that there is one",
            );
            return None;
        }
        let written = rewrite.text("substitution").map_or("", |text| text);
        let mut replace = String::new();
        let mut rest = written.chars();
        while let Some(letter) = rest.next() {
            match letter {
                '$' => replace.push_str("$$"),
                '\\' => match rest.next() {
                    Some(digit) if digit.is_ascii_digit() => {
                        replace.push_str(&format!("${{{digit}}}"));
                    }
                    Some('\\') => replace.push('\\'),
                    _ => {
                        self.unsupported(rewrite, "substitution", "`\\` must stand before a digit");
                        return None;
                    }
                },
                letter => replace.push(letter),
            }
        }
        let mut native = crate::native::NativeMap::new(rewrite.span);
        native.text("find", &regex, pattern.place("regex"));
        native.text("replace", &replace, rewrite.place("substitution"));
        Some(native.node())
    }
}
