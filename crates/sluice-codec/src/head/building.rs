//! How codecs fill a head, and write it.
//!
//! Owns: headers by their place in the buffer, and what HPACK and QPACK must not remember. Refuses to know: what a header means.
//! Keeps: what was one line in the buffer is written as one.

use super::fields::number;
use super::{Head, HeadEntry, HeadField, Method, TextSpan, replace};
use crate::names::{Known, PseudoField, make_lower};

impl Head {
    /// Appends text to the buffer.
    pub(crate) fn push(&mut self, text: &[u8]) -> TextSpan {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        TextSpan::new(start, text.len())
    }

    /// Enters a header whose name and value are in the buffer and have been checked.
    pub(crate) fn enter(&mut self, name: TextSpan, value: TextSpan, known: Option<Known>) {
        let end = (value.start + value.len) as usize;
        let line = value.start == name.start + name.len + 2
            && self.bytes.get(value.start as usize - 1) == Some(&b' ')
            && self.bytes.get(end..end + 2) == Some(b"\r\n");
        self.enter_field(HeadField { name, value, known, line, removed: false, sensitive: false });
    }

    /// Enters a header whose line is in the buffer, `name: value\r\n`, and has been checked.
    pub(crate) fn enter_line(
        &mut self,
        name: TextSpan,
        value: TextSpan,
        known: Option<Known>,
        sensitive: bool,
    ) {
        self.enter_field(HeadField { name, value, known, line: true, removed: false, sensitive });
    }

    /// Adds a header that has been checked.
    pub(crate) fn append_line(&mut self, name: &[u8], value: &[u8], known: Option<Known>) {
        self.bytes.reserve(name.len() + value.len() + 4);
        let name = self.push(name);
        self.bytes.extend_from_slice(b": ");
        let value = self.push(value);
        self.bytes.extend_from_slice(b"\r\n");
        self.enter_line(name, value, known, false);
    }

    /// Replaces everything with the headers of another head.
    pub(crate) fn copy_fields(&mut self, other: &Self) {
        self.clear();
        for entry in other.entries() {
            self.append_line(entry.name, entry.value, entry.known);
            if let Some(field) = self.fields.last_mut() {
                field.sensitive = entry.is_sensitive;
            }
        }
        self.unsound = other.unsound;
    }

    fn enter_field(&mut self, field: HeadField) {
        if let Some(known) = field.known
            && self.first[known as usize] == 0
        {
            self.first[known as usize] = number(self.fields.len() + 1);
        }
        self.fields.push(field);
    }

    /// Returns the whole buffer; a codec that copied a head in at once enters headers by their place.
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns how many headers were entered, including those removed since.
    pub(crate) const fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// Returns the bytes of memory that its headers take, used or not.
    pub(crate) const fn memory(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<HeadField>()
    }

    /// Returns the bytes of the buffer.
    pub(crate) const fn bytes_held(&self) -> usize {
        self.bytes.len()
    }

    /// Makes a span of the buffer lower case.
    pub(crate) fn lower(&mut self, span: TextSpan) {
        let (start, len) = (span.start as usize, span.len as usize);
        make_lower(&mut self.bytes[start..start + len]);
    }

    pub(crate) fn slice(&self, span: TextSpan) -> &[u8] {
        &self.bytes[span.start as usize..span.start as usize + span.len as usize]
    }

    /// Sets the authority to a span of the buffer.
    pub(crate) fn set_authority_at(&mut self, at: TextSpan) {
        let text = &self.bytes[at.start as usize..at.start as usize + at.len as usize];
        replace(&mut self.authority, text, b'!');
    }

    /// Sets the requested protocol to a span of the buffer.
    pub(crate) fn set_upgrade_at(&mut self, at: TextSpan) {
        let text = &self.bytes[at.start as usize..at.start as usize + at.len as usize];
        replace(&mut self.upgrade, text, b' ');
    }

    /// Sets a part of the start line to a span of the buffer; returns whether the text was accepted.
    pub(crate) fn set_pseudo_at(&mut self, pseudo: PseudoField, at: TextSpan) -> bool {
        let text = &self.bytes[at.start as usize..at.start as usize + at.len as usize];
        let (part, least) = match pseudo {
            PseudoField::Method => {
                self.method = Method::of(text);
                (&mut self.method_text, b'!')
            }
            PseudoField::Scheme => (&mut self.scheme, b'!'),
            PseudoField::Authority => (&mut self.authority, b'!'),
            PseudoField::Path => (&mut self.path, b'!'),
            PseudoField::Protocol => (&mut self.upgrade, b' '),
            PseudoField::Status => {
                self.status = match text {
                    [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {
                        text.iter().fold(0, |status, digit| 10 * status + u16::from(digit & 0xf))
                    }
                    _ => return false,
                };
                return true;
            }
        };
        replace(part, text, least)
    }

    /// Marks a part of the start line as one that no table may remember.
    pub(crate) const fn set_pseudo_sensitive(&mut self, pseudo: PseudoField) {
        self.sensitive |= pseudo.bit();
    }

    /// Whether no table may remember a part of the start line.
    pub(crate) const fn is_pseudo_sensitive(&self, pseudo: PseudoField) -> bool {
        self.sensitive & pseudo.bit() != 0
    }

    /// Returns the headers in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = HeadEntry<'_>> {
        self.fields.iter().filter(|field| !field.removed).map(|field| HeadEntry {
            name: self.slice(field.name),
            value: self.slice(field.value),
            known: field.known,
            is_sensitive: field.sensitive,
        })
    }

    /// Writes the headers that are not `hidden` as HTTP/1 lines. Those that are in the buffer as adjacent lines are
    /// written together.
    pub(crate) fn write_lines(&self, hidden: impl Fn(Known) -> bool, mut write: impl FnMut(&[u8])) {
        let mut run = 0..0;
        for field in &self.fields {
            if field.removed || field.known.is_some_and(&hidden) {
                continue;
            }
            let begin = field.name.start as usize;
            let end = (field.value.start + field.value.len) as usize + 2;
            if field.line && run.end == begin {
                run.end = end;
                continue;
            }
            write(&self.bytes[run]);
            if field.line {
                run = begin..end;
                continue;
            }
            run = 0..0;
            for text in [self.slice(field.name), b": ", self.slice(field.value), b"\r\n"] {
                write(text);
            }
        }
        write(&self.bytes[run]);
    }
}
