//! The headers of a head, one by one.
//!
//! Owns: what is found, set, added and removed by name. Refuses to know: how they came into the buffer. Keeps: a name has
//! its first header in the index, if it is a known one.

use super::{Head, HeadField, TextSpan};
use crate::names::{Known, is_field_value, is_token};

impl Head {
    /// Returns the headers in order: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let live = self.fields.iter().filter(|field| !field.removed);
        live.map(|field| (self.slice(field.name), self.slice(field.value)))
    }

    /// Returns the number of headers.
    pub fn len(&self) -> usize {
        self.fields.iter().filter(|field| !field.removed).count()
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.fields.iter().all(|field| field.removed)
    }

    /// Returns the first value of a known header.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        let place = usize::from(self.first[known as usize]).checked_sub(1)?;
        self.fields.get(place).map(|field| self.slice(field.value))
    }

    /// Returns the first value of the header `name`, in any case.
    pub fn get_named(&self, name: &[u8]) -> Option<&[u8]> {
        match Known::of(name) {
            Some(known) => self.get(known),
            None => self.fields().find(|field| field.0.eq_ignore_ascii_case(name)).map(|f| f.1),
        }
    }

    /// Returns every value of the header `name`.
    pub fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let fits = move |field: &&(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name);
        self.fields().filter(move |field| fits(&field)).map(|(_, value)| value)
    }

    /// Adds a header after all others. An invalid name or value (RFC 9110 §5.1, §5.5) makes the head unsound.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.append_as(name, value, Known::of(name));
    }

    /// Adds a header whose name is known.
    pub fn append_known(&mut self, known: Known, value: &[u8]) {
        self.append_as(known.text().as_bytes(), value, Some(known));
    }

    fn append_as(&mut self, name: &[u8], value: &[u8], known: Option<Known>) {
        self.unsound |= (known.is_none() && !is_token(name)) || !is_field_value(value);
        self.append_line(name, value, known);
    }

    /// Makes `value` the only value of the header, in the place of the first or at the end.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.set_as(name, value, Known::of(name));
    }

    /// [`Self::set`] for a header whose name is known.
    pub fn set_known(&mut self, known: Known, value: &[u8]) {
        self.set_as(known.text().as_bytes(), value, Some(known));
    }

    fn set_as(&mut self, name: &[u8], value: &[u8], known: Option<Known>) {
        let first = match known {
            Some(known) => usize::from(self.first[known as usize]).checked_sub(1),
            None => (0..self.fields.len()).find(|place| self.is_named(*place, name, known)),
        };
        let Some(first) = first else { return self.append_as(name, value, known) };
        for place in first + 1..self.fields.len() {
            if self.is_named(place, name, known) {
                self.fields[place].removed = true;
            }
        }
        self.unsound |= !is_field_value(value);
        let value = self.push(value);
        let field = &mut self.fields[first];
        (field.value, field.line) = (value, false);
    }

    /// Whether every header is valid. A filter may have added an invalid one, which a peer would read as something
    /// else.
    pub const fn is_sound(&self) -> bool {
        !self.unsound
    }

    /// Removes every header of that name; returns whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.remove_as(name, Known::of(name))
    }

    /// [`Self::remove`] for a header whose name is known.
    pub fn remove_known(&mut self, known: Known) -> bool {
        self.remove_as(known.text().as_bytes(), Some(known))
    }

    fn remove_as(&mut self, name: &[u8], known: Option<Known>) -> bool {
        if self.lacks(known) {
            return false;
        }
        let mut found = false;
        for place in 0..self.fields.len() {
            if self.is_named(place, name, known) {
                self.fields[place].removed = true;
                found = true;
            }
        }
        if let Some(known) = known {
            self.first[known as usize] = 0;
        }
        found
    }

    /// Removes every header for which `gone` is true.
    pub fn remove_where(&mut self, gone: impl Fn(&[u8], &[u8]) -> bool) {
        for place in 0..self.fields.len() {
            let field = self.fields[place];
            if field.removed || !gone(self.slice(field.name), self.slice(field.value)) {
                continue;
            }
            self.fields[place].removed = true;
            if let Some(known) = field.known
                && usize::from(self.first[known as usize]) == place + 1
            {
                let later = |other: &HeadField| other.known == Some(known) && !other.removed;
                self.first[known as usize] =
                    self.fields.iter().position(later).map_or(0, |place| number(place + 1));
            }
        }
    }

    /// Whether the absence of the header is known without a search.
    fn lacks(&self, known: Option<Known>) -> bool {
        known.is_some_and(|known| self.first[known as usize] == 0)
    }

    fn is_named(&self, place: usize, name: &[u8], known: Option<Known>) -> bool {
        let field = &self.fields[place];
        let same = match (known, field.known) {
            (Some(known), Some(other)) => known == other,
            (None, None) => self.slice(field.name).eq_ignore_ascii_case(name),
            _ => false,
        };
        same && !field.removed
    }

    /// Returns the value of `Content-Length`; codecs refuse heads with a malformed one.
    pub fn content_length(&self) -> Option<u64> {
        self.get(Known::ContentLength).and_then(decimal)
    }

    /// Whether this is gRPC, by its content type.
    pub fn is_grpc(&self) -> bool {
        self.get(Known::ContentType).is_some_and(|kind| {
            kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"))
                && matches!(kind.get(16), None | Some(b'+' | b';' | b' '))
        })
    }

    /// Joins cookie crumbs into one header: HTTP/2 and HTTP/3 may split cookies, HTTP/1 may not, RFC 9113 §8.2.3 and
    /// RFC 9114 §4.2.1. Empty crumbs are dropped: they contain nothing, and would leave white space at an end.
    pub(crate) fn join_cookies(&mut self) {
        let Some(first) = usize::from(self.first[Known::Cookie as usize]).checked_sub(1) else {
            return;
        };
        let (start, mut sensitive) = (self.bytes.len(), false);
        for place in first..self.fields.len() {
            let field = self.fields[place];
            if field.known != Some(Known::Cookie) || field.removed {
                continue;
            }
            sensitive |= field.sensitive;
            self.fields[place].removed = place != first;
            let (at, len) = (field.value.start as usize, field.value.len as usize);
            if len > 0 && self.bytes.len() > start {
                self.bytes.extend_from_slice(b"; ");
            }
            self.bytes.extend_from_within(at..at + len);
        }
        let value = TextSpan::new(start, self.bytes.len() - start);
        let field = &mut self.fields[first];
        (field.value, field.line, field.sensitive) = (value, false, sensitive);
    }

    /// Returns the bytes that the headers take on an HTTP/1 wire.
    pub fn wire_size(&self) -> usize {
        self.fields().map(|(name, value)| name.len() + value.len() + 4).sum()
    }
}

/// Parses digits and nothing else; the library would accept a sign as well.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte & 0xf))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    text.iter().try_fold(0, digit).filter(|_| !text.is_empty())
}

pub(super) fn number(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(u16::MAX)
}
