//! The sections of hash keys.
//!
//! Owns: what a rule says of the key of a hash balancer. Refuses to know: how it is hashed. Keeps: the short form of a
//! source is its key.

use sluice_codec::names::is_token;
use sluice_core::settings::{OrZero, Plain, Shape, ShortForm, bind_scalar};
use sluice_core::{Diags, Node, Path, Setting, section};
use sluice_l7::expression::RequestExpression;

section! {
    /// A source of the hash key. The short form is `source_ip`, or `header:NAME`, `query:NAME`, `cookie:NAME`, `cel:EXPRESSION`.
    pub struct HashSource {
        /// source_ip, header:NAME, query:NAME, cookie:NAME, or cel:EXPRESSION for what an expression in CEL makes.
        pub by: HashKey,
        /// cookie: lifetime of the cookie that Sluice sets if the client sends none (sticky session); 0s for a session
        /// cookie. If omitted, none is set.
        pub ttl: Option<OrZero>,
        /// cookie: its path; `/` if omitted.
        pub path: Option<String>,
    }
}

/// A source of the hash key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The source address.
    SourceIp,
    /// A header.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A cookie.
    Cookie(String),
    /// What an expression makes.
    Cel(Box<RequestExpression>),
}

impl Setting for HashKey {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(
            node,
            at,
            diags,
            "source_ip, header:NAME, query:NAME, cookie:NAME or cel:EXPRESSION",
            |text| {
                if text == "source_ip" {
                    return Ok(Self::SourceIp);
                }
                let wrong = || {
                    format!(
                        "expected source_ip, header:NAME, query:NAME, cookie:NAME or cel:EXPRESSION, not `{text}`"
                    )
                };
                let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
                if kind == "cel" {
                    return RequestExpression::parse(name).map(|of| Self::Cel(Box::new(of)));
                }
                let name = name.trim().to_owned();
                match kind {
                    _ if !is_token(name.as_bytes()) => Err(wrong()),
                    "header" => Ok(Self::Header(name.to_ascii_lowercase())),
                    "query" => Ok(Self::Query(name)),
                    "cookie" => Ok(Self::Cookie(name)),
                    _ => Err(wrong()),
                }
            },
        )
    }

    fn shape() -> Shape {
        Shape::Text {
            what: "source_ip, header:NAME, query:NAME, cookie:NAME or cel:EXPRESSION",
            example: "source_ip",
        }
    }

    fn show(&self) -> Plain {
        Plain::Text(match self {
            Self::SourceIp => "source_ip".into(),
            Self::Header(name) => format!("header:{name}"),
            Self::Query(name) => format!("query:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
            Self::Cel(expression) => format!("cel:{}", expression.source()),
        })
    }
}

impl ShortForm for HashSource {
    const KEY: &'static str = "by";
}
