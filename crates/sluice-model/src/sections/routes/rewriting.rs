//! The sections of rewrites.
//!
//! Owns: what a rule says of the path and host that the endpoint receives. Refuses to know: how they are rewritten.

use sluice_codec::names::is_token;
use sluice_core::settings::Verbatim;
use sluice_core::value::Authority;
use sluice_core::{choice, section};

use super::words::HeaderName;

section! {
    /// Replaces the first match of a regex in the path.
    pub struct RegexRewrite {
        /// The regex.
        pub find: Verbatim,
        /// The replacement; $1 is the first group.
        pub replace: Verbatim,
    }
}

section! {
    /// Rewrites of the path and host that the endpoint receives.
    pub struct Rewrite {
        /// The new path.
        pub path: Option<String>,
        /// Replaces the part of the path that the rule matched.
        pub replace_prefix: Option<String>,
        /// Replaces the first match of a regex in the path.
        pub regex: Option<RegexRewrite>,
        /// The new host.
        pub host: Option<Authority>,
        /// Use the value of this header as host.
        pub host_header: Option<HeaderName>,
        /// Use what a regex makes of the path, or of a header, as host.
        pub host_regex: Option<HostRegex>,
        /// Use the endpoint's own name as host.
        pub host_of_endpoint: bool = "false",
        /// What endpoints are told of the request before these rewrites: path in `x-envoy-original-path`, host in
        /// `x-envoy-original-host`, if it is another afterwards. Headers of clients by these names are removed.
        /// `forwarded_host` adds the host to `x-forwarded-host` instead, behind those that it has.
        pub originals: Vec<Original>,
    }
}

section! {
    /// A host that a regex makes of another part of the request: its first match is replaced, the rest stays. Without a
    /// match, the host stays as it is.
    pub struct HostRegex {
        /// What the host is made of: path, without its query, or header:NAME.
        pub from: HostPart = "path",
        /// The regex.
        pub find: Verbatim,
        /// The replacement; $1 is the first group.
        pub replace: Verbatim,
    }
}

choice! {
    /// A part of the request before its rewrites.
    pub enum Original {
        /// The path, with its query.
        Path = "path",
        /// The host.
        Host = "host",
        /// The host, in `x-forwarded-host`.
        ForwardedHost = "forwarded_host",
    }
}

/// What a host is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPart {
    /// The path, without its query.
    Path,
    /// A header.
    Header(String),
}

sluice_core::text_setting! {
    HostPart, "path or header:NAME", "path", parse_host_part, |part| match part {
        Self::Path => "path".into(),
        Self::Header(name) => format!("header:{name}"),
    };
}

fn parse_host_part(text: &str) -> Result<HostPart, String> {
    match text.strip_prefix("header:").map(str::trim) {
        Some(name) if is_token(name.as_bytes()) => Ok(HostPart::Header(name.to_ascii_lowercase())),
        None if text == "path" => Ok(HostPart::Path),
        _ => Err(format!("expected path or header:NAME, not `{text}`")),
    }
}
