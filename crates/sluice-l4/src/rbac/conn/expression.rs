//! Expressions in conditions: `when`.
//!
//! Owns: the attributes of a connection that an expression may name, by Envoy's names, and their values. Refuses to know: how
//! expressions are evaluated. Keeps: an expression that fails counts against the client; one that names what does not exist
//! is not fulfilled.

use sluice_core::connection::ClientCertFacts;
use sluice_core::settings::{Plain, bind_verbatim};
use sluice_core::values::check_name;
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_expr::{
    AttributeDef, AttributeSource, AttributeUse, AttributeValue, Expression, NoResult,
};

use super::{ConnSubject, Lean};

/// Declares attributes that are no maps.
macro_rules! attributes {
    ($($root:literal: $($field:literal)+;)+) => {
        &[$($(AttributeDef { root: $root, field: $field, is_map: false },)+)+]
    };
}

/// The attributes of connections.
pub const CONN_ATTRIBUTES: &[AttributeDef] = attributes! {
    "source": "address" "port";
    "destination": "address" "port";
    "connection": "id" "mtls" "requested_server_name" "tls_version" "subject_peer_certificate"
        "uri_san_peer_certificate" "dns_san_peer_certificate" "sha256_peer_certificate_digest";
    "metadata": "*";
};

/// Parses an expression over these attributes; `metadata` has the values that filters share.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse_expression(text: &str, known: &[AttributeDef]) -> Result<Expression, String> {
    let expression = Expression::parse(text, known)?;
    let values = expression.uses().iter().filter(|of| of.root == "metadata");
    values.map(|of| &of.field).try_for_each(|name| check_name(name))?;
    Ok(expression)
}

/// An expression over a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnExpression(pub Expression);

impl Setting for ConnExpression {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_verbatim(node, at, diags, "an expression", |text| {
            parse_expression(text, CONN_ATTRIBUTES).map(Self)
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "an expression", example: "connection.mtls && source.port > 1023" }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.source().to_owned())
    }
}

/// Whether an expression is fulfilled.
pub fn fulfils(expression: &Expression, source: &dyn AttributeSource, lean: Lean) -> bool {
    match expression.is_true(source) {
        Ok(result) => result,
        Err(NoResult::Absent) => false,
        // The policy does not say what was meant. What is not known is not let through.
        Err(NoResult::Failed) => lean == Lean::ToMatch,
    }
}

/// Whether an expression is about the client's certificate.
pub fn is_of_certificate(expression: &Expression) -> bool {
    let fields = ["mtls", "sha256_peer_certificate_digest"];
    expression.uses().iter().any(|of| {
        of.root == "connection"
            && (fields.contains(&&*of.field) || of.field.ends_with("_peer_certificate"))
    })
}

/// Whether an expression is about what only the selection of a chain or TLS reveals.
pub fn needs_chain(expression: &Expression) -> bool {
    expression.uses().iter().any(|of| of.root == "connection" && of.field != "id")
}

impl AttributeSource for ConnSubject<'_> {
    fn attribute(&self, of: &AttributeUse) -> Option<AttributeValue> {
        let text = |text: &str| Some(AttributeValue::Text(text.to_owned()));
        let client = || self.tls?.client.as_deref();
        let first = |names: fn(&ClientCertFacts) -> &[Box<str>]| names(client()?).first().cloned();
        match (of.root, &*of.field) {
            // As Envoy prints them, with the port.
            ("source", "address") => text(&self.source.socket()?.to_string()),
            ("source", "port") => Some(AttributeValue::Number(self.source.socket()?.port().into())),
            ("destination", "address") => text(&self.local.socket()?.to_string()),
            ("destination", "port") => {
                Some(AttributeValue::Number(self.local.socket()?.port().into()))
            }
            ("connection", "id") => Some(AttributeValue::Number(i64::try_from(self.id).ok()?)),
            ("connection", "mtls") => Some(AttributeValue::Bool(client().is_some())),
            ("connection", "requested_server_name") => text(self.sni?),
            ("connection", "tls_version") => text(&format!("TLSv{}", self.tls?.version)),
            ("connection", "subject_peer_certificate") => text(&client()?.subject),
            ("connection", "uri_san_peer_certificate") => text(&first(|client| &client.uris)?),
            ("connection", "dns_san_peer_certificate") => text(&first(|client| &client.names)?),
            ("connection", "sha256_peer_certificate_digest") => text(&client()?.sha256),
            ("metadata", name) => text(&self.values.named(name)?.to_string()),
            _ => None,
        }
    }
}
