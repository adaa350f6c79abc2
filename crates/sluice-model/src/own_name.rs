//! The name of this process among those of its kind.
//!
//! Owns: where the name comes from. Refuses to know: who asks for it. Keeps: what the configuration says comes first.

use crate::sections::Config;

/// The name; `None` if neither the configuration nor the system says one.
pub(crate) fn own_name(config: &Config) -> Option<String> {
    let id = config.node.id.as_ref().map(|id| id.value.clone());
    id.or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(host.trim().to_owned()).filter(|host| !host.is_empty())
    })
}
