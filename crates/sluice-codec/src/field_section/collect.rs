//! A sink for tests.
//!
//! Owns: the fields of a section as they are. Refuses to know: what makes a head. Keeps: their order.

use super::{FieldLine, FieldSink, SEPARATOR};

/// Collects fields.
#[derive(Debug, Default)]
pub(crate) struct CollectingSink {
    buffer: Vec<u8>,
    fields: Vec<(String, String)>,
    sensitive: Vec<String>,
}

impl CollectingSink {
    /// Returns the fields in order: names and values.
    pub(crate) fn shown(&self) -> Vec<(&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    /// Returns the names of the fields that are never indexed.
    pub(crate) fn sensitive(&self) -> &[String] {
        &self.sensitive
    }
}

impl FieldSink for CollectingSink {
    fn is_open(&self) -> bool {
        true
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn take(&mut self, line: FieldLine) {
        // One character for each byte, whatever it is.
        let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
        let (name, value) = self.buffer[line.start..].split_at(line.name_len);
        let (separator, value) = value.split_at(SEPARATOR.len());
        let (value, end) = value.split_at(line.value_len);
        assert_eq!((separator, end), (&b": "[..], &b"\r\n"[..]));
        if line.is_sensitive {
            self.sensitive.push(text(name));
        }
        self.fields.push((text(name), text(value)));
        self.buffer.truncate(line.start);
    }
}
