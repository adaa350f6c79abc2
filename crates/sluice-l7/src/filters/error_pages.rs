//! `error_pages`: custom bodies for errors.
//!
//! Keeps: the status, the reason and all headers that do not describe the body stay; only what users see is replaced.

use std::collections::BTreeMap;

use sluice_codec::Head;
use sluice_core::settings::{Plain, Shape, bind_entries, bind_verbatim, wrong_kind};
use sluice_core::{Diags, Node, Path, Setting, Value};

use super::{Cx, HttpFilter, OfSettings, ResponseStep};
use crate::reasons;
use crate::record::View;
use crate::reply::Reply;
use crate::template::HttpTemplate;

sluice_core::section! {
    /// Replaces the bodies of errors, by status or class of status, and the headers that describe a body, such as
    /// `content-type` and `etag`. Other headers stay. gRPC responses are not changed.
    pub struct ErrorPages {
        /// The bodies by status (`503: ...`) or by class (`5xx: ...`); a status has precedence over its class. They may
        /// contain `%OPERATOR%`s.
        pub pages: PageTemplates,
        /// The media type of the bodies.
        pub content_type: String = "text/html; charset=utf-8",
        /// Whether errors from endpoints are replaced too, not only those that Sluice generates.
        pub upstream: bool = "false",
    }
}

/// The bodies by the first and last status that they are for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageTemplates(BTreeMap<(u16, u16), HttpTemplate>);

impl PageTemplates {
    /// The body for a status; one for exactly this status has precedence over one for its class.
    fn get(&self, status: u16) -> Option<&HttpTemplate> {
        let class = (status / 100 * 100, status / 100 * 100 + 99);
        self.0.get(&(status, status)).or_else(|| self.0.get(&class))
    }
}

fn statuses(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("expected a status code from 400 to 599, 4xx or 5xx, not `{text}`");
    match text {
        "4xx" => Ok((400, 499)),
        "5xx" => Ok((500, 599)),
        _ => {
            let status = text.parse().map_err(|_| wrong())?;
            if (400..600).contains(&status) { Ok((status, status)) } else { Err(wrong()) }
        }
    }
}

impl Setting for PageTemplates {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            wrong_kind(node, at, diags, "a map of status codes to texts");
            return None;
        };
        bind_entries(entries, at, diags, |entry, here, diags| {
            let key = statuses(&entry.key)
                .map_err(|message| diags.error("bad-value", entry.key_span, here, message))
                .ok();
            key.zip(bind_verbatim(&entry.node, here, diags, "text", HttpTemplate::parse))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "text", example: "<h1>back soon</h1>" };
        Shape::Named(Box::new(text))
    }

    fn show(&self) -> Plain {
        let key = |range: (u16, u16)| match range {
            (400, 499) => "4xx".to_owned(),
            (500, 599) => "5xx".to_owned(),
            (status, _) => status.to_string(),
        };
        let shown =
            self.0.iter().map(|(range, text)| (key(*range), Plain::Text(text.source().to_owned())));
        Plain::Map(shown.collect())
    }
}

impl OfSettings for ErrorPages {
    const NAME: &'static str = "error_pages";
    const HELP: &'static str = "Replaces the bodies of error responses.";
}

impl HttpFilter for ErrorPages {
    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let own = cx.summary.reason.is_some();
        let page = self.pages.get(head.status()).filter(|_| own || self.upstream);
        let Some(page) = page else { return ResponseStep::Continue };
        if head.is_grpc() {
            return ResponseStep::Continue;
        }
        let none = Head::default();
        let summary = crate::record::Summary { status: head.status(), ..cx.summary.clone() };
        let view = View {
            response: Some(head),
            summary: &summary,
            ..cx.view(cx.request.unwrap_or(&none))
        };
        let reason = cx.summary.reason.unwrap_or(reasons::VIA_UPSTREAM);
        let mut reply =
            Reply::new(head.status(), reason, cx.summary.details.clone(), page.fill(&view));
        reply.content_type = self.content_type.clone().into();
        reply.keeps_headers = true;
        ResponseStep::reply(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_goes_before_its_class() {
        let page = |text: &str| HttpTemplate::parse(text).unwrap();
        let pages =
            PageTemplates(BTreeMap::from([((500, 599), page("class")), ((503, 503), page("one"))]));
        assert_eq!(pages.get(503).map(HttpTemplate::source), Some("one"));
        assert_eq!(pages.get(500).map(HttpTemplate::source), Some("class"));
        assert_eq!(pages.get(404), None);
        assert!(statuses("200").is_err() && statuses("6xx").is_err());
    }
}
