//! Certificates by their files, shared by every chain that names them.
//!
//! Owns: the certificate in use for each pair of files. Refuses to know: chains.
//! Keeps: outlives every snapshot; a pair that loads replaces the one in use for new handshakes immediately, a pair
//! that does not is reported and leaves it in use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::material::{LoadError, Material, load_pair};

/// Every certificate in use.
#[derive(Debug, Default)]
pub struct CertStore {
    pairs: Mutex<HashMap<(PathBuf, PathBuf), Arc<StoredCert>>>,
}

/// A certificate in use; its contents may change between two handshakes.
#[derive(Debug)]
pub struct StoredCert {
    cert: PathBuf,
    key: PathBuf,
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
        cert: &Path,
        key: &Path,
    ) -> Result<(Arc<StoredCert>, Option<LoadError>), LoadError> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (cert.to_owned(), key.to_owned());
        if let Some(known) = pairs.get(&name) {
            let trouble = known.refresh().err();
            return Ok((Arc::clone(known), trouble));
        }
        let material = load_pair(cert, key)?;
        let stored = Arc::new(StoredCert {
            cert: cert.into(),
            key: key.into(),
            current: ArcSwap::from_pointee(material),
        });
        pairs.insert(name, Arc::clone(&stored));
        Ok((stored, None))
    }

    /// Removes pairs that no snapshot uses any more.
    pub fn sweep(&self) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|_, stored| Arc::strong_count(stored) > 1);
    }

    /// The certificates in use.
    pub fn list(&self) -> Vec<Arc<StoredCert>> {
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.values().cloned().collect()
    }
}

impl StoredCert {
    /// The certificate and key in use now.
    pub fn material(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// The path of the certificate file.
    pub fn path(&self) -> &Path {
        &self.cert
    }

    /// Reads the files again; returns whether the certificate in use changed.
    ///
    /// # Errors
    /// The pair cannot be loaded; the one in use stays.
    pub fn refresh(&self) -> Result<bool, LoadError> {
        let new = load_pair(&self.cert, &self.key)?;
        let changed = new.key.cert != self.current.load().key.cert;
        self.current.store(Arc::new(new));
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
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
        let (cert, key) = write_pair(folder.path(), "one.test");
        let (stored, trouble) = store.load(&cert, &key).unwrap();
        assert!(trouble.is_none() && stored.material().info.names == ["one.test"]);

        write_pair(folder.path(), "Two.test");
        assert_eq!(stored.refresh(), Ok(true));
        assert_eq!(stored.material().info.names, ["two.test"]);
        assert_eq!(stored.refresh(), Ok(false));

        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&key, other.serialize_pem()).unwrap();
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
        let error = |cert: &Path, key: &Path| store.load(cert, key).unwrap_err().to_string();
        assert!(error(&folder.path().join("none"), &key).contains("cannot be read"));
        assert!(error(&key, &key).contains("private key and no certificate"));
        assert!(error(&cert, &cert).contains("certificate and no private key"));
    }
}
