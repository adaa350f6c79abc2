//! The settings of local replies.
//!
//! Owns: the fields, and which of them go together. Refuses to know: requests. Keeps: a field that would have no effect is an
//! error.

use std::sync::Arc;

use sluice_codec::names::is_field_value;
use sluice_core::settings::{Plain, Shape, Verbatim, bind_verbatim};
use sluice_core::{Diags, Node, Path, Setting, Span, Spanned};
use sluice_expr::Expression;

use super::json_body::JsonBody;
use crate::expression::parse_exchange_expression;
use crate::filters::set_headers::HeaderTemplates;
use crate::record::View;
use crate::template::HttpTemplate;

sluice_core::section! {
    /// How the responses look that Sluice generates itself: errors, refusals of filters, and what rules respond. Those of
    /// endpoints are not changed, nor are pages of `error_pages`. A gRPC client gets the body as the message of its status.
    pub struct LocalReplies {
        /// The body; it may contain `%OPERATOR%`s. `%LOCAL_REPLY_BODY%` is the text that is sent otherwise.
        pub body: Option<HttpTemplate>,
        /// The body as a JSON object, in place of `body`: texts with `%OPERATOR%`s, numbers, truth values and objects by name.
        /// A member that is nothing but an operator without a value is left out.
        pub json: Option<JsonBody>,
        /// The media type of the body; by default `text/plain; charset=utf-8` or `application/json`.
        pub content_type: Option<String>,
        /// What holds for some of them. Only the first rule whose condition is true counts.
        pub rules: Vec<Spanned<ReplyRule>>,
    }
}

sluice_core::section! {
    /// What holds for some local replies.
    pub struct ReplyRule {
        /// For which: an expression over the request and its response, such as `response.code >= 500`.
        pub when: ExchangeExpression,
        /// The status in place of the reply's own, from 200 to 599. Filters, records and metrics see this one.
        pub status: Option<u16>,
        /// The text in place of the reply's own, from which the body is made. Without `body` or `json`, here or for all, it is
        /// the body.
        pub text: Option<Verbatim>,
        /// The body, in place of that of all.
        pub body: Option<HttpTemplate>,
        /// The body as a JSON object, in place of that of all.
        pub json: Option<JsonBody>,
        /// The media type of the `text`, `body` or `json` of this rule.
        pub content_type: Option<String>,
        /// Headers to set; each replaces all headers with its name.
        pub headers: HeaderTemplates,
        /// Headers to add to those with the same name.
        pub add_headers: HeaderTemplates,
        /// Headers to set if there are any with the name; each replaces them.
        pub overwrite_headers: HeaderTemplates,
        /// Headers to set if there are none with the name.
        pub default_headers: HeaderTemplates,
    }
}

impl Eq for LocalReplies {}

impl LocalReplies {
    /// Whether the fields fit each other.
    pub fn check(&self, span: Span, at: &Path<'_>, diags: &mut Diags) -> bool {
        let Self { body, json, content_type, rules } = self;
        let body = BodyFields { text: false, body: body.is_some(), json: json.is_some() };
        let mut fits = body.check(content_type.as_deref(), span, at, diags);
        for (index, Spanned { value: rule, span }) in rules.iter().enumerate() {
            let rules = at.key("rules");
            let at = rules.index(index);
            let ReplyRule { when: _, status, text, body, json, content_type, .. } = rule;
            let body =
                BodyFields { text: text.is_some(), body: body.is_some(), json: json.is_some() };
            fits &= body.check(content_type.as_deref(), *span, &at, diags);
            if status.is_some_and(|status| !(200..600).contains(&status)) {
                let message = "`status` must be from 200 to 599";
                diags.error("bad-value", *span, at.key("status"), message);
                fits = false;
            }
        }
        fits
    }
}

/// Which of the fields that make a body are given.
struct BodyFields {
    text: bool,
    body: bool,
    json: bool,
}

impl BodyFields {
    fn check(
        &self,
        content_type: Option<&str>,
        span: Span,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> bool {
        let (at, message, help) = if self.body && self.json {
            let help = "remove one of them: `json` is for an object, `body` for any other text";
            (at.key("json"), "`body` and `json` cannot both be given", help)
        } else if content_type.is_some() && !self.text && !self.body && !self.json {
            let help = "set `body` or `json` beside it";
            (at.key("content_type"), "`content_type` has no effect without a body", help)
        } else if content_type.is_some_and(|text| !is_field_value(text.as_bytes())) {
            let help = "write a media type such as `text/html; charset=utf-8`";
            (at.key("content_type"), "a media type must not contain control characters", help)
        } else {
            return true;
        };
        diags.error("bad-value", span, at, message).help(help);
        false
    }
}

/// An expression over a request and its response.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeExpression(Arc<Expression>);

impl ExchangeExpression {
    /// Whether it is true.
    pub(super) fn is_true(&self, view: &View<'_>) -> bool {
        self.0.is_true(&view.attributes(&view.subject())).unwrap_or(false)
    }
}

impl Setting for ExchangeExpression {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_verbatim(node, at, diags, "an expression", |text| {
            parse_exchange_expression(text).map(|parsed| Self(Arc::new(parsed)))
        })
    }

    fn shape() -> Shape {
        let example = "response.code >= 500 && request.headers['accept'] != 'text/html'";
        Shape::Text { what: "an expression", example }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.source().to_owned())
    }
}
