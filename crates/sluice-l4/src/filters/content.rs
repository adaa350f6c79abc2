//! What filters take from outside their settings, parsed: secrets, and content that is fetched.
//!
//! Owns: the interface of a parsed type, and the handle to a secret. Refuses to know: where content comes from.
//! Keeps: content is parsed once and off the workers, which read a snapshot without a lock; content that does not parse
//! leaves the last that did in use, and is never printed.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sluice_core::limits::Limit;
use sluice_core::{Name, SecretText};

/// A type that a secret or fetched content is parsed to.
pub trait Content: Sized + Send + Sync + 'static {
    /// Parses the content.
    ///
    /// # Errors
    /// What is wrong, in a form such as `line 3 has no colon`. The message is logged: it must not contain the content.
    fn parse(content: &[u8]) -> Result<Self, String>;

    /// The largest file that it is read from.
    const LIMIT: Limit = Limit::SideCallBytes;

    /// How long fetched content can be used, if it says so itself. It is fetched again before that, and no less often
    /// than its schedule says.
    fn lifetime(&self) -> Option<Duration> {
        None
    }
}

impl Content for SecretText {
    fn parse(content: &[u8]) -> Result<Self, String> {
        Self::new(content).ok_or_else(|| "it is empty".into())
    }
}

/// A secret of a filter, parsed. Clones share it, and follow when the secret of the configuration gets another text.
pub struct LiveSecret<T>(Arc<SecretCell<T>>);

impl<T> LiveSecret<T> {
    /// The current version.
    pub fn current(&self) -> Arc<T> {
        self.0.current.load_full()
    }

    /// The name of the secret; `None` if the settings contain its text.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }
}

impl<T: Content> LiveSecret<T> {
    /// A secret that is called `name` if the settings name one of the configuration.
    pub(super) fn new(name: Option<&Name>, text: &SecretText) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(T::parse(text.bytes())?);
        Ok(Self(Arc::new(SecretCell { name: name.cloned(), current })))
    }

    /// The part that is told of a new text.
    pub(super) fn user(&self) -> Arc<dyn SecretUser> {
        Arc::clone(&self.0) as Arc<dyn SecretUser>
    }
}

impl<T> Clone for LiveSecret<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Debug for LiveSecret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveSecret({})", self.name().unwrap_or(".."))
    }
}

/// Uses a secret of the configuration.
pub trait SecretUser: Send + Sync {
    /// Takes a new text.
    fn renew(&self, text: &SecretText);
}

struct SecretCell<T> {
    name: Option<Name>,
    current: ArcSwap<T>,
}

impl<T: Content> SecretUser for SecretCell<T> {
    fn renew(&self, text: &SecretText) {
        match T::parse(text.bytes()) {
            Ok(parsed) => self.current.store(Arc::new(parsed)),
            Err(problem) => tracing::error!(
                "a filter cannot use the new text of the secret `{}` and keeps the last one: {problem}",
                self.name.as_deref().unwrap_or_default()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Number(u64);

    impl Content for Number {
        fn parse(content: &[u8]) -> Result<Self, String> {
            let text = std::str::from_utf8(content).map_err(|_| "not UTF-8")?;
            text.parse().map(Self).map_err(|_| "not a number".into())
        }
    }

    #[test]
    fn a_secret_that_does_not_parse_leaves_the_last_one_in_use() {
        let text = |text: &str| SecretText::new(text.as_bytes()).unwrap();
        let secret = LiveSecret::<Number>::new(Some(&"n".into()), &text("1")).unwrap();
        let clone = secret.clone();
        for (new, expected) in [("2", 2), ("two", 2), ("3", 3)] {
            secret.user().renew(&text(new));
            assert_eq!(clone.current().0, expected, "{new}");
        }
        assert_eq!(LiveSecret::<Number>::new(None, &text("x")).unwrap_err(), "not a number");
        assert_eq!(format!("{secret:?}"), "LiveSecret(n)");
    }
}
