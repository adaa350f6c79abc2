//! What a bootstrap says about statistics: `stats_config`.
//!
//! Owns: which statistics are shown, and their tags. Refuses to know: values. Keeps: a rule that cannot be followed is
//! reported, and never followed in part.

use std::sync::Arc;

use super::tags::{self, StatTag};
use crate::message::ProtoMessage;

/// Which statistics there are, and which parts of their names are tags.
#[derive(Clone, Debug)]
pub struct StatRules {
    tags: Vec<StatTag>,
    with_own_tags: bool,
    /// Labels of every statistic.
    pub(super) fixed: Vec<(String, String)>,
    shown: ShownStats,
}

/// Which statistics there are.
#[derive(Clone, Debug)]
enum ShownStats {
    All,
    None,
    These(Vec<StatPattern>),
    AllBut(Vec<StatPattern>),
}

/// A pattern of names.
#[derive(Clone, Debug)]
enum StatPattern {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Contains(Arc<str>),
    Regex(regex::Regex),
}

/// What is wrong with a rule.
#[derive(Debug)]
pub struct StatRuleProblem<'a> {
    /// The message that has it.
    pub of: &'a ProtoMessage,
    /// The field.
    pub field: &'static str,
    /// What is wrong.
    pub text: String,
    /// Whether the bootstrap must not be run with it.
    pub is_error: bool,
}

impl Default for StatRules {
    fn default() -> Self {
        Self { tags: Vec::new(), with_own_tags: true, fixed: Vec::new(), shown: ShownStats::All }
    }
}

impl StatRules {
    /// The rules of a `stats_config`. Tells of each one that cannot be followed.
    pub fn of<'a>(config: &'a ProtoMessage, report: &mut dyn FnMut(StatRuleProblem<'a>)) -> Self {
        let with_own_tags = config.bool("use_all_default_tags") != Some(false);
        let mut rules = Self { with_own_tags, ..Self::default() };
        for tag in config.messages("stats_tags") {
            rules.add_tag(tag, report);
        }
        if config.has("histogram_bucket_settings") {
            let text = "histograms have Envoy's own buckets".to_owned();
            config.messages("histogram_bucket_settings").for_each(ProtoMessage::all_without_effect);
            let field = "histogram_bucket_settings";
            report(StatRuleProblem { of: config, field, text, is_error: false });
        }
        if let Some(matcher) = config.message("stats_matcher") {
            let list = |name| matcher.message(name).map(|list| patterns(list, report));
            let mut list = list;
            rules.shown = match (list("inclusion_list"), list("exclusion_list")) {
                (Some(these), _) => ShownStats::These(these),
                (None, Some(these)) => ShownStats::AllBut(these),
                (None, None) if matcher.is("reject_all") => ShownStats::None,
                (None, None) => ShownStats::All,
            };
        }
        rules
    }

    fn add_tag<'a>(&mut self, tag: &'a ProtoMessage, report: &mut dyn FnMut(StatRuleProblem<'a>)) {
        let name = tag.text("tag_name").cloned().unwrap_or_default();
        if let Some(value) = tag.text("fixed_value") {
            self.fixed.push((tags::sanitized(&name), value.to_string()));
        } else if let Some(regex) = tag.text("regex") {
            match StatTag::new(&name, regex) {
                Ok(found) => self.tags.push(found),
                Err(problem) => {
                    let text = format!("the tag `{name}` stays in the names: {problem}");
                    report(StatRuleProblem { of: tag, field: "regex", text, is_error: false });
                }
            }
        } else {
            let own: Vec<StatTag> =
                StatTag::all().iter().filter(|tag| tag.name == *name).cloned().collect();
            if own.is_empty() {
                let text = format!(
                    "there is no tag `{name}` of Envoy; it needs a `regex` or a `fixed_value`"
                );
                report(StatRuleProblem { of: tag, field: "tag_name", text, is_error: true });
            }
            self.tags.extend(own);
        }
    }

    /// Whether there is a statistic of this name.
    pub fn shows(&self, name: &str) -> bool {
        let among = |these: &[StatPattern]| these.iter().any(|pattern| pattern.matches(name));
        match &self.shown {
            ShownStats::All => true,
            ShownStats::None => false,
            ShownStats::These(these) => among(these),
            ShownStats::AllBut(these) => !among(these),
        }
    }

    /// What remains of a name without its tags, and these as labels.
    pub(super) fn split(&self, name: &str) -> (String, Vec<(String, String)>) {
        let own: &[StatTag] = if self.with_own_tags { StatTag::all() } else { &[] };
        tags::extract(self.tags.iter().chain(own), name)
    }
}

impl StatPattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => name == &**text,
            Self::Prefix(text) => name.starts_with(&**text),
            Self::Suffix(text) => name.ends_with(&**text),
            Self::Contains(text) => name.contains(&**text),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

fn patterns<'a>(
    list: &'a ProtoMessage,
    report: &mut dyn FnMut(StatRuleProblem<'a>),
) -> Vec<StatPattern> {
    let mut found = Vec::new();
    for pattern in list.messages("patterns") {
        match pattern_of(pattern) {
            Ok(pattern) => found.push(pattern),
            Err((field, text)) => {
                report(StatRuleProblem { of: pattern, field, text, is_error: true });
            }
        }
    }
    found
}

/// A pattern, or the field that is wrong and why.
fn pattern_of(pattern: &ProtoMessage) -> Result<StatPattern, (&'static str, String)> {
    let folds = pattern.is("ignore_case");
    type Make = fn(Arc<str>) -> StatPattern;
    let plain: [(&str, &str, &str, Make); 4] = [
        ("exact", "^", "$", StatPattern::Exact),
        ("prefix", "^", "", StatPattern::Prefix),
        ("suffix", "", "$", StatPattern::Suffix),
        ("contains", "", "", StatPattern::Contains),
    ];
    for (field, before, after, make) in plain {
        let Some(text) = pattern.text(field) else { continue };
        if !folds {
            return Ok(make(Arc::clone(text)));
        }
        let regex = format!("(?i){before}{}{after}", regex::escape(text));
        return tags::compile(&regex).map(StatPattern::Regex).map_err(|text| ("exact", text));
    }
    if let Some(regex) = pattern.message("safe_regex") {
        regex.without_effect(&["google_re2"]);
        let text = regex.text("regex").cloned().unwrap_or_default();
        // Of the whole name.
        let compiled = tags::compile(&format!("^(?:{text})$"));
        return compiled.map(StatPattern::Regex).map_err(|text| ("safe_regex", text));
    }
    Err((
        "custom",
        "a pattern of names is `exact`, `prefix`, `suffix`, `contains` or `safe_regex`".into(),
    ))
}
