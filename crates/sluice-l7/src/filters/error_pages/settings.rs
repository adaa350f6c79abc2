//! The settings of `error_pages`.
//!
//! Owns: the fields, and the statuses that a page is for. Refuses to know: responses. Keeps: a page is made from one thing
//! only, and a field that would have no effect is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use sluice_core::settings::{Plain, Shape, Short, ShortForm, bind_entries, wrong_kind};
use sluice_core::{Diags, Node, Path, Setting, Span, Spanned, Value};

use crate::filters::CheckContext;
use crate::filters::set_headers::HeaderTemplates;
use crate::template::HttpTemplate;

sluice_core::section! {
    /// Replaces error responses, by status or class of status, with the headers that describe a body, such as
    /// `content-type` and `etag`. Other headers stay. gRPC responses are not changed.
    pub struct ErrorPages {
        /// The pages by status (`503: ...`) or by class (`5xx: ...`); a status has precedence over its class.
        pub pages: PagesByStatus,
        /// The media type of the bodies.
        pub content_type: String = "text/html; charset=utf-8",
        /// Whether errors from endpoints are replaced too, not only those that Sluice generates.
        pub upstream: bool = "false",
    }
}

sluice_core::section! {
    /// What an error is replaced by. The short form is the body.
    pub struct ErrorPage {
        /// The body; it may contain `%OPERATOR%`s.
        pub body: Option<HttpTemplate>,
        /// A file with the body. It is read again when it changes.
        pub body_file: Option<Spanned<PathBuf>>,
        /// Whether the file contains `%OPERATOR%`s, and %% for a percent sign.
        pub operators: bool = "false",
        /// An address that the client is redirected to; it may contain `%OPERATOR%`s.
        pub redirect: Option<HttpTemplate>,
        /// The status in place of that of the error, from 200 to 599; of a redirect 302 by default.
        pub status: Option<u16>,
        /// The media type of the body; by default that of all pages.
        pub content_type: Option<String>,
        /// Headers to set; each replaces all headers with its name.
        pub headers: HeaderTemplates,
    }
}

impl ShortForm for ErrorPage {
    const KEY: &'static str = "body";
}

/// The statuses that redirect.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

impl ErrorPage {
    /// Whether the fields fit each other.
    pub(super) fn check(&self, span: Span, context: &mut CheckContext<'_>) -> bool {
        let given = [self.body.is_some(), self.body_file.is_some(), self.redirect.is_some()];
        let given = given.into_iter().filter(|given| *given).count();
        let changes = self.status.is_some() || !self.headers.is_empty();
        if given > 1 || (given == 0 && !changes) {
            let message = "a page needs one of `body`, `body_file` and `redirect`";
            let finding = context.not_exactly_one(span, given == 0, message);
            finding.help("write `503: { body_file: sorry.html }`");
            return false;
        }
        let status = |range: &[u16]| self.status.is_none_or(|status| range.contains(&status));
        let usual: Vec<u16> = (200..600).filter(|status| !REDIRECTS.contains(status)).collect();
        let problem = match &self.redirect {
            Some(_) if !status(&REDIRECTS) => {
                Some(("status", "a redirect has the status 301, 302, 303, 307 or 308"))
            }
            Some(_) if self.content_type.is_some() => {
                Some(("content_type", "`content_type` has no effect with `redirect`"))
            }
            None if !status(&usual) => {
                let message = "`status` must be from 200 to 599; for a redirect, write `redirect`";
                Some(("status", message))
            }
            _ if self.operators && self.body_file.is_none() => {
                Some(("operators", "`operators` has no effect without `body_file`"))
            }
            _ => None,
        };
        if let Some((key, message)) = problem {
            context.diags.error("bad-value", span, context.at.key(key), message);
        }
        problem.is_none()
    }
}

/// The statuses that a page is for: one, or a class of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Statuses {
    first: u16,
    last: u16,
}

impl Statuses {
    pub(super) const fn one(status: u16) -> Self {
        Self { first: status, last: status }
    }

    pub(super) const fn class_of(status: u16) -> Self {
        let first = status / 100 * 100;
        Self { first, last: first + 99 }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let one = |text: &str| text.parse().ok().filter(|status| (400..600).contains(status));
        match text {
            "4xx" => Ok(Self::class_of(400)),
            "5xx" => Ok(Self::class_of(500)),
            _ => one(text).map(Self::one).ok_or_else(|| {
                format!("expected a status code from 400 to 599, 4xx or 5xx, not `{text}`")
            }),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}xx", self.first / 100)
        }
    }
}

/// The pages by the statuses that they are for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PagesByStatus(pub(super) BTreeMap<Statuses, (Span, Short<ErrorPage>)>);

impl Setting for PagesByStatus {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            wrong_kind(node, at, diags, "a map of status codes to texts");
            return None;
        };
        bind_entries(entries, at, diags, |entry, here, diags| {
            let key = Statuses::parse(&entry.key)
                .map_err(|message| diags.error("bad-value", entry.key_span, here, message))
                .ok();
            let page = Short::<ErrorPage>::bind(&entry.node, here, diags);
            key.zip(page.map(|page| (entry.node.span, page)))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Short::<ErrorPage>::shape()))
    }

    fn show(&self) -> Plain {
        let shown = self.0.iter().map(|(statuses, (_, page))| (statuses.to_string(), page.show()));
        Plain::Map(shown.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_for_errors() {
        for (text, shown) in [("404", "404"), ("4xx", "4xx"), ("5xx", "5xx"), ("599", "599")] {
            assert_eq!(Statuses::parse(text).unwrap().to_string(), shown);
        }
        for text in ["200", "6xx", "3xx", "600", "", "40x", "-404"] {
            assert!(Statuses::parse(text).is_err(), "{text}");
        }
        assert_eq!(Statuses::parse("4xx").unwrap(), Statuses::class_of(404));
    }
}
