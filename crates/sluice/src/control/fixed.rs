//! Settings that a reload cannot change.
//!
//! Owns: which sections are only read at the start. Refuses to know: what they mean.
//! Keeps: a section that is read at each use is not listed here, nor is one that did not change.

use sluice_model::process::Process;
use sluice_model::sections::Admin;

/// The settings that differ and only take effect at the next start.
pub(super) fn changes(old: &Process, new: &Process) -> Vec<&'static str> {
    let mut changes = match (&old.admin, &new.admin) {
        (None, None) => Vec::new(),
        (Some(old), Some(new)) => admin_changes(old, new),
        (Some(_), None) | (None, Some(_)) => vec!["admin"],
    };
    if old.limits != new.limits {
        changes.push("limits");
    }
    if old.control_plane != new.control_plane {
        changes.push("xds");
    }
    changes
}

fn admin_changes(old: &Admin, new: &Admin) -> Vec<&'static str> {
    // `writable` is read for each request.
    let Admin { address, mode, hosts, writable: _ } = old;
    let differ = [
        ("admin.address", *address != new.address),
        ("admin.mode", *mode != new.mode),
        ("admin.hosts", *hosts != new.hosts),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_read_at_the_start_waits_for_the_next() {
        let config = |text: &str| {
            let loaded = sluice_config::load_text(std::path::Path::new("test.yaml"), text);
            let config = loaded.config.expect("a configuration");
            Process::of(&config, std::path::Path::new("."), &mut sluice_core::Diags::new())
        };
        let admin = |more: &str| config(&format!("admin: {{ address: \"127.0.0.1:1\"{more} }}"));
        let none = config("{}");
        for (old, new, expected) in [
            (&none, &config("drain: { timeout: 1s }"), &[][..]),
            (&none, &config("runtime: { values: { a: 1 } }"), &[]),
            (&none, &config("limits: { inspect_bytes: 1KiB }"), &["limits"]),
            (&none, &admin(""), &["admin"]),
            (&none, &config("xds: { cluster: a }"), &["xds"]),
            (&config("xds: { cluster: a }"), &config("# moved\nxds: { cluster: a }"), &[]),
            (&admin(""), &config("# moved\nadmin: { address: \"127.0.0.1:1\" }"), &[]),
            (&admin(""), &admin(", writable: true"), &[]),
            (&admin(""), &admin(", hosts: a.test"), &["admin.hosts"]),
        ] {
            assert_eq!(changes(old, new), expected);
        }
    }
}
