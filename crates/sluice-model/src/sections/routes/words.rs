//! The words of routes: settings that hold a single value.
//!
//! Owns: protocols to upgrade to, text with operators. Refuses to know: which setting holds them.
//! Keeps: a word that could never match is refused.

use sluice_codec::names::is_token;
use sluice_core::settings::{Plain, Shape, bind_scalar, bind_verbatim};
use sluice_core::{Diags, Node, Path, Setting};
use sluice_l7::template::HttpTemplate;
pub use sluice_l7::words::{HeaderName, MethodName};

macro_rules! text_value {
    ($(#[doc = $doc:literal] $name:ident($inner:ty), $bind:ident, $what:literal, $example:literal, $parse:expr, $show:expr;)+) => {$(
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl Setting for $name {
            fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
                $bind(node, at, diags, $what, $parse).map(Self)
            }

            fn shape() -> Shape {
                Shape::Text { what: $what, example: $example }
            }

            fn show(&self) -> Plain {
                let show: fn(&$inner) -> String = $show;
                Plain::Text(show(&self.0))
            }
        }
    )+};
}

text_value! {
    #[doc = "Text that may contain `%OPERATOR%`s."]
    Text(HttpTemplate), bind_verbatim, "text", "hello", HttpTemplate::parse, |text| text.source().to_owned();
    #[doc = "A protocol that clients may upgrade to."]
    Token(String), bind_scalar, "a protocol", "websocket", |text| if is_token(text.as_bytes()) { Ok(text.to_owned()) } else { Err(format!("`{text}` is not the name of a protocol")) }, Clone::clone;
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
