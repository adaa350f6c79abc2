//! Rewrites of paths by templates (`uri_template`).
//!
//! Owns: the regex that captures what a template matches, and the replacement. Refuses to know: what else is rewritten.
//! Keeps: a template with patterns of its own is refused.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::NativeMap;

impl Mapping<'_> {
    /// The `regex` of a rewrite, from a `path_rewrite_policy`; `matched` is the template of the rule.
    pub(super) fn template_rewrite(
        &mut self,
        policy: &ProtoMessage,
        matched: Option<&str>,
    ) -> Option<Node> {
        policy.without_effect(&["name"]);
        let config = policy.message("typed_config")?;
        if config.descriptor.name() != "UriTemplateRewriteConfig" {
            self.unsupported_type(config);
            return None;
        }
        let written = config.text("path_template_rewrite")?;
        let Some((find, names)) = matched.and_then(captures) else {
            let how =
                "the rule needs a template whose variables have no patterns (`path_match_policy`)";
            self.unsupported(config, "path_template_rewrite", how);
            return None;
        };
        let Some(replace) = replacement(written, &names) else {
            let how = "it names a variable that the template of the rule does not have";
            self.unsupported(config, "path_template_rewrite", how);
            return None;
        };
        let mut native = NativeMap::new(config.span);
        native.text("find", &find, config.span);
        native.text("replace", &replace, config.place("path_template_rewrite"));
        Some(native.node())
    }
}

/// A regex for the paths that a template matches, with a group for each variable, and the names of these.
fn captures(template: &str) -> Option<(String, Vec<&str>)> {
    let mut find = String::from("^");
    let mut names = Vec::new();
    for segment in template.strip_prefix('/')?.split('/') {
        find.push('/');
        match segment {
            "*" => find.push_str("[^/]+"),
            "**" => find.push_str(".*"),
            _ => match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) if !name.contains(['{', '}', '=']) => {
                    find.push_str("([^/]+)");
                    names.push(name);
                }
                None if !segment.contains(['{', '}', '*']) => {
                    find.push_str(&regex::escape(segment));
                }
                _ => return None,
            },
        }
    }
    find.push('$');
    Some((find, names))
}

/// What a rewrite makes of the groups; `None` if it names a variable that there is not.
fn replacement(written: &str, names: &[&str]) -> Option<String> {
    let mut replace = String::new();
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, end) = after.split_once('}')?;
        let group = names.iter().position(|known| *known == name)? + 1;
        replace.push_str(&before.replace('$', "$$"));
        replace.push_str(&format!("${{{group}}}"));
        rest = end;
    }
    replace.push_str(&rest.replace('$', "$$"));
    Some(replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_groups() {
        let (find, names) = captures("/a.b/{lang}/*/{id}/**").unwrap();
        assert_eq!(find, "^/a\\.b/([^/]+)/[^/]+/([^/]+)/.*$");
        assert_eq!(names, ["lang", "id"]);
        assert_eq!(replacement("/{id}$/{lang}", &names).unwrap(), "/${2}$$/${1}");
        assert!(replacement("/{other}", &names).is_none());
        assert!(replacement("/{id", &names).is_none());
        for other in ["a", "/{a=*}", "/x{a}", "/a*"] {
            assert!(captures(other).is_none(), "{other}");
        }
    }
}
