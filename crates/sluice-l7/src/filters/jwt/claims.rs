//! The tokens that were accepted for a request, and their claims as values that filters, rules and records share.
//!
//! Owns: how a claim is named: by its provider and its path. Refuses to know: who reads it. Keeps: a claim is never taken
//! for that of another issuer.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use sluice_core::SharedValues;
use sluice_core::values::{SharedValue, ValueFamily, ValueParts};

use super::provider::Provider;
use super::verified::VerifiedToken;
use crate::filters::credentials::CredentialSource;

sluice_core::values! {
    CLAIMS: ValueFamily = "jwt.*", "The claims of the tokens that were verified: `jwt.PROVIDER.CLAIM`. A nested claim is a path, such as `jwt.corp.realm_access.roles`.";
}

/// A token that was accepted for a request: by which provider, and where it was.
#[derive(Clone, Debug)]
pub(super) struct AcceptedToken {
    pub(super) provider: Arc<Provider>,
    pub(super) token: Arc<VerifiedToken>,
    pub(super) source: CredentialSource,
}

/// The tokens that were accepted for a request. The filter itself reads them as well, should it run again with the
/// settings of another route when they have been removed from the request.
#[derive(Clone, Debug, Default)]
pub(super) struct AcceptedTokens(pub(super) Vec<AcceptedToken>);

impl AcceptedTokens {
    /// Those of a request, none if the filter has not run.
    pub(super) fn of(values: &SharedValues) -> &[AcceptedToken] {
        let own = values.get(&CLAIMS).and_then(|family| {
            let any: &dyn Any = &*family.0;
            any.downcast_ref::<Self>()
        });
        own.map_or(&[], |own| &own.0)
    }

    /// Shares them.
    pub(super) fn share(self, values: &mut SharedValues) {
        values.set(&CLAIMS, ValueFamily(Arc::new(self)));
    }
}

impl fmt::Display for AcceptedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the claims of {} tokens", self.0.len())
    }
}

impl ValueParts for AcceptedTokens {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        let (provider, claim) = name.split_once('.')?;
        let accepted = self.0.iter().find(|accepted| &*accepted.provider.name == provider)?;
        accepted.token.claims.at(claim).map(|claim| claim as _)
    }
}
