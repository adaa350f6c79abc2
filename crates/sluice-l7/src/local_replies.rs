//! How the responses look that Sluice generates itself (`local_replies`).
//!
//! Owns: which rule a reply falls under, and the status, body and headers that it gets. Refuses to know: why there is a reply,
//! and how it is sent. Keeps: the reason and its details stay; a reply whose status has no body has none.

use bytes::Bytes;

use crate::filters::set_headers::{HeaderTemplates, clean};
use crate::record::View;
use crate::reply::Reply;
use crate::template::HttpTemplate;
use json_body::JsonBody;
use settings::{LocalReplies, ReplyRule};

pub mod json_body;
pub mod settings;

/// What a body is made from.
#[derive(Clone, Copy, Debug)]
enum BodyFormat<'a> {
    Text(&'a HttpTemplate),
    Json(&'a JsonBody),
}

impl<'a> BodyFormat<'a> {
    fn of(body: Option<&'a HttpTemplate>, json: Option<&'a JsonBody>) -> Option<Self> {
        json.map(Self::Json).or_else(|| body.map(Self::Text))
    }

    fn fill(self, view: &View<'_>) -> String {
        match self {
            Self::Text(text) => text.fill_body(view),
            Self::Json(json) => json.fill(view),
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text(_) => TEXT,
            Self::Json(_) => "application/json",
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The headers that a rule gives a reply, ready to be set.
#[derive(Debug)]
pub(crate) struct ReplyHeaders {
    set: Vec<(String, String)>,
    added: Vec<(String, String)>,
    overwritten: Vec<(String, String)>,
    defaults: Vec<(String, String)>,
}

impl LocalReplies {
    /// The rule that a reply falls under; its status and headers are those of the response in `view`.
    pub(crate) fn rule(&self, view: &View<'_>) -> Option<&ReplyRule> {
        self.rules.iter().map(|rule| &rule.value).find(|rule| rule.when.is_true(view))
    }

    /// Gives a reply its body, from what is known of it by now.
    pub(crate) fn write_body(&self, rule: Option<&ReplyRule>, view: &View<'_>, reply: &mut Reply) {
        let of_rule = rule.and_then(|rule| {
            let format = BodyFormat::of(rule.body.as_ref(), rule.json.as_ref())?;
            Some((format, &rule.content_type))
        });
        let of_all = BodyFormat::of(self.body.as_ref(), self.json.as_ref());
        let of_all = of_all.map(|format| (format, &self.content_type));
        if let Some((format, content_type)) = of_rule.or(of_all) {
            let mut body = format.fill(view);
            // In the message of a status, the object is not a line.
            if matches!(format, BodyFormat::Json(_)) && !view.request.is_grpc() {
                body.push('\n');
            }
            reply.body = body.into();
            let content_type = content_type.clone();
            reply.content_type =
                content_type.map_or_else(|| format.content_type().into(), Into::into);
        } else if let Some(rule) = rule.filter(|rule| rule.text.is_some()) {
            let content_type = rule.content_type.clone();
            reply.content_type = content_type.map_or_else(|| TEXT.into(), Into::into);
        }
        if matches!(reply.status, ..200 | 204 | 304) {
            reply.body = Bytes::new();
        }
    }
}

impl ReplyRule {
    /// Its headers.
    pub(crate) fn reply_headers(&self, view: &View<'_>) -> ReplyHeaders {
        let filled = |headers: &HeaderTemplates| {
            headers.iter().map(|(name, value)| (name.to_owned(), clean(value.fill(view)))).collect()
        };
        ReplyHeaders {
            set: filled(&self.headers),
            added: filled(&self.add_headers),
            overwritten: filled(&self.overwrite_headers),
            defaults: filled(&self.default_headers),
        }
    }
}

impl ReplyHeaders {
    /// Edits the headers of a reply.
    pub(crate) fn apply_to(self, reply: &mut Reply) {
        let has = |reply: &Reply, name: &str| {
            reply.fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
        };
        let Self { set, added, overwritten, defaults } = self;
        let overwritten = overwritten.into_iter().filter(|(name, _)| has(reply, name));
        let set: Vec<(String, String)> = set.into_iter().chain(overwritten).collect();
        reply
            .fields
            .retain(|(known, _)| !set.iter().any(|(name, _)| known.eq_ignore_ascii_case(name)));
        for (name, value) in set.into_iter().chain(added) {
            reply.fields.push((name.into(), value));
        }
        for (name, value) in defaults {
            if !has(reply, &name) {
                reply.fields.push((name.into(), value));
            }
        }
    }
}

impl Reply {
    /// Takes the media type out of the headers, where a rule or a filter has put it.
    pub(crate) fn take_content_type(&mut self) -> Option<String> {
        let is_type = |name: &str| name.eq_ignore_ascii_case("content-type");
        let at = self.fields.iter().rposition(|(name, _)| is_type(name))?;
        let (_, value) = self.fields.remove(at);
        self.fields.retain(|(name, _)| !is_type(name));
        Some(value)
    }
}
