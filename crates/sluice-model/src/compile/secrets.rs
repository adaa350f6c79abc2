//! Secrets, ready for use, and the filters that use them.
//!
//! Owns: what a secret is compiled to, and who is told of a new text. Refuses to know: what a text means to its users.
//! Keeps: a user is told for as long as something uses it, so that a rotation compiles no resource again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sluice_core::{Diags, Name, SecretText};
use sluice_l4::filters::SecretUser;
use sluice_tls::material::Material;

use crate::model::Secret;

/// A secret, ready for use.
#[derive(Clone, Debug)]
pub(crate) enum SecretContent {
    /// A certificate with its key.
    Certificate(Arc<Material>),
    /// A text.
    Text(SecretText),
}

impl SecretContent {
    /// Compiles a secret; reports a certificate that cannot be used.
    pub(crate) fn of(name: &Name, secret: &Secret, diags: &mut Diags) -> Option<Self> {
        match secret {
            Secret::Text(text) => Some(Self::Text(text.clone())),
            Secret::Certificate { chain, key } => {
                match Material::of_secret(&format!("secret {name}"), chain, key) {
                    Ok(material) => Some(Self::Certificate(Arc::new(material))),
                    Err(error) => {
                        diags.error("bad-secret", None, "", error.to_string());
                        None
                    }
                }
            }
        }
    }
}

/// The filters that use secrets, by the name of the secret.
#[derive(Default)]
pub struct SecretUsers(Mutex<HashMap<Name, Vec<Weak<dyn SecretUser>>>>);

impl fmt::Debug for SecretUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretUsers(..)")
    }
}

impl SecretUsers {
    /// Adds a user of a secret, and forgets those that nothing uses any more.
    pub(super) fn add(&self, name: &Name, user: Weak<dyn SecretUser>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, users| {
            users.retain(|user| user.strong_count() > 0);
            !users.is_empty()
        });
        all.entry(Arc::clone(name)).or_default().push(user);
    }

    /// Tells the users of a secret its new text.
    pub(crate) fn renew(&self, name: &Name, text: &SecretText) {
        let users: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(name).into_iter().flatten().filter_map(Weak::upgrade).collect()
        };
        users.iter().for_each(|user| user.renew(text));
    }
}
