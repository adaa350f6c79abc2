//! Expressions over requests, wherever settings take one.
//!
//! Owns: the attributes of a request and of its response, by Envoy's names. Refuses to know: how expressions are evaluated, and
//! what a result is used for. Keeps: an attribute means the same in every place; what does not exist makes no value.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use sluice_codec::{Head, Version};
use sluice_core::SharedValues;
use sluice_core::settings::{Plain, bind_verbatim};
use sluice_core::{Diags, Node, Path, Reason, Setting, Shape};
use sluice_expr::{AttributeDef, AttributeSource, AttributeUse, AttributeValue, Expression};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l4::rbac::conn::expression::{CONN_ATTRIBUTES, parse_expression};

use crate::host_name::bare_host;

/// The attributes of requests, and those of their connections.
static ATTRIBUTES: LazyLock<Vec<AttributeDef>> = LazyLock::new(|| {
    let of = |field, is_map| AttributeDef { root: "request", field, is_map };
    let fields = [
        "path",
        "url_path",
        "query",
        "host",
        "hostname",
        "scheme",
        "method",
        "protocol",
        "referer",
        "useragent",
        "id",
        "size",
    ];
    let own = fields.into_iter().map(|field| of(field, false)).chain([of("headers", true)]);
    own.chain(CONN_ATTRIBUTES.iter().copied()).collect()
});

/// The same with those of the response.
static ATTRIBUTES_OF_EXCHANGE: LazyLock<Vec<AttributeDef>> = LazyLock::new(|| {
    let of = |field, is_map| AttributeDef { root: "response", field, is_map };
    let fields = ["code", "code_details", "flag", "reason"];
    let response = fields.map(|field| of(field, false)).into_iter().chain([of("headers", true)]);
    ATTRIBUTES.iter().copied().chain(response).collect()
});

/// An expression over a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestExpression(pub(crate) Expression);

impl Setting for RequestExpression {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_verbatim(node, at, diags, "an expression", Self::parse)
    }

    fn shape() -> Shape {
        let example = "request.path.startsWith('/admin/') && !connection.mtls";
        Shape::Text { what: "an expression", example }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.source().to_owned())
    }
}

impl RequestExpression {
    /// Parses it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_expression(text, &ATTRIBUTES).map(Self)
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        self.0.source()
    }

    /// What it makes of a request; nothing if that does not exist, or is no text, number or truth value.
    pub(crate) fn text(&self, request: &RequestAttributes<'_>) -> Option<String> {
        self.0.text(request).ok()
    }

    /// Whether it is true of a request.
    pub(crate) fn is_true(&self, request: &RequestAttributes<'_>) -> bool {
        self.0.is_true(request).unwrap_or(false)
    }
}

/// Parses an expression over a request and its response.
pub(crate) fn parse_exchange_expression(text: &str) -> Result<Expression, String> {
    parse_expression(text, &ATTRIBUTES_OF_EXCHANGE)
}

/// The argument of `%CEL()%`.
pub(crate) fn exchange_expression(text: &str) -> Result<Arc<dyn Any + Send + Sync>, String> {
    Ok(Arc::new(parse_exchange_expression(text)?))
}

/// The attribute of requests with that name, such as `request.path`; those that filters share have no names of their own.
pub(crate) fn known_attribute(text: &str) -> Option<AttributeUse> {
    let (root, field) = text.split_once('.')?;
    let def = ATTRIBUTES.iter().find(|of| of.root == root && of.field == field && field != "*")?;
    Some(AttributeUse { root: def.root, field: field.to_owned(), members: None })
}

/// The attribute of a request, its connection or its response with that name.
pub(crate) fn attribute_of_exchange(
    root: &str,
    field: &str,
    member: Option<&str>,
) -> Option<AttributeUse> {
    let mut all = ATTRIBUTES_OF_EXCHANGE.iter();
    let def = all.find(|of| of.root == root && (of.field == field || of.field == "*"))?;
    let members = member.filter(|_| def.is_map).map(|member| vec![member.to_owned()]);
    Some(AttributeUse { root: def.root, field: field.to_owned(), members })
}

/// A request as expressions see it.
pub(crate) struct RequestAttributes<'a> {
    /// Its head.
    pub(crate) head: &'a Head,
    /// The path without its query, in one of the ways that servers read it.
    pub(crate) path: &'a str,
    /// What filters share about it, if it passes filters.
    pub(crate) values: Option<&'a SharedValues>,
    /// Its connection, if there is one.
    pub(crate) conn: Option<&'a ConnSubject<'a>>,
    /// The response, once there is one.
    pub(crate) response: Option<ResponseAttributes<'a>>,
}

/// A response as expressions see it.
#[derive(Clone, Copy)]
pub(crate) struct ResponseAttributes<'a> {
    pub(crate) status: u16,
    pub(crate) head: &'a Head,
    /// Why Sluice generated it, or how it ended.
    pub(crate) reason: Option<Reason>,
    /// How the status came about; empty if that is not known.
    pub(crate) details: &'a str,
}

impl AttributeSource for RequestAttributes<'_> {
    fn attribute(&self, of: &AttributeUse) -> Option<AttributeValue> {
        let head = self.head;
        let text = |text: &str| Some(AttributeValue::Text(text.to_owned()));
        let header = |name: &str| joined(head, name);
        match (of.root, &*of.field) {
            ("request", "path") => match head.query() {
                Some(query) => text(&format!("{}?{query}", self.path)),
                None => text(self.path),
            },
            ("request", "url_path") => text(self.path),
            ("request", "query") => text(head.query().unwrap_or_default()),
            ("request", "host") => text(head.authority()),
            // Not Envoy's: what tables of hosts have.
            ("request", "hostname") => text(&bare_host(head.authority())),
            ("request", "scheme") => text(head.scheme()),
            ("request", "method") => text(head.method_text()),
            ("request", "protocol") => text(protocol(head.version())),
            ("request", "referer") => header("referer").map(AttributeValue::Text),
            ("request", "useragent") => header("user-agent").map(AttributeValue::Text),
            ("request", "id") => header("x-request-id").map(AttributeValue::Text),
            ("request", "size") => {
                Some(AttributeValue::Number(i64::try_from(head.content_length()?).ok()?))
            }
            ("request", "headers") => Some(members(head, of, |name| match name {
                ":path" => Some(head.path().to_owned()),
                ":method" => Some(head.method_text().to_owned()),
                ":authority" | "host" => Some(head.authority().to_owned()),
                _ => header(name),
            })),
            ("response", field) => self.response?.attribute(field, of),
            ("metadata", name) => {
                let own = self.values.and_then(|values| values.named(name));
                let own = own.map(|value| AttributeValue::Text(value.to_string()));
                own.or_else(|| self.conn?.attribute(of))
            }
            _ => self.conn?.attribute(of),
        }
    }
}

impl ResponseAttributes<'_> {
    fn attribute(self, field: &str, of: &AttributeUse) -> Option<AttributeValue> {
        let text = |text: &str| Some(AttributeValue::Text(text.to_owned()));
        match field {
            "code" if self.status > 0 => Some(AttributeValue::Number(self.status.into())),
            "code_details" if !self.details.is_empty() => text(self.details),
            // These two are not Envoy's.
            "flag" => text(self.reason?.def().envoy_flag).filter(|_| self.has_flag()),
            "reason" => text(self.reason?.code()),
            "headers" => Some(members(self.head, of, |name| joined(self.head, name))),
            _ => None,
        }
    }

    fn has_flag(self) -> bool {
        self.reason.is_some_and(|reason| reason.def().envoy_flag != "-")
    }
}

/// The members of a map of headers that an expression uses, or all.
fn members(head: &Head, of: &AttributeUse, get: impl Fn(&str) -> Option<String>) -> AttributeValue {
    let names: Vec<String> = match &of.members {
        Some(members) => members.clone(),
        None => {
            let own = head.fields().map(|(name, _)| name.to_ascii_lowercase());
            own.map(|name| String::from_utf8_lossy(&name).into_owned()).collect()
        }
    };
    let found = names.into_iter().filter_map(|name| {
        let value = get(&name)?;
        Some((name, value))
    });
    AttributeValue::Map(found.collect())
}

/// A header; several lines are one list (RFC 9110 §5.3).
fn joined(head: &Head, name: &str) -> Option<String> {
    let lines: Vec<&[u8]> = head.values(name.as_bytes()).collect();
    (!lines.is_empty()).then(|| String::from_utf8_lossy(&lines.join(&b","[..])).into_owned())
}

/// The protocol, as Envoy prints it.
const fn protocol(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2",
        Version::Http3 => "HTTP/3",
    }
}
