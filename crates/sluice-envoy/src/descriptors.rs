//! The descriptors of Envoy's messages.
//!
//! Owns: the compiled definitions, and how a type is found by its URL. Refuses to know: what a message means.
//! Keeps: they are decoded once per process, when the first file of Envoy is read.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Written by `cargo xtask envoy-protos`.
const COMPILED: &[u8] = include_bytes!("../envoy.desc");

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(COMPILED).expect("a test decodes them"));

/// All descriptors.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a message by its full name.
pub fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(name)
}

/// The name in a type URL: what is behind its last slash. `None` without a slash.
pub fn name_of(url: &str) -> Option<&str> {
    url.rsplit_once('/').map(|(_, name)| name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_definitions_are_whole() {
        let bootstrap = message("envoy.config.bootstrap.v3.Bootstrap").unwrap();
        assert!(bootstrap.get_field_by_name("static_resources").is_some());
        assert!(message("envoy.extensions.filters.http.router.v3.Router").is_some());
        assert!(pool().get_extension_by_name("validate.rules").is_some());
        assert!(message("envoy.config.bootstrap.v2.Bootstrap").is_none());
    }

    #[test]
    fn any_host_may_stand_before_the_name() {
        assert_eq!(name_of("type.googleapis.com/a.B"), Some("a.B"));
        assert_eq!(name_of("/a.B"), Some("a.B"));
        assert_eq!(name_of("x/y/a.B"), Some("a.B"));
        assert_eq!(name_of("a.B"), None);
        assert_eq!(name_of("x/"), None);
    }
}
