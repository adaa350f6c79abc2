//! The words of routes: settings that hold a single value.
//!
//! Owns: protocols to upgrade to, text with operators. Refuses to know: which setting holds them.
//! Keeps: a word that could never match is refused.

use sluice_codec::names::is_token;
use sluice_core::settings::{Plain, Shape};
use sluice_core::{Diags, Node, Path, Setting};
pub use sluice_l7::words::{HeaderName, MethodName};

/// A protocol that clients may upgrade to.
#[derive(Clone, Debug, PartialEq)]
pub struct Token(pub String);

sluice_core::text_setting! {
    Token, "a protocol", "websocket", parse_protocol, |protocol| protocol.0.clone();
}

fn parse_protocol(text: &str) -> Result<Token, String> {
    if is_token(text.as_bytes()) {
        Ok(Token(text.to_owned()))
    } else {
        Err(format!("`{text}` is not the name of a protocol"))
    }
}

/// Protocols that clients may upgrade to; `none` allows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrades(pub Vec<String>);

impl Setting for Upgrades {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text() == Some("none") {
            return Some(Self(Vec::new()));
        }
        let all = Vec::<Token>::bind(node, at, diags)?;
        if all.iter().any(|token| token.0.eq_ignore_ascii_case("h2c")) {
            diags.error("bad-value", node.span, at, "upgrades to h2c are never forwarded").help(
                "for cleartext HTTP/2 with prior knowledge, set `protocol: http2` on the cluster",
            );
            return None;
        }
        Some(Self(all.into_iter().map(|token| token.0).collect()))
    }

    fn shape() -> Shape {
        let word = Shape::Text { what: "a protocol", example: "websocket" };
        Shape::OrNone(Box::new(Shape::OneOrMany(Box::new(word))))
    }

    fn show(&self) -> Plain {
        if self.0.is_empty() {
            return Plain::Text("none".into());
        }
        Plain::List(self.0.iter().cloned().map(Plain::Text).collect())
    }
}
