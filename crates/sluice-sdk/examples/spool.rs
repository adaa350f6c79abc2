//! Writes the records of an access log to a file, those of each kind behind its name, and as many at once as are there.
//!
//! ```sh
//! cargo build --release -p sluice-sdk --example spool    # target/release/examples/libspool.so
//! ```
//!
//! ```yaml
//! access_log:
//!   - sink: { module: { library: ./libspool.so, config: /var/log/spool } }
//! ```
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use sluice_sdk::{AccessLogger, Config, Level, LoggedKind, log};

/// The file, and what is to be written to it.
struct Spool {
    file: File,
    gathered: Mutex<String>,
}

impl AccessLogger for Spool {
    fn new(_: &mut Config<'_>, _: &str, path: &str) -> Result<Self, String> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("cannot write {path}: {error}"))?;
        Ok(Self { file, gathered: Mutex::default() })
    }

    fn record(&self, kind: LoggedKind, line: &str) -> bool {
        let kind = match kind {
            LoggedKind::Connection => "connection",
            LoggedKind::Flow => "flow",
            LoggedKind::Request => "request",
            LoggedKind::Health => "health",
        };
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.extend([kind, " ", line, "\n"]);
        true
    }

    fn done(&self) {
        let gathered =
            std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(error) = (&self.file).write_all(gathered.as_bytes()) {
            log(Level::Error, &format!("records are lost: {error}"));
        }
    }
}

sluice_sdk::logger_module!("spool 1.0", Spool);
