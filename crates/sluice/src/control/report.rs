//! `--report PATH`: a line of JSON for each event, for the program that started Sluice.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::sockets::Sockets;

/// The report; does nothing without `--report`.
#[derive(Debug)]
pub(crate) struct Report {
    file: Option<RefCell<File>>,
    told: RefCell<BTreeSet<(String, String)>>,
}

impl Report {
    pub(crate) fn new(path: Option<&Path>) -> Self {
        let open = |path: &Path| {
            File::create(path).map_err(|error| tracing::error!("{}: {error}", path.display())).ok()
        };
        Self { file: path.and_then(open).map(RefCell::new), told: RefCell::default() }
    }

    /// Reports every address that has not been reported yet.
    pub(crate) fn addresses(&self, sockets: &Sockets) {
        for bound in sockets.iter() {
            let (listener, address) = (bound.listener.to_string(), bound.address.to_string());
            if self.told.borrow_mut().insert((listener.clone(), address.clone())) {
                self.say(&json!({ "listener": listener, "address": address }));
            }
        }
    }

    pub(crate) fn admin(&self, address: &str) {
        self.say(&json!({ "admin": address }));
    }

    pub(crate) fn ready(&self) {
        self.say(&json!({ "ready": true }));
    }

    pub(crate) fn reloaded(&self, code: &str, snapshot: u64) {
        self.say(&json!({ "reload": code, "snapshot": snapshot }));
    }

    fn say(&self, line: &Value) {
        if let Some(file) = &self.file
            && let Err(error) = writeln!(file.borrow_mut(), "{line}")
        {
            tracing::error!(%error, "cannot write the report");
        }
    }
}
