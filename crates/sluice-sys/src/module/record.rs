//! Records of access logs, passed to a library.
//!
//! Owns: the calls. Refuses to know: which records there are, and what a line says. Keeps: nothing of a request or connection is at
//! hand meanwhile.

use sluice_abi::{AbiText, result};

use super::{Module, ModuleConfig, call};

impl Module {
    /// Whether it is an access logger.
    pub const fn logs(&self) -> bool {
        self.table.record.is_some()
    }
}

impl ModuleConfig {
    /// Passes a record of the kind with that number (`sluice_abi::record`).
    ///
    /// # Errors
    /// What the library returned in place of 0.
    pub fn record(&self, kind: i32, line: &str) -> Result<(), i32> {
        let Some(record) = self.module.table.record else { return Ok(()) };
        let line = AbiText::of(line.as_bytes());
        let returned = call::outside(|| {
            // SAFETY: the function has this type by the header; the text is valid during the call.
            unsafe { record(self.object, kind, line) }
        });
        if returned == result::OK { Ok(()) } else { Err(returned) }
    }

    /// Says that no record follows for now.
    pub fn records_done(&self) {
        if let Some(done) = self.module.table.records_done {
            call::outside(|| {
                // SAFETY: the function has this type by the header.
                unsafe { done(self.object) }
            });
        }
    }
}
