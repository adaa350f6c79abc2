//! The certificate authorities that a configuration trusts.
//!
//! Owns: the authorities of every file that one configuration names, and those of the system. Refuses to know: who
//! verifies against them. Keeps: each file, and the store of the system, is read and parsed once for a configuration,
//! however many clusters and chains name it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;

use crate::files::LoadError;
use crate::material::load_roots;
use crate::pem::PemSource;

/// The authorities read so far. A reload starts with none, so that it reads again.
#[derive(Debug, Default)]
pub struct Authorities {
    /// By where they are found; `None` is the store of the system.
    loaded: HashMap<Option<PemSource>, Arc<RootCertStore>>,
}

impl Authorities {
    /// The authorities in a PEM text.
    ///
    /// # Errors
    /// The file is missing, or the text contains no certificate, or one that cannot be an authority.
    pub fn of(&mut self, source: &PemSource) -> Result<Arc<RootCertStore>, LoadError> {
        self.get_or_load(Some(source.clone()), || load_roots(source))
    }

    /// The authorities that the system trusts.
    ///
    /// # Errors
    /// The system has none.
    pub fn of_system(&mut self) -> Result<Arc<RootCertStore>, LoadError> {
        self.get_or_load(None, system_roots)
    }

    /// Forgets the authorities of files, so that they are read again; those of the system stay.
    pub fn forget_files(&mut self) {
        self.loaded.retain(|file, _| file.is_none());
    }

    fn get_or_load(
        &mut self,
        key: Option<PemSource>,
        load: impl FnOnce() -> Result<RootCertStore, LoadError>,
    ) -> Result<Arc<RootCertStore>, LoadError> {
        match self.loaded.entry(key) {
            Entry::Occupied(known) => Ok(Arc::clone(known.get())),
            Entry::Vacant(empty) => Ok(Arc::clone(empty.insert(Arc::new(load()?)))),
        }
    }
}

fn system_roots() -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(LoadError {
            path: PathBuf::from("the system's certificate store"),
            problem: "it contains no usable authority".into(),
            help: Some("install the package ca-certificates, or set a file with `ca`"),
        });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_for_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let source = PemSource::from(path.as_path());
        let ca = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        std::fs::write(&path, ca.cert.pem()).unwrap();
        let mut authorities = Authorities::default();
        let first = authorities.of(&source).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &authorities.of(&source).unwrap()), "read again");
        assert!(Authorities::default().of(&source).is_err(), "kept for the next configuration");
    }

    #[test]
    fn a_file_that_could_not_be_read_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let source = PemSource::from(path.as_path());
        let mut authorities = Authorities::default();
        authorities.of(&source).unwrap_err();
        let ca = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        std::fs::write(&path, ca.cert.pem()).unwrap();
        authorities.of(&source).unwrap();
    }
}
