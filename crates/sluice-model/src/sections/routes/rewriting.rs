//! The sections of rewrites.
//!
//! Owns: what a rule says of the path and host that the endpoint receives. Refuses to know: how they are rewritten.

use sluice_core::section;
use sluice_core::settings::Verbatim;
use sluice_core::value::Authority;

use super::words::FieldName;

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
        pub host_header: Option<FieldName>,
        /// Use the endpoint's own name as host.
        pub host_of_endpoint: bool = "false",
    }
}
