//! The settings of `set_values`.
//!
//! Owns: the fields, where values come from, and tables of their own. Refuses to know: requests. Keeps: a value is made from
//! one thing, and looked up in one table.

use std::sync::Arc;

use sluice_codec::names::is_token;
use sluice_core::settings::{Plain, Shape, Size};
use sluice_core::values::check_name;
use sluice_core::{Diags, Name, Node, Path, Setting, Spanned, Value};
use sluice_l4::filters::lookup::{LiveMap, LookupKind, LookupTable, MapEntries};
use sluice_l4::regexes::WholeRegex;

use super::{MadeFrom, Making};
use crate::expression::RequestExpression;
use crate::filters::CheckContext;
use crate::template::HttpTemplate;

sluice_core::section! {
    /// A value of requests, which has the name `set.NAME`. Exactly one of `from` and `text` is required.
    pub struct SetValue {
        /// The name.
        pub name: Name,
        /// Where it comes from: source_ip, peer_ip, sni, identity, host, path, method, header:NAME, cookie:NAME, query:NAME,
        /// value:NAME, cel:EXPRESSION for what an expression in CEL makes, or json:PATH for a member of a JSON body (names with dots between them); of the response, status or
        /// response_header:NAME.
        pub from: Option<ValueSource>,
        /// A text; it may contain `%OPERATOR%`s.
        pub text: Option<HttpTemplate>,
        /// A regex that must match all of it; the value is its first group, or all of it if there is none.
        pub extract: Option<WholeRegex>,
        /// A table in which it is looked up: the name of one under `maps`, or values by keys.
        pub map: Option<MapUse>,
        /// How a table of its own is searched: exact, prefix, suffix, cidr or regex.
        pub lookup: LookupKind = "exact",
        /// The value if there is nothing, or nothing in the table; by default there is no value then.
        pub missing: Option<String>,
        /// The largest body of which a member is taken; a larger JSON body gets a 413 response.
        pub json_max: Size = "64KiB",
    }
}

/// One value or several, made in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct SetValues(pub(super) Vec<Spanned<SetValue>>);

impl Setting for SetValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let all = Vec::<Spanned<SetValue>>::bind(node, at, diags)?;
        if all.is_empty() {
            let finding = diags.error("missing-field", node.span, at, "`set_values` sets no value");
            finding.help("write `set_values: { name: tenant, from: host }`");
            return None;
        }
        let mut names: Vec<&Name> = all.iter().map(|value| &value.value.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("two values are called `{}`", twice[0]);
            diags.error("duplicate-name", node.span, at, message).help("give each a `name`");
            return None;
        }
        Some(Self(all))
    }

    fn shape() -> Shape {
        Vec::<SetValue>::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

/// What a value is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// The client's address.
    SourceIp,
    /// The remote address of the socket.
    PeerIp,
    /// The server name of the handshake.
    Sni,
    /// Who makes the request, as a filter has verified.
    Identity,
    /// The host, without a port.
    Host,
    /// The path, without the query.
    Path,
    /// The method.
    Method,
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter, not decoded.
    Query(String),
    /// A value that filters share.
    Value(String),
    /// What an expression makes.
    Cel(Box<RequestExpression>),
    /// A member of a JSON body.
    Json(String),
    /// The status of the response.
    Status,
    /// A header of the response.
    ResponseHeader(String),
}

impl ValueSource {
    /// Whether it is known only with the response.
    pub(super) const fn is_of_response(&self) -> bool {
        matches!(self, Self::Status | Self::ResponseHeader(_))
    }
}

const SOURCES: &str = "source_ip, peer_ip, sni, identity, host, path, method, header:NAME, cookie:NAME, query:NAME, value:NAME, cel:EXPRESSION, json:PATH, status or response_header:NAME";

sluice_core::text_setting! {
    ValueSource, "source_ip, peer_ip, sni, identity, host, path, method, header:NAME, cookie:NAME, query:NAME, value:NAME, cel:EXPRESSION, json:PATH, status or response_header:NAME", "header:x-tier", parse_source, ToString::to_string;
}

fn parse_source(text: &str) -> Result<ValueSource, String> {
    let wrong = || format!("expected {SOURCES}, not `{text}`");
    let Some((kind, name)) = text.split_once(':') else {
        return match text {
            "source_ip" => Ok(ValueSource::SourceIp),
            "peer_ip" => Ok(ValueSource::PeerIp),
            "sni" => Ok(ValueSource::Sni),
            "identity" => Ok(ValueSource::Identity),
            "host" => Ok(ValueSource::Host),
            "path" => Ok(ValueSource::Path),
            "method" => Ok(ValueSource::Method),
            "status" => Ok(ValueSource::Status),
            _ => Err(wrong()),
        };
    };
    let name = name.trim();
    match kind {
        "header" if name.eq_ignore_ascii_case("host") => {
            Err("the host of a request is no header here; write `host`".into())
        }
        "header" if is_token(name.as_bytes()) => Ok(ValueSource::Header(name.to_ascii_lowercase())),
        "cookie" if is_token(name.as_bytes()) => Ok(ValueSource::Cookie(name.to_owned())),
        "query" if !name.is_empty() => Ok(ValueSource::Query(name.to_owned())),
        "value" => check_name(name).map(|()| ValueSource::Value(name.to_owned())),
        "response_header" if is_token(name.as_bytes()) => {
            Ok(ValueSource::ResponseHeader(name.to_ascii_lowercase()))
        }
        "cel" => {
            RequestExpression::parse(name).map(|expression| ValueSource::Cel(Box::new(expression)))
        }
        "json" if !name.is_empty() => Ok(ValueSource::Json(name.to_owned())),
        _ => Err(wrong()),
    }
}

impl std::fmt::Display for ValueSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SourceIp => f.write_str("source_ip"),
            Self::PeerIp => f.write_str("peer_ip"),
            Self::Sni => f.write_str("sni"),
            Self::Identity => f.write_str("identity"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Value(name) => write!(f, "value:{name}"),
            Self::Cel(expression) => write!(f, "cel:{}", expression.source()),
            Self::Json(path) => write!(f, "json:{path}"),
            Self::Status => f.write_str("status"),
            Self::ResponseHeader(name) => write!(f, "response_header:{name}"),
        }
    }
}

/// A table that is declared under `maps`, or one of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum MapUse {
    /// The name of a table.
    Named(Spanned<Name>),
    /// Entries.
    Own(MapEntries),
}

impl Setting for MapUse {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        match node.value {
            Value::Map(_) => MapEntries::bind(node, at, diags).map(Self::Own),
            _ => Spanned::bind(node, at, diags).map(Self::Named),
        }
    }

    fn shape() -> Shape {
        Shape::Either(vec![Name::shape(), MapEntries::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Named(name) => name.show(),
            Self::Own(entries) => entries.show(),
        }
    }
}

/// A table, shared or of this value.
#[derive(Clone, Debug)]
pub(super) enum ValueTable {
    Own(Arc<LookupTable>),
    Shared(LiveMap),
}

impl ValueTable {
    /// The value for a key.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        match self {
            Self::Own(table) => table.get(key).map(str::to_owned),
            Self::Shared(map) => map.get(key),
        }
    }
}

/// Checks a value, and prepares how it is made.
pub(super) fn making(value: &Spanned<SetValue>, context: &mut CheckContext<'_>) -> Option<Making> {
    let (span, value) = (value.span, &value.value);
    let from = match (&value.from, &value.text) {
        (Some(from), None) => MadeFrom::Source(from.clone()),
        (None, Some(text)) => MadeFrom::Text(text.clone()),
        (from, _) => {
            let message = "a value needs exactly one of `from` and `text`";
            let finding = context.not_exactly_one(span, from.is_none(), message);
            finding.help("write `{ name: tier, from: \"header:x-tier\" }`");
            return None;
        }
    };
    Some(Making {
        name: value.name.clone(),
        from,
        extract: value.extract.as_ref().map(|regex| regex.0.clone()),
        lookup: lookup(value, span, context)?,
        missing: value.missing.as_deref().map(Into::into),
    })
}

/// The table of a value, if it has one; the outer `None` is an error.
#[allow(clippy::option_option, reason = "a value need not have a table")]
fn lookup(
    value: &SetValue,
    span: sluice_core::Span,
    context: &mut CheckContext<'_>,
) -> Option<Option<ValueTable>> {
    let kind = value.lookup;
    if kind != LookupKind::Exact && !matches!(value.map, Some(MapUse::Own(_))) {
        let message = "`lookup` is for a table that stands in `map` here";
        let at = context.at.key("lookup");
        let help = "one under `maps` has a `lookup` of its own";
        context.diags.error("useless-setting", span, at, message).help(help);
        return None;
    }
    match &value.map {
        None => Some(None),
        Some(MapUse::Named(name)) => Some(Some(ValueTable::Shared(context.map(name, "map")?))),
        Some(MapUse::Own(entries)) => match entries.table(kind) {
            Ok(table) => Some(Some(ValueTable::Own(Arc::new(table)))),
            Err((key, problem)) => {
                let at = context.at.key("map");
                context.diags.error("bad-value", span, at, format!("`{key}`: {problem}"));
                None
            }
        },
    }
}
