//! The metadata that the endpoint of a request must have.
//!
//! Owns: fixed values, and those that a request brings along. Refuses to know: which endpoints have them. Keeps: without
//! values from headers, nothing is computed for a request.

use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::SharedValues;
use sluice_upstream::SubsetKey;

/// The metadata that an endpoint must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointMatch {
    /// Values that are the same for all requests.
    pub fixed: Arc<SubsetKey>,
    /// Keys whose values are those of request headers. A header that is missing leaves its key out.
    pub headers: Vec<(Arc<str>, String)>,
    /// Keys whose values are those that filters shared. One that is missing leaves its key out.
    pub values: Vec<(Arc<str>, String)>,
}

impl EndpointMatch {
    /// The same for all requests.
    pub fn fixed(key: SubsetKey) -> Self {
        Self { fixed: Arc::new(key), headers: Vec::new(), values: Vec::new() }
    }

    /// What a request asks for.
    pub fn key(&self, request: &Head, shared: &SharedValues) -> Arc<SubsetKey> {
        if self.headers.is_empty() && self.values.is_empty() {
            return Arc::clone(&self.fixed);
        }
        let brought = self.headers.iter().filter_map(|(key, header)| {
            let value = request.get_named(header.as_bytes())?;
            Some((Arc::clone(key), String::from_utf8_lossy(value).into()))
        });
        let noted = self.values.iter().filter_map(|(key, name)| {
            Some((Arc::clone(key), shared.named(name)?.to_string().into()))
        });
        Arc::new(self.fixed.with(&SubsetKey::new(brought.chain(noted))))
    }

    /// Both; where a key is in both, `other` counts.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let is_replaced = |key: &Arc<str>| {
            let mut keys = other.fixed.iter().map(|(key, _)| key);
            let mut brought = other.headers.iter().chain(&other.values);
            keys.any(|other| other == key) || brought.any(|(other, _)| other == key)
        };
        let fixed = self.fixed.iter().filter(|(key, _)| !is_replaced(key));
        let headers = self.headers.iter().filter(|(key, _)| !is_replaced(key));
        let values = self.values.iter().filter(|(key, _)| !is_replaced(key));
        Self {
            fixed: Arc::new(SubsetKey::new(fixed.chain(other.fixed.iter()).cloned())),
            headers: headers.chain(&other.headers).cloned().collect(),
            values: values.chain(&other.values).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fixed: &[(&str, &str)], headers: &[(&str, &str)]) -> EndpointMatch {
        let fixed =
            SubsetKey::new(fixed.iter().map(|(key, value)| ((*key).into(), (*value).into())));
        let headers = headers.iter().map(|(key, name)| ((*key).into(), (*name).to_owned()));
        EndpointMatch { fixed: Arc::new(fixed), headers: headers.collect(), values: Vec::new() }
    }

    #[test]
    fn values_come_from_headers_that_are_there() {
        let mut head = Head::request("GET", "http", "a", "/");
        head.append(b"x-version", b"v2");
        for (of, expected) in [
            (of(&[], &[]), ""),
            (of(&[("stage", "prod")], &[]), "stage: prod"),
            (of(&[("stage", "prod")], &[("version", "x-version")]), "stage: prod, version: v2"),
            (of(&[("stage", "prod")], &[("version", "x-other")]), "stage: prod"),
            // What the client says counts, if it says something.
            (of(&[("version", "v1")], &[("version", "x-version")]), "version: v2"),
            (of(&[("version", "v1")], &[("version", "x-other")]), "version: v1"),
        ] {
            let key = of.key(&head, &SharedValues::default());
            assert_eq!(key.to_string(), expected, "{of:?}");
        }
    }

    sluice_core::values! {
        VERSION: String = "test.endpoint_version", "The version that a filter noted.";
    }

    #[test]
    fn values_of_filters_are_asked_for_if_they_are_there() {
        let head = Head::request("GET", "http", "a", "/");
        let values = vec![("version".into(), VERSION.name().to_owned())];
        let asked = EndpointMatch { values, ..of(&[("version", "v1"), ("stage", "prod")], &[]) };
        let mut shared = SharedValues::default();
        assert_eq!(asked.key(&head, &shared).to_string(), "stage: prod, version: v1");
        shared.set(&VERSION, "v2".to_owned());
        assert_eq!(asked.key(&head, &shared).to_string(), "stage: prod, version: v2");
        assert_eq!(of(&[("version", "v1")], &[]).with(&asked).values.len(), 1);
    }

    #[test]
    fn a_share_replaces_keys_of_its_rule() {
        let rule = of(&[("a", "1"), ("b", "1")], &[("c", "x-c"), ("d", "x-d")]);
        let share = of(&[("b", "2"), ("c", "2")], &[("a", "x-a")]);
        let both = rule.with(&share);
        assert_eq!(both, of(&[("b", "2"), ("c", "2")], &[("d", "x-d"), ("a", "x-a")]));
        assert_eq!(rule.with(&of(&[], &[])), rule);
    }
}
