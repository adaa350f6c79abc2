//! The sections of actions other than a single cluster: splits, redirects, direct responses.
//!
//! Owns: what a rule says of them. Refuses to know: which requests they are for. Keeps: the short form of a share is its
//! weight.

use sluice_core::settings::{Plain, Shape, Short, ShortForm, bind_entries, entries_of};
use sluice_core::suggest::nearest;
use sluice_core::value::{Authority, Percent};
use sluice_core::{Diags, Name, Node, Path, Setting, Spanned, section};
use sluice_l7::template::HttpTemplate;

use super::rewriting::RegexRewrite;
use crate::sections::subsets::SubsetValues;

/// The URL scheme of a redirect, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme(pub String);

sluice_core::text_setting! {
    Scheme, "a URL scheme", "https", parse_scheme, |scheme| scheme.0.clone();
}

/// Parses a scheme (RFC 3986 §3.1).
fn parse_scheme(text: &str) -> Result<Scheme, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !text.starts_with(|first: char| first.is_ascii_alphabetic()) || !text.bytes().all(fits) {
        return Err(format!("expected a URL scheme such as https, not `{text}`"));
    }
    let scheme = text.to_ascii_lowercase();
    match nearest(&scheme, ["http", "https"]) {
        Some(meant) if *meant != *scheme => {
            Err(format!("`{text}` is hardly meant; did you mean `{meant}`?"))
        }
        _ => Ok(Scheme(scheme)),
    }
}

section! {
    /// A redirect. Parts of the URL that are omitted stay as requested.
    pub struct Redirect {
        /// The status: 301, 302, 303, 307 or 308.
        pub status: u16 = "301",
        /// The new scheme, such as `https`.
        pub scheme: Option<Scheme>,
        /// The new host; the port of the request is dropped.
        pub host: Option<Authority>,
        /// The new port.
        pub port: Option<u16>,
        /// The new path.
        pub path: Option<String>,
        /// Replaces the part of the path that the rule matched.
        pub replace_prefix: Option<String>,
        /// Replaces the first match of a regex in the path.
        pub regex: Option<RegexRewrite>,
        /// Whether the query is dropped.
        pub strip_query: bool = "false",
    }
}

section! {
    /// A direct response, without an endpoint.
    pub struct Respond {
        /// The status.
        pub status: u16 = "200",
        /// The body; it may contain %OPERATOR%s.
        pub body: HttpTemplate = "",
        /// The media type of the body.
        pub content_type: String = "text/plain; charset=utf-8",
    }
}

/// Clusters and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares(pub Vec<(Spanned<Name>, Share)>);

section! {
    /// A cluster's share. The short form is its weight.
    pub struct Share {
        /// The share if the runtime value is not set: in percent, which add up to 100% over all clusters, or a weight in
        /// relation to the others'.
        pub weight: ShareWeight,
        /// The runtime value that overrides the weight: a number, in percent if the shares are.
        pub runtime: Option<String>,
        /// The metadata that the endpoint must have, for a cluster with `subsets`; the keys that it names replace those of
        /// the rule or relay.
        pub endpoint_metadata: Option<Spanned<SubsetValues>>,
    }
}

/// The weight of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareWeight {
    /// In relation to the others.
    Relative(u64),
    /// Of a hundred.
    Percent(Percent),
}

impl ShareWeight {
    /// The number.
    pub fn value(self) -> u64 {
        match self {
            Self::Relative(weight) => weight,
            Self::Percent(percent) => percent.0.into(),
        }
    }
}

impl Setting for ShareWeight {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text().is_some_and(|text| text.ends_with('%')) {
            let percent = Percent::bind(node, at, diags);
            if percent.is_none() {
                diags.last_mut()?.help("for finer shares, write weights such as 995 and 5");
            }
            return percent.map(Self::Percent);
        }
        u64::bind(node, at, diags).map(Self::Relative)
    }

    fn shape() -> Shape {
        Shape::Either(vec![Percent::shape(), u64::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Relative(weight) => weight.show(),
            Self::Percent(percent) => percent.show(),
        }
    }
}

impl ShortForm for Share {
    const KEY: &'static str = "weight";
}

impl Setting for Shares {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of clusters to shares")?;
        if entries.is_empty() {
            diags.error("missing-field", node.span, at, "a split needs at least one cluster");
            return None;
        }
        bind_entries(entries, at, diags, |entry, here, diags| {
            let share = Short::<Share>::bind(&entry.node, here, diags)?;
            Some((Spanned { value: entry.key.clone(), span: entry.key_span }, share.0))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Short::<Share>::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, share)| (name.to_string(), share.show())).collect())
    }
}
