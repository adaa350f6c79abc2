//! Messages as JSON, for pages.
//!
//! Owns: how each value is written, and what is hidden. Refuses to know: which messages are shown. Keeps: a field that its
//! definition calls sensitive shows nothing of what is in it, names of files included; nor does a header whose name indicates
//! a secret.

use data_encoding::BASE64;
use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Map, Value};
use sluice_config::redact;
use sluice_core::Node;

use crate::message::{ProtoDuration, ProtoMessage, ProtoValue};
use crate::parts::text;
use crate::rules::is_sensitive;

/// What stands for a value that is hidden.
const HIDDEN: &str = "[redacted]";

/// A message in the JSON of protocol buffers, with the names of fields as they are defined.
pub fn of_message(message: &ProtoMessage) -> Value {
    Value::Object(fields(message, false))
}

/// Keeps only what the paths of a field mask name: `a.b,c`.
pub fn masked(value: &Value, mask: &str) -> Value {
    let mut out = Value::Object(typed(value));
    for path in mask.split(',').filter(|path| !path.is_empty()) {
        let parts: Vec<&str> = path.split('.').collect();
        keep(value, &parts, &mut out);
    }
    out
}

/// What says which message a value is, which every mask keeps.
fn typed(value: &Value) -> Map<String, Value> {
    let url = value.get("@type").map(|url| ("@type".to_owned(), url.clone()));
    url.into_iter().collect()
}

fn keep(from: &Value, path: &[&str], into: &mut Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let (Some(found), Some(object)) = (from.get(*first), into.as_object_mut()) else { return };
    if rest.is_empty() {
        object.insert((*first).to_owned(), found.clone());
    } else if found.is_object() {
        let inner = object.entry(*first).or_insert_with(|| Value::Object(typed(found)));
        keep(found, rest, inner);
    }
}

fn fields(message: &ProtoMessage, hidden: bool) -> Map<String, Value> {
    let mut out = Map::new();
    let name_of_header = name_of_header(message);
    let header = name_of_header.and_then(|field| text(message, field));
    for field in &message.fields {
        let is_name = name_of_header == Some(field.descriptor.name());
        let of_header = !is_name && header.as_deref().is_some_and(redact::is_secret);
        let hidden = hidden || of_header || is_sensitive(&field.descriptor);
        let value = value_of(&field.value, &field.descriptor, hidden);
        out.insert(field.descriptor.name().to_owned(), value);
    }
    out
}

/// The field with the name of the header that a message is about, whose value may be a secret.
fn name_of_header(message: &ProtoMessage) -> Option<&'static str> {
    match message.type_name() {
        "envoy.config.core.v3.HeaderValue" => Some("key"),
        "envoy.config.route.v3.HeaderMatcher" => Some("name"),
        _ => None,
    }
}

fn value_of(value: &ProtoValue, field: &FieldDescriptor, hidden: bool) -> Value {
    match value {
        ProtoValue::List(items) => {
            items.iter().map(|item| single(&item.value, &field.kind(), hidden)).collect()
        }
        ProtoValue::Map(entries) => {
            let kind = field.kind();
            let kind = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
            let one = |value| kind.as_ref().map_or(Value::Null, |kind| single(value, kind, hidden));
            let all = entries.iter().map(|(key, item)| (key.to_string(), one(&item.value)));
            Value::Object(all.collect())
        }
        value => single(value, &field.kind(), hidden),
    }
}

fn single(value: &ProtoValue, kind: &Kind, hidden: bool) -> Value {
    let of = kind.as_message().map(|of| of.full_name().to_owned()).unwrap_or_default();
    match value {
        ProtoValue::Message(message) => {
            let mut inner = fields(message, hidden);
            if of == "google.protobuf.Any" && message.type_name() != of {
                let url = format!("type.googleapis.com/{}", message.type_name());
                inner.insert("@type".into(), url.into());
            }
            Value::Object(inner)
        }
        ProtoValue::Bytes(_) if hidden => BASE64.encode(HIDDEN.as_bytes()).into(),
        _ if hidden => HIDDEN.into(),
        ProtoValue::Bool(value) => (*value).into(),
        ProtoValue::Int(value) => {
            let is_long = matches!(
                kind,
                Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64
            ) || of.ends_with("Int64Value");
            match i64::try_from(*value) {
                Ok(value) if !is_long => value.into(),
                _ => value.to_string().into(),
            }
        }
        ProtoValue::Float(value) => (*value).into(),
        ProtoValue::Text(text) if redact::has_scheme(text) => HIDDEN.into(),
        ProtoValue::Text(text) => redact::text_without_secrets(text.to_string()).into(),
        ProtoValue::Bytes(bytes) => BASE64.encode(bytes).into(),
        ProtoValue::Enum(number, name) => {
            name.as_ref().map_or_else(|| (*number).into(), |name| (&**name).into())
        }
        ProtoValue::Duration(duration) => written(*duration).into(),
        ProtoValue::Json(node) => of_node(node),
        ProtoValue::List(_) | ProtoValue::Map(_) => Value::Null,
    }
}

/// Seconds with as many digits as it takes: `0.250s`.
fn written(ProtoDuration(nanos): ProtoDuration) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) =
        (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    match rest {
        0 => format!("{sign}{seconds}s"),
        rest if rest.is_multiple_of(1_000_000) => {
            format!("{sign}{seconds}.{:03}s", rest / 1_000_000)
        }
        rest => format!("{sign}{seconds}.{rest:09}s"),
    }
}

/// JSON as it was written.
pub fn of_node(node: &Node) -> Value {
    use sluice_core::Value as Written;
    match &node.value {
        Written::Null => Value::Null,
        Written::Scalar { text, quoted: true } => (&**text).into(),
        Written::Scalar { text, quoted: false } => match &**text {
            "true" => true.into(),
            "false" => false.into(),
            "null" | "~" => Value::Null,
            text => text.parse::<serde_json::Number>().map_or_else(|_| text.into(), Value::Number),
        },
        Written::List(items) => items.iter().map(of_node).collect(),
        Written::Map(entries) => {
            let all = entries.iter().map(|entry| (entry.key.to_string(), of_node(&entry.node)));
            Value::Object(all.collect())
        }
        Written::Substituted(of) => of.text.as_deref().map_or(Value::Null, Value::from),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{LoadOptions, UnknownFields, load};

    #[test]
    fn messages_are_written_as_they_are_defined_and_secrets_are_hidden() {
        let text = r#"
node: { id: n, metadata: { a: [1, "2", true, null, x], b: { c: 0.5 } } }
static_resources:
  secrets:
  - { name: s, generic_secret: { secret: { inline_string: opensesame } } }
  - { name: t, tls_certificate: { private_key: { filename: /etc/key.pem }, certificate_chain: { filename: /c.pem }, password: { inline_bytes: b3BlbnNlc2FtZQ== } } }
  listeners:
  - { name: l, access_log: [], filter_chains: [{ filters: [{ name: h, typed_config: { "@type": t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, route_config: { request_headers_to_add: [{ header: { key: x-api-key, value: letmein } }, { header: { key: x-other, value: Bearer letmein } }, { header: { key: x-plain, value: shown } }] } } }] }] }
  clusters:
  - { name: a, type: STRICT_DNS, connectTimeout: 0.25s, per_connection_buffer_limit_bytes: 5, dns_refresh_rate: 5s, metadata: { filter_metadata: { x: { y: 1 } } },
      transport_socket: { name: tls, typed_config: { "@type": t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: h } } }
"#;
        let options = LoadOptions::from(UnknownFields::Refuse);
        let whole = load::bootstrap_of_text(Path::new("e"), text.into(), &options).unwrap();
        let value = of_message(&whole);
        assert_eq!(
            value["node"]["metadata"],
            serde_json::json!({ "a": [1, "2", true, null, "x"], "b": { "c": 0.5 } })
        );
        let cluster = &value["static_resources"]["clusters"][0];
        assert_eq!(cluster["type"], "STRICT_DNS");
        assert_eq!(
            (&cluster["connect_timeout"], &cluster["dns_refresh_rate"]),
            (&"0.250s".into(), &"5s".into())
        );
        assert_eq!(cluster["per_connection_buffer_limit_bytes"], 5);
        assert_eq!(cluster["metadata"]["filter_metadata"]["x"]["y"], 1);
        let tls = &cluster["transport_socket"]["typed_config"];
        assert_eq!(
            tls["@type"],
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        );
        let written = value.to_string();
        for secret in ["opensesame", "b3BlbnNlc2FtZQ", "key.pem", "letmein"] {
            assert!(!written.contains(secret), "{secret}: {written}");
        }
        assert!(
            written.contains("/c.pem") && written.contains("shown") && written.contains(HIDDEN)
        );
        let kept = masked(cluster, "name,transport_socket.name,nothing.at,type.x");
        assert_eq!(kept, serde_json::json!({ "name": "a", "transport_socket": { "name": "tls" } }));
    }
}
