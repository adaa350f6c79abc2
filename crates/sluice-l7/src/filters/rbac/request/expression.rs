//! Expressions over requests: `when` in conditions on requests.
//!
//! Owns: the attributes of a request, by Envoy's names. Refuses to know: how expressions are evaluated, and what a response
//! has. Keeps: where servers may read a path differently, the reading counts that refuses the request.

use std::sync::LazyLock;

use sluice_codec::Version;
use sluice_core::settings::{Plain, bind_verbatim};
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_expr::{AttributeDef, AttributeSource, AttributeUse, AttributeValue, Expression};
use sluice_l4::rbac::Lean;
use sluice_l4::rbac::conn::expression::{CONN_ATTRIBUTES, fulfils, parse_expression};

use super::RequestSubject;

/// The attributes of requests, and those of their connections.
static ATTRIBUTES: LazyLock<Vec<AttributeDef>> = LazyLock::new(|| {
    let of = |field, is_map| AttributeDef { root: "request", field, is_map };
    let fields = [
        "path",
        "url_path",
        "query",
        "host",
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

/// An expression over a request.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filters) struct RequestExpression(Expression);

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
    pub(in crate::filters) fn parse(text: &str) -> Result<Self, String> {
        parse_expression(text, &ATTRIBUTES).map(Self)
    }

    /// Whether a request fulfils it.
    pub(super) fn fits(&self, subject: &RequestSubject<'_>, lean: Lean) -> bool {
        let is_of_path =
            |of: &AttributeUse| of.root == "request" && matches!(&*of.field, "path" | "url_path");
        let fits = |path| fulfils(&self.0, &ReadRequest { subject, path }, lean);
        match self.0.uses().iter().any(is_of_path) {
            true => lean.of_readings(subject.paths().map(fits)),
            false => fits(subject.head.path_only()),
        }
    }
}

/// The attribute with that name, such as `request.path`; those that filters share have no names of their own.
pub(in crate::filters) fn known_attribute(text: &str) -> Option<AttributeUse> {
    let (root, field) = text.split_once('.')?;
    let def = ATTRIBUTES.iter().find(|of| of.root == root && of.field == field && field != "*")?;
    Some(AttributeUse { root: def.root, field: field.to_owned(), members: None })
}

/// The value of an attribute of a request, whose path is read as it is.
pub(in crate::filters) fn attribute_of(
    subject: &RequestSubject<'_>,
    of: &AttributeUse,
) -> Option<AttributeValue> {
    ReadRequest { subject, path: subject.head.path_only() }.attribute(of)
}

/// A request whose path is read in one way.
struct ReadRequest<'a> {
    subject: &'a RequestSubject<'a>,
    path: &'a str,
}

impl AttributeSource for ReadRequest<'_> {
    fn attribute(&self, of: &AttributeUse) -> Option<AttributeValue> {
        let (head, values) = (self.subject.head, self.subject.values);
        let text = |text: &str| Some(AttributeValue::Text(text.to_owned()));
        let header = |name: &str| {
            // Several lines are one list (RFC 9110 §5.3).
            let lines: Vec<&[u8]> = head.values(name.as_bytes()).collect();
            (!lines.is_empty())
                .then(|| String::from_utf8_lossy(&lines.join(&b","[..])).into_owned())
        };
        match (of.root, &*of.field) {
            ("request", "path") => match head.query() {
                Some(query) => text(&format!("{}?{query}", self.path)),
                None => text(self.path),
            },
            ("request", "url_path") => text(self.path),
            ("request", "query") => text(head.query().unwrap_or_default()),
            ("request", "host") => text(head.authority()),
            ("request", "scheme") => text(head.scheme()),
            ("request", "method") => text(head.method_text()),
            ("request", "protocol") => text(protocol(head.version())),
            ("request", "referer") => header("referer").map(AttributeValue::Text),
            ("request", "useragent") => header("user-agent").map(AttributeValue::Text),
            ("request", "id") => header("x-request-id").map(AttributeValue::Text),
            ("request", "size") => {
                Some(AttributeValue::Number(i64::try_from(head.content_length()?).ok()?))
            }
            ("request", "headers") => {
                let names: Vec<String> = match &of.members {
                    Some(members) => members.clone(),
                    None => {
                        let own = head.fields().map(|(name, _)| name.to_ascii_lowercase());
                        own.map(|name| String::from_utf8_lossy(&name).into_owned()).collect()
                    }
                };
                let found = names.into_iter().filter_map(|name| {
                    let value = match &*name {
                        ":path" => head.path().to_owned(),
                        ":method" => head.method_text().to_owned(),
                        ":authority" | "host" => head.authority().to_owned(),
                        _ => header(&name)?,
                    };
                    Some((name, value))
                });
                Some(AttributeValue::Map(found.collect()))
            }
            ("metadata", name) => {
                let own = values.named(name).map(ToString::to_string);
                own.map(AttributeValue::Text).or_else(|| self.subject.conn.attribute(of))
            }
            _ => self.subject.conn.attribute(of),
        }
    }
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
