//! Certificates by their files or by the name of a secret, shared by every chain that names them.
//!
//! Owns: the certificate in use for each pair of files and each secret. Refuses to know: chains.
//! Keeps: outlives every snapshot; a pair that loads replaces the one in use for new handshakes immediately, a pair
//! that does not is reported and leaves it in use.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::files::LoadError;
use crate::material::{Material, load_pair};
use crate::pem::PemSource;

/// Every certificate in use.
#[derive(Debug, Default)]
pub struct CertStore {
    stored: Mutex<HashMap<CertSource, Arc<StoredCert>>>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum CertSource {
    /// Where the certificate and the key are found.
    Pair(PemSource, PemSource),
    /// A secret.
    Secret(Arc<str>),
}

/// A certificate in use; its contents may change between two handshakes.
#[derive(Debug)]
pub struct StoredCert {
    source: CertSource,
    current: ArcSwap<Material>,
}

impl CertStore {
    /// Returns the certificate of a pair of files, loaded at the first call and read again at later ones. If a known
    /// pair no longer loads, the one in use stays and the error is returned with it. Every call renews a pair in use,
    /// even for a configuration that is then rejected.
    ///
    /// # Errors
    /// The pair was not known and cannot be loaded.
    pub fn load(
        &self,
        cert: &PemSource,
        key: &PemSource,
    ) -> Result<(Arc<StoredCert>, Option<LoadError>), LoadError> {
        let mut all = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let source = CertSource::Pair(cert.clone(), key.clone());
        if let Some(known) = all.get(&source) {
            let trouble = known.refresh().err();
            return Ok((Arc::clone(known), trouble));
        }
        let stored = StoredCert::new(source.clone(), Arc::new(load_pair(cert, key)?));
        all.insert(source, Arc::clone(&stored));
        Ok((stored, None))
    }

    /// Returns the certificate of a secret: the one in use, or if there is none yet, `first`.
    pub fn secret(&self, name: &Arc<str>, first: Arc<Material>) -> Arc<StoredCert> {
        let mut all = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let source = CertSource::Secret(Arc::clone(name));
        let new = || StoredCert::new(source.clone(), first);
        Arc::clone(all.entry(source.clone()).or_insert_with(new))
    }

    /// Renews the certificate of a secret, from the next handshake on.
    pub fn set_secret(&self, name: &Arc<str>, material: Arc<Material>) {
        let all = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        // One that nothing uses yet gets its certificate from its first user.
        if let Some(known) = all.get(&CertSource::Secret(Arc::clone(name))) {
            known.current.store(material);
        }
    }

    /// Removes certificates that nothing uses any more.
    pub fn sweep(&self) {
        let mut all = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, stored| Arc::strong_count(stored) > 1);
    }

    /// The certificates in use.
    pub fn list(&self) -> Vec<Arc<StoredCert>> {
        let all = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }
}

impl StoredCert {
    fn new(source: CertSource, material: Arc<Material>) -> Arc<Self> {
        Arc::new(Self { source, current: ArcSwap::new(material) })
    }

    /// The certificate and key in use now.
    pub fn material(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// The path of the certificate file, `inline:HASH`, or the name of the secret.
    pub fn name(&self) -> Cow<'_, str> {
        match &self.source {
            CertSource::Pair(PemSource::File(cert), _) => cert.to_string_lossy(),
            CertSource::Pair(cert, _) => Cow::Owned(cert.to_string()),
            CertSource::Secret(name) => Cow::Borrowed(name),
        }
    }

    /// Reads the files again; returns whether the certificate in use changed. Secrets are renewed from outside.
    ///
    /// # Errors
    /// The pair cannot be loaded; the one in use stays.
    pub fn refresh(&self) -> Result<bool, LoadError> {
        let CertSource::Pair(cert, key) = &self.source else { return Ok(false) };
        let new = load_pair(cert, key)?;
        let changed = new.key.cert != self.current.load().key.cert;
        self.current.store(Arc::new(new));
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use sluice_core::SecretText;

    use super::*;

    fn write_pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (cert, key) = (folder.join("a.pem"), folder.join("a.key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_new_pair_is_taken_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = CertStore::default();
        let (cert, key_file) = write_pair(folder.path(), "one.test");
        let (cert, key) = (PemSource::from(cert), PemSource::from(key_file.as_path()));
        let (stored, trouble) = store.load(&cert, &key).unwrap();
        assert!(trouble.is_none() && stored.material().info.names == ["one.test"]);

        write_pair(folder.path(), "Two.test");
        assert_eq!(stored.refresh(), Ok(true));
        assert_eq!(stored.material().info.names, ["two.test"]);
        assert_eq!(stored.refresh(), Ok(false));

        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&key_file, other.serialize_pem()).unwrap();
        let (_, trouble) = store.load(&cert, &key).unwrap();
        assert!(trouble.unwrap().problem.contains("does not match"));
        assert_eq!(stored.material().info.names, ["two.test"]);
        drop(stored);
        store.sweep();
        assert!(store.load(&cert, &key).unwrap_err().problem.contains("does not match"));
    }

    #[test]
    fn unusable_files_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = write_pair(folder.path(), "one.test");
        let store = CertStore::default();
        let error = |cert: &Path, key: &Path| {
            store.load(&cert.into(), &key.into()).unwrap_err().to_string()
        };
        assert!(error(&folder.path().join("none"), &key).contains("cannot be read"));
        assert!(error(&key, &key).contains("private key and no certificate"));
        assert!(error(&cert, &cert).contains("certificate and no private key"));
    }

    #[test]
    fn a_pair_may_be_in_the_configuration() {
        let made = rcgen::generate_simple_self_signed(["one.test".to_owned()]).unwrap();
        let inline = |text: String| PemSource::Inline(SecretText::new(text.as_bytes()).unwrap());
        let cert = inline(made.cert.pem());
        let store = CertStore::default();
        let (stored, _) = store.load(&cert, &inline(made.signing_key.serialize_pem())).unwrap();
        assert_eq!(stored.material().info.names, ["one.test"]);
        assert_eq!(stored.name(), cert.to_string());
        assert_eq!(stored.refresh(), Ok(false));
        let error = store.load(&cert, &cert).unwrap_err().to_string();
        assert!(error.starts_with("inline:") && error.contains("no private key"), "{error}");
    }
}
