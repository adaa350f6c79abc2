//! Which headers a service may change, and the changes.
//!
//! Owns: the rules, and how a change is carried out. Refuses to know: which message the headers are of. Keeps: no change
//! frames a message, or says something about its connection; what is not allowed stays as it is, and is counted.
//!
//! Source: `envoy/config/common/mutation_rules/v3/mutation_rules.proto`.

use sluice_codec::Head;
use sluice_codec::names::{is_field_value, is_token};
use sluice_l4::regexes::WholeRegex;

use super::messages::HeaderMutation;
use crate::filters::ext_authz::answer::{EditAction, HeaderEdit, unchecked_edit};
use crate::words::is_editable;

sluice_core::section! {
    /// Which headers a service may change. Others stay as they are, and the attempt is counted.
    pub struct AllowedChanges {
        /// Whether it may change the method and host of requests.
        pub routing: bool = "false",
        /// Whether it may change headers that begin with `x-envoy-`.
        pub envoy: bool = "false",
        /// Whether it may change the path of requests, and the status of responses.
        pub system: bool = "true",
        /// Whether it may change all others.
        pub others: bool = "true",
        /// A regex for names of headers that it may change whatever the fields above say.
        pub allow: Option<WholeRegex>,
        /// A regex for names of headers that it may not change in any case.
        pub deny: Option<WholeRegex>,
        /// Whether the service has failed if it tries to change another.
        pub strict: bool = "false",
    }
}

impl AllowedChanges {
    /// What may change if nothing is written.
    pub(super) const fn usual() -> Self {
        Self {
            routing: false,
            envoy: false,
            system: true,
            others: true,
            allow: None,
            deny: None,
            strict: false,
        }
    }
}

/// What the headers belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangedHead {
    Request,
    Response,
    Trailers,
}

/// Which headers a service may change.
#[derive(Clone, Debug)]
pub(super) struct HeaderChanges(AllowedChanges);

/// What came of the changes that a service asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// How many were made.
    pub(super) made: usize,
    /// How many were not, since they are not allowed.
    pub(super) ignored: usize,
}

impl HeaderChanges {
    pub(super) const fn new(allowed: AllowedChanges) -> Self {
        Self(allowed)
    }

    /// Whether a header may be changed.
    fn allows(&self, name: &str) -> bool {
        let of = &self.0;
        let matches = |pattern: &Option<WholeRegex>| {
            pattern.as_ref().is_some_and(|pattern| pattern.0.is_match(name))
        };
        if matches(&of.deny) || (name.starts_with(':') && !of.system) {
            return false;
        }
        if matches(&of.allow) {
            return true;
        }
        match name {
            "host" | ":authority" | ":method" | ":scheme" => of.routing,
            _ if name.starts_with("x-envoy-") => of.envoy,
            _ => of.others,
        }
    }

    /// Makes the changes that are allowed.
    ///
    /// # Errors
    /// The first that is not, if the rules are strict; or the headers have become too large.
    pub(super) fn apply(
        &self,
        mutation: HeaderMutation,
        head: &mut Head,
        of: ChangedHead,
    ) -> Result<Changed, String> {
        let mut changed = Changed::default();
        for name in mutation.remove_headers {
            let name = name.to_ascii_lowercase();
            let removes = self.allows(&name) && is_editable(&name);
            if removes {
                head.remove(name.as_bytes());
            }
            self.note(removes, &name, &mut changed)?;
        }
        for option in mutation.set_headers {
            let edit = unchecked_edit(option, EditAction::Append);
            let name = edit.name.clone();
            let sets = self.allows(&name) && set(&edit, head, of);
            self.note(sets, &name, &mut changed)?;
        }
        if head.is_sound() { Ok(changed) } else { Err("the headers are too large".into()) }
    }

    fn note(&self, done: bool, name: &str, changed: &mut Changed) -> Result<(), String> {
        if done {
            changed.made += 1;
        } else if self.0.strict {
            return Err(format!("it may not change the header {name:?}"));
        } else {
            changed.ignored += 1;
        }
        Ok(())
    }
}

/// Sets a header, unless it frames the message or is not valid; returns whether it did.
fn set(edit: &HeaderEdit, head: &mut Head, of: ChangedHead) -> bool {
    let value = &edit.value[..];
    match (&*edit.name, of) {
        (":path", ChangedHead::Request) => value.starts_with(b"/") && head.set_path(value),
        (":authority" | "host", ChangedHead::Request) => head.set_authority(value),
        (":method", ChangedHead::Request) => {
            is_token(value) && value != b"CONNECT" && head.set_method(value)
        }
        (":status", ChangedHead::Response) => {
            let status = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            // One that has no body would make nonsense of the one that follows.
            let status = status
                .filter(|status| (200..600).contains(status) && !matches!(status, 204 | 205 | 304));
            let fits = status.filter(|_| !matches!(head.status(), 101 | 204 | 205 | 304));
            fits.map(|status| head.set_status(status)).is_some()
        }
        (name, _) if is_editable(name) && is_field_value(value) => {
            edit.apply(head);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
