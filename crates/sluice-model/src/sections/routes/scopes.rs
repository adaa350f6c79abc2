//! The scope of a virtual host.

use std::num::NonZeroU32;

use sluice_core::settings::{Short, ShortForm};
use sluice_core::{Spanned, section};

use super::HeaderName;

section! {
    /// The requests that a virtual host is for: those whose headers make one of these keys. A request that makes the key of a
    /// scope uses the virtual hosts of that scope and no others; any other request uses those without `scope`.
    pub struct Scope {
        /// What the key is made of, part by part; all virtual hosts of a table have the same.
        pub key: Vec<Spanned<Short<ScopePart>>>,
        /// The keys: `[blue, green]`, or lists of as many values as `key` has parts: `[[blue, eu], [blue, us]]`.
        pub values: Vec<Spanned<Vec<String>>>,
    }
}

section! {
    /// A part of the key of a scope: the first value of a header, or an element of it. The short form is the header.
    pub struct ScopePart {
        /// The header.
        pub header: HeaderName,
        /// What separates the elements of its value; if omitted, the value is one element.
        pub separator: Option<String>,
        /// Which element is meant, from 1.
        pub item: Option<NonZeroU32>,
        /// The element with this name is meant instead, and what it is assigned: with `vip`, `10` of `a=1;vip=10`.
        pub element: Option<String>,
        /// What is between the name of an element and its value.
        pub assignment: String = "=",
    }
}

impl ShortForm for ScopePart {
    const KEY: &'static str = "header";
}
