//! Dynamic metadata: what filters note about a request.
//!
//! Owns: which value stands for which metadata, and where metadata is read: operators, routes, policies. Refuses to know: how
//! filters make it. Keeps: metadata that nothing is known to set is never read as if it were there.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::Node;

use super::{Mapping, UniqueNames};
use crate::message::ProtoMessage;
use crate::native::{plain, quoted, single};

/// The metadata that the filters of a connection manager set.
#[derive(Debug, Default)]
pub(super) struct KnownMetadata {
    /// By namespace and path.
    values: HashMap<(Arc<str>, String), MetadataValue>,
    names: UniqueNames,
    /// Whether scripts set some, in any namespace.
    pub(super) by_scripts: bool,
    /// How many filters make values (`set_values`).
    pub(super) filters: usize,
    /// The metadata that endpoints must have (`envoy.lb`): its key, and the value's whole name.
    pub(super) of_endpoints: Vec<(String, String)>,
}

/// The value that stands for metadata.
#[derive(Clone, Debug)]
struct MetadataValue {
    /// Its whole name, such as `set.envoy.lb.version`.
    name: String,
    /// Whether what is below it has the same name with the rest of the path behind.
    deep: bool,
}

impl KnownMetadata {
    /// A name for a value of `set_values`, without `set.`; `None` if a filter sets the same already.
    pub(super) fn add(&mut self, namespace: &Arc<str>, path: &str) -> Option<String> {
        let key = (Arc::clone(namespace), path.to_owned());
        if self.values.contains_key(&key) {
            return None;
        }
        let name = self.names.add(&format!("{namespace}.{path}"));
        self.values.insert(key, MetadataValue { name: format!("set.{name}"), deep: false });
        Some(name)
    }

    /// A name for a value that is no metadata.
    pub(super) fn helper(&mut self, wish: &str) -> String {
        self.names.add(wish)
    }

    /// Notes that a filter sets all of a namespace, or what is below a path in it.
    pub(super) fn below(&mut self, namespace: &str, path: &str, name: String) {
        self.values.insert((namespace.into(), path.into()), MetadataValue { name, deep: true });
    }

    /// Whether another one has all of this under the same names.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.values
            .iter()
            .all(|(key, value)| other.values.get(key).is_some_and(|of| of.name == value.name))
    }

    /// The value that stands for what is at a path.
    fn value(&self, namespace: &str, path: &[&str]) -> Option<String> {
        let namespace: Arc<str> = namespace.into();
        for end in (0..=path.len()).rev() {
            let (above, below) = path.split_at(end);
            let found = self.values.get(&(Arc::clone(&namespace), above.join(".")));
            let fits = found.filter(|value| below.is_empty() || value.deep);
            if let Some(value) = fits {
                let mut name = value.name.clone();
                for step in below {
                    name.push('.');
                    name.push_str(step);
                }
                return Some(name);
            }
        }
        self.by_scripts.then(|| format!("lua.metadata.{namespace}.{}", path.join(".")))
    }
}

impl Mapping<'_> {
    /// A text with operators, with the values in place of `%DYNAMIC_METADATA(NAMESPACE:KEY)%`. What nothing sets stays, and
    /// is refused as an operator.
    pub(super) fn operators(&self, text: &str) -> String {
        const READS: &str = "%DYNAMIC_METADATA(";
        let mut written = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(READS) {
            written.push_str(before);
            let value = after.split_once(')').and_then(|(inside, end)| {
                let mut steps = inside.split(':');
                let namespace = steps.next()?;
                let path: Vec<&str> = steps.collect();
                Some((self.metadata.value(namespace, &path)?, end))
            });
            match value {
                Some((name, end)) => {
                    written.push_str(&format!("%VALUE({name})"));
                    rest = end;
                }
                None => {
                    written.push_str(READS);
                    rest = after;
                }
            }
        }
        written.push_str(rest);
        written
    }

    /// The condition of a `MetadataMatcher`: a value, and what it must be.
    pub(super) fn metadata_condition(&mut self, matcher: &ProtoMessage) -> Option<(String, Node)> {
        let namespace = matcher.text("filter")?;
        let path: Vec<&str> = matcher
            .messages("path")
            .filter_map(|step| step.text("key").map(|key| &**key))
            .collect();
        let Some(name) = self.metadata.value(namespace, &path) else {
            let how = "no filter before is known to set it";
            self.unsupported(matcher, "path", how);
            matcher.all_without_effect();
            return None;
        };
        let condition = self.metadata_value(matcher.message("value")?)?;
        let inverted = matcher.is("invert");
        Some((name, if inverted { single("not", condition) } else { condition }))
    }

    fn metadata_value(&mut self, value: &ProtoMessage) -> Option<Node> {
        if let Some(matcher) = value.message("string_match") {
            return self.string_match(matcher);
        }
        if let Some(wanted) = value.bool("bool_match") {
            return Some(quoted(&wanted.to_string(), value.span));
        }
        if let Some(wanted) = value.bool("present_match") {
            return Some(single("present", plain(wanted, value.span)));
        }
        if let Some(list) = value.message("list_match") {
            // Of a list, one member must fit.
            return self.metadata_value(list.message("one_of")?);
        }
        for field in ["double_match", "null_match", "or_match"] {
            if value.has(field) {
                self.unsupported(value, field, "write `string_match`");
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_deep_value_has_its_name() {
        let mut known = KnownMetadata::default();
        let namespace: Arc<str> = "a.b".into();
        assert_eq!(known.add(&namespace, "c").as_deref(), Some("a.b.c"));
        assert_eq!(known.add(&namespace, "c"), None);
        assert_eq!(known.add(&"a".into(), "b.c").as_deref(), Some("a.b.c-2"));
        known.below("jwt", "payload", "jwt.corp".into());
        known.below("authz", "", "ext_authz.metadata".into());
        let check = |namespace: &str, path: &[&str], expected: Option<&str>| {
            assert_eq!(known.value(namespace, path).as_deref(), expected, "{namespace} {path:?}");
        };
        check("a.b", &["c"], Some("set.a.b.c"));
        check("a.b", &["c", "d"], None);
        check("a", &["b", "c"], Some("set.a.b.c-2"));
        check("jwt", &["payload", "sub"], Some("jwt.corp.sub"));
        check("jwt", &["other"], None);
        check("authz", &["user", "name"], Some("ext_authz.metadata.user.name"));
    }
}
