//! Scopes of route tables, as resources.
//!
//! Owns: where scopes and their route tables come from, what is to be known of each. Refuses to know: which of them are in force.
//! Keeps: all listeners have the same sources.

use std::sync::Arc;

use sluice_core::Diags;
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::parts;
use sluice_envoy::sources::ResourceSource;
use sluice_xds::{PartKey, XdsType};

use super::{PlaneMapper, ReadJob};

/// Where scopes come from, and the route tables that they name.
pub(super) type ScopeSources = (ResourceSource, ResourceSource);

/// What is to be known of a scope.
#[derive(Debug)]
pub(in crate::control::planes) struct ScopeFacts {
    /// Its key: each part with a zero byte behind it.
    pub(in crate::control::planes) key: Arc<str>,
    /// Its route table, and where that comes from, if it is to be asked for once a request needs it.
    pub(in crate::control::planes) on_demand: Option<(PartKey, ResourceSource)>,
}

impl PlaneMapper {
    /// What is to be known of a scope. Its route table is among its needs, unless that is on demand.
    pub(super) fn facts_of_scope(
        &self,
        kind: XdsType,
        message: &ProtoMessage,
        needs: &mut Vec<(PartKey, ResourceSource)>,
    ) -> Option<ScopeFacts> {
        if kind != XdsType::Scope {
            return None;
        }
        let scope = parts::ScopeParts::of(message);
        let source = self.scopes.as_ref().map(|(_, routes)| routes.clone());
        let table = scope
            .routes
            .zip(source)
            .map(|(name, source)| (PartKey { kind: XdsType::Routes, name }, source));
        let on_demand = if scope.on_demand {
            table
        } else {
            needs.extend(table);
            None
        };
        Some(ScopeFacts { key: scope.key, on_demand })
    }
}

impl ReadJob {
    /// The scopes that have come.
    pub(super) fn scopes(&self) -> Vec<&ProtoMessage> {
        let of_kind = self.parts.iter().filter(|(key, _)| key.kind == XdsType::Scope);
        of_kind.filter_map(|(_, part)| part.as_ref()).collect()
    }
}

/// All listeners have the same scopes, which come from one place.
pub(super) fn check_scopes(
    of: &ProtoMessage,
    known: &ScopeSources,
    found: &ScopeSources,
    diags: &mut Diags,
) {
    if known.0.from != found.0.from || known.1.from != found.1.from {
        diags.error(
            "unsupported",
            of.span,
            "scoped_rds",
            "scopes come from elsewhere already; name the same sources in all listeners, or restart Sluice to change them",
        );
    }
}
