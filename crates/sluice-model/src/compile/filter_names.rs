//! What filters name in their settings.
//!
//! Owns: the look-up of clusters, routes, secrets and maps on behalf of filters. Refuses to know: what they do with them. Keeps:
//! a cluster that a filter may ask counts as used, and as reached by the listener of the filter; so do a secret and a map; a
//! filter waits for a secret that may still come.

use std::path::Path as FilePath;
use std::sync::{Arc, Weak};

use sluice_core::{Diags, Name, Node, Path, SecretText, Spanned};
use sluice_io::ConnectionFilterPlan;
use sluice_l4::filters::lookup::LiveMap;
use sluice_l4::filters::{
    CheckContext, Fetches, FilterFactory, FilterNames, FilterOwner, SecretUser,
};
use sluice_upstream::Cluster;

use super::{Compiler, SecretContent};
use crate::model::{FilterConfig, Kind, Reference};

/// The names that filters of one resource may use.
struct NamesOfResource<'a, 'b>(&'a Compiler<'b>);

impl NamesOfResource<'_, '_> {
    fn uses(&self, kind: Kind, name: &Name) {
        self.0.named.borrow_mut().insert((kind, Arc::clone(name)));
    }

    fn exists(&self, kind: Kind, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool {
        let Some((message, help)) = self.0.others.why_unknown(kind, &name.value) else {
            return true;
        };
        diags.error("unknown-name", name.span, at, message).help(help);
        false
    }
}

impl FilterNames for NamesOfResource<'_, '_> {
    fn cluster(
        &mut self,
        _owner: FilterOwner<'_>,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<Cluster>> {
        if !self.exists(Kind::Cluster, name, at, diags) {
            return None;
        }
        self.uses(Kind::Cluster, &name.value);
        Some(self.0.around.clusters.reference(&name.value))
    }

    fn routes(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool {
        self.exists(Kind::Routes, name, at, diags)
    }

    fn secret(
        &mut self,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<SecretText> {
        if !self.exists(Kind::Secret, name, at, diags) {
            return None;
        }
        let (others, of) = (self.0.others, &name.value);
        match others.secret(of) {
            Some(SecretContent::Text(text)) => {
                self.uses(Kind::Secret, of);
                Some(text)
            }
            Some(SecretContent::Certificate(_)) => {
                let message = format!("the secret `{of}` is a certificate; a filter needs a text");
                diags.error("wrong-kind", name.span, at, message);
                None
            }
            None => {
                if others.may_come() {
                    let (kind, name, at) = (Kind::Secret, Arc::clone(of), at.to_string());
                    let missing = Reference { kind, name, at, in_key: false };
                    self.0.missing.borrow_mut().push(missing);
                }
                // A secret that is declared and wrong has its own errors.
                None
            }
        }
    }

    fn map(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> Option<LiveMap> {
        if !self.exists(Kind::Map, name, at, diags) {
            return None;
        }
        self.uses(Kind::Map, &name.value);
        Some(self.0.around.maps.reference(&name.value))
    }

    fn follow(&mut self, name: &Name, user: Weak<dyn SecretUser>) {
        self.0.around.secrets.add(name, user);
    }

    fn fetches(&self) -> Arc<Fetches> {
        Arc::clone(&self.0.around.fetches)
    }

    fn folder(&self) -> Option<&FilePath> {
        self.0.others.folder()
    }
}

/// What passes connection filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// The bytes of a relay over TCP.
    Bytes,
    /// The datagrams of a relay over UDP.
    Datagrams,
    /// Connections only.
    Nothing,
}

/// Reports filters of bytes and datagrams where nothing passes these through them.
pub(super) fn check_passing(
    passing: Passing,
    uses: &[FilterConfig],
    plans: Option<&[Arc<dyn ConnectionFilterPlan>]>,
    list: &Path<'_>,
    diags: &mut Diags,
) {
    for (index, plan) in plans.unwrap_or_default().iter().enumerate() {
        let of_bytes = plan.filters_bytes();
        let (what, help) = match passing {
            Passing::Datagrams if of_bytes && !plan.filters_datagrams() => {
                ("is about bytes, which only a relay moves", "use it on chains with `relay`")
            }
            Passing::Nothing if of_bytes => {
                ("is about bytes, which only a relay moves", "use it on chains with `relay`")
            }
            Passing::Bytes | Passing::Nothing if plan.is_for_datagrams_only() => (
                "has only to do with datagrams, of which there are none here",
                "use it on a listener with an address of `udp://`",
            ),
            Passing::Bytes | Passing::Datagrams | Passing::Nothing => continue,
        };
        let name = &uses[index].name;
        let message = format!("the filter `{name}` {what}");
        let here = list.index(index);
        diags.error("wrong-kind", None, here.key(name), message).on_key().help(help);
    }
}

impl Compiler<'_> {
    /// Checks one use of a filter.
    pub(super) fn checked<P: ?Sized>(
        &self,
        factory: &dyn FilterFactory<P>,
        settings: &Node,
        owner: FilterOwner<'_>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<P>> {
        let mut names = NamesOfResource(self);
        factory.check(settings, &mut CheckContext::new(at, owner, diags, &mut names))
    }
}

#[cfg(test)]
mod tests;
