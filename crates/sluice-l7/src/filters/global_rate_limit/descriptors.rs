//! What a service for rate limits is asked about: descriptors, lists of keys with values.
//!
//! Owns: their settings, and the descriptors of a request. Refuses to know: limits. Keeps: a request that lacks what an entry
//! needs has no such descriptor, unless the settings say otherwise; a descriptor is never empty.

use std::borrow::Cow;

use sluice_codec::Head;
use sluice_core::section;
use sluice_core::settings::{Short, ShortForm};
use sluice_core::value::Rate;

use super::messages::{DescriptorMessage, EntryMessage, LimitOverrideMessage};
use crate::filters::Cx;
use crate::filters::rate_limit::keys::RateKey;
use crate::header_values::query_parameter;
use crate::hygiene::decode_graphic;
use crate::value_match::Values;

section! {
    /// What the service counts: all requests with the same keys and values are alike to it.
    pub struct RateDescriptor {
        /// Its entries, in this order.
        pub entries: Vec<Short<DescriptorEntry>>,
        /// How many requests this one counts as (`hits_addend`); 0 asks without counting.
        pub hits: Option<u64>,
        /// A limit in place of the one that the service has, if the service allows that.
        pub limit: Option<Rate>,
    }
}

section! {
    /// An entry of a descriptor: a key, and a part of the request or a fixed text as its value.
    pub struct DescriptorEntry {
        /// The key. If omitted, Envoy's name for what it is: `remote_address` for `source_ip`, `masked_remote_address` for
        /// `source_ip/BITS`, `destination_cluster` for `cluster`, `generic_key` for a `value`, `header_match` for one with
        /// conditions; otherwise the name of the header, cookie, parameter or shared value, or of the part.
        pub key: Option<String>,
        /// A part of the request, as in `per` of `rate_limit`: source_ip, source_ip/BITS, identity, header:NAME, cookie:NAME,
        /// query:NAME, value:NAME, cel:EXPRESSION, path, path/SEGMENTS, host, method, route or cluster.
        pub of: Option<RateKey>,
        /// The value of a request that does not have that part.
        pub default: Option<String>,
        /// Whether a request that does not have that part has the descriptor without this entry; otherwise it does not have
        /// the descriptor.
        pub optional: bool = "false",
        /// A fixed value.
        pub value: Option<String>,
        /// Headers that a request must have for the fixed value.
        pub headers: Values,
        /// Query parameters that it must have.
        pub query: Values,
        /// Whether `headers` and `query` must fit, or must not.
        pub expect: bool = "true",
    }
}

impl ShortForm for RateDescriptor {
    const KEY: &'static str = "entries";
    const KEYS_OF_SHORT: &'static [&'static str] = DescriptorEntry::KEYS;
}

impl ShortForm for DescriptorEntry {
    const KEY: &'static str = "of";
}

impl RateDescriptor {
    /// What is wrong with it.
    pub(super) fn mistake(&self) -> Option<&'static str> {
        if self.entries.is_empty() {
            return Some("a descriptor needs entries");
        }
        self.entries.iter().find_map(|entry| entry.mistake())
    }

    /// The descriptor of a request, if it has one.
    pub(super) fn of_request(&self, cx: &Cx<'_>, head: &Head) -> Option<DescriptorMessage> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            match entry.value_of(cx, head) {
                Some(value) => entries.push(EntryMessage { key: entry.key().into_owned(), value }),
                None if entry.optional => {}
                None => return None,
            }
        }
        if entries.is_empty() {
            return None;
        }
        let limit = self.limit.map(limit_override);
        Some(DescriptorMessage { entries, limit, hits_addend: self.hits })
    }
}

/// A rate as the service is told.
pub(crate) fn limit_override(rate: Rate) -> LimitOverrideMessage {
    let unit = match rate.per.as_secs() {
        86_400 => 4,
        3600 => 3,
        60 => 2,
        _ => 1,
    };
    LimitOverrideMessage { requests_per_unit: rate.count, unit }
}

impl DescriptorEntry {
    fn mistake(&self) -> Option<&'static str> {
        let conditional = !self.headers.0.is_empty() || !self.query.0.is_empty() || !self.expect;
        match (&self.of, &self.value) {
            (None, None) => Some("an entry needs `of`, a part of the request, or a fixed `value`"),
            (Some(_), Some(_)) => Some("an entry has `of` or a fixed `value`, not both"),
            (Some(RateKey::All), _) => Some("`all` is no part of a request; write `value`"),
            (Some(RateKey::Cel(_)), _) if self.key.is_none() => {
                Some("what an expression makes has no name of its own; write `key`")
            }
            (Some(_), _) if conditional => {
                Some("`headers`, `query` and `expect` are conditions for a fixed `value`")
            }
            (None, _) if self.default.is_some() => {
                Some("`default` is for a part of the request (`of`), not for a fixed `value`")
            }
            (None, _) if !self.expect && self.headers.0.is_empty() && self.query.0.is_empty() => {
                Some("`expect: false` needs `headers` or `query` that must not fit")
            }
            (None, _) if self.optional && !conditional => Some(
                "a fixed `value` without conditions is never missing, so that `optional` has no effect",
            ),
            (Some(_), _) if self.optional && self.default.is_some() => Some(
                "with a `default` the entry is never missing, so that `optional` has no effect",
            ),
            _ if [&self.key, &self.value, &self.default]
                .into_iter()
                .flatten()
                .any(String::is_empty) =>
            {
                Some("keys and values of a descriptor are not empty")
            }
            _ => None,
        }
    }

    fn key(&self) -> Cow<'_, str> {
        if let Some(key) = &self.key {
            return Cow::Borrowed(key);
        }
        let named = match &self.of {
            None if self.headers.0.is_empty() && self.query.0.is_empty() => "generic_key",
            None => "header_match",
            Some(RateKey::SourceIp) => "remote_address",
            Some(RateKey::SourceBlock(..)) => "masked_remote_address",
            Some(RateKey::Cluster) => "destination_cluster",
            Some(RateKey::Path(_)) => "path",
            Some(
                RateKey::Header(name)
                | RateKey::Cookie(name)
                | RateKey::Query(name)
                | RateKey::Value(name),
            ) => name,
            Some(other) => return Cow::Owned(other.to_string()),
        };
        Cow::Borrowed(named)
    }

    /// The value for a request; none if it does not have the part, or an empty one, or the conditions do not hold.
    fn value_of(&self, cx: &Cx<'_>, head: &Head) -> Option<String> {
        let Some(part) = &self.of else {
            let value = self.value.as_ref()?;
            return (self.fits(head) == self.expect).then(|| value.clone());
        };
        let read = part.read(&cx.view(head));
        let read = read.filter(|value| !value.is_empty());
        read.map(|value| String::from_utf8_lossy(&value).into_owned())
            .or_else(|| self.default.clone())
    }

    fn fits(&self, head: &Head) -> bool {
        let query = head.query().unwrap_or_default();
        self.headers.0.iter().all(|(name, wanted)| {
            wanted.fits(match name.as_str() {
                "host" => Some(head.authority().as_bytes()),
                name => head.get_named(name.as_bytes()),
            })
        }) && self.query.0.iter().all(|(name, wanted)| {
            let value = query_parameter(query, name).map(decode_graphic);
            wanted.fits(value.as_deref().map(str::as_bytes))
        })
    }
}
