//! Tags: parts of a name that become labels.
//!
//! Owns: Envoy's own tags, and how a regex takes one out of a name. Refuses to know: which tags a bootstrap asks for. Keeps: a
//! tag is taken once, by the first regex that finds it, so that one of the bootstrap wins over Envoy's own.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

/// The largest program of a regex of a bootstrap or a request, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A part of names that becomes a label: the first group of the regex is taken out, and the second one is the value, or else
/// the first.
#[derive(Clone, Debug)]
pub(super) struct StatTag {
    pub(super) name: String,
    regex: Regex,
}

/// The names of Envoy's own tags, and where they are.
const OWN: [(&str, &str); 8] = [
    ("envoy.response_code", r"_rq(_(\d{3}))$"),
    ("envoy.response_code_class", r"_rq_((\d))xx$"),
    ("envoy.worker_id", r"^listener\..*?\.worker_((\d+)\.)"),
    (
        "envoy.http_conn_manager_prefix",
        r"^listener\.(?:\d{1,3}(?:\.\d{1,3}){3}_\d+|[^.]+)\.http\.(([^.]+)\.)",
    ),
    ("envoy.listener_address", r"^listener\.((\d{1,3}(?:\.\d{1,3}){3}_\d+|[^.]+)\.)"),
    ("envoy.cluster_name", r"^cluster\.(([^.]+)\.)"),
    ("envoy.http_conn_manager_prefix", r"^http\.(([^.]+)\.)"),
    ("envoy.tcp_prefix", r"^tcp\.(([^.]+)\.)"),
];

static COMPILED: LazyLock<Vec<StatTag>> = LazyLock::new(|| {
    let all = OWN.iter().filter_map(|(name, regex)| StatTag::new(name, regex).ok());
    all.collect()
});

impl StatTag {
    /// A tag, or what is wrong with its regex.
    pub(super) fn new(name: &str, regex: &str) -> Result<Self, String> {
        Ok(Self { name: name.to_owned(), regex: compile(&without_look_ahead(regex))? })
    }

    /// Envoy's own tags.
    pub(super) fn all() -> &'static [Self] {
        &COMPILED
    }
}

/// Compiles a regex of a size that is bounded.
///
/// # Errors
/// What is wrong with it.
pub(super) fn compile(regex: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(regex).size_limit(REGEX_BYTES_MAX).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("the regex is larger than {REGEX_BYTES_MAX} bytes")
        }
        // The last line says what is wrong, and those before it show where.
        error => error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
    })
}

/// The only look-ahead that control planes write, in another way: matching here has no look-around.
fn without_look_ahead(regex: &str) -> String {
    regex.replace(r"(?=\.).*?\.", r"(?:\..*?)??\.")
}

/// Takes tags out of a name. Returns what remains, and the labels.
pub(super) fn extract<'a>(
    tags: impl Iterator<Item = &'a StatTag>,
    name: &str,
) -> (String, Vec<(String, String)>) {
    let mut removed: Vec<Range<usize>> = Vec::new();
    let mut labels: Vec<(String, String)> = Vec::new();
    for tag in tags {
        let label = sanitized(&tag.name);
        if labels.iter().any(|(known, _)| *known == label) {
            continue;
        }
        let Some(found) = tag.regex.captures(name) else { continue };
        let Some(gone) = found.get(1) else { continue };
        let value = found.get(2).unwrap_or(gone);
        labels.push((label, value.as_str().to_owned()));
        removed.push(gone.range());
    }
    removed.sort_by_key(|range| range.start);
    let (mut rest, mut from) = (String::with_capacity(name.len()), 0);
    for range in removed {
        rest.push_str(name.get(from..range.start).unwrap_or_default());
        from = from.max(range.end);
    }
    rest.push_str(name.get(from..).unwrap_or_default());
    (rest, labels)
}

/// A name in the characters that Prometheus takes.
pub(super) fn sanitized(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}
