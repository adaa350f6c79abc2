//! Path matches: what the path of a request is compared with.
//!
//! Owns: the kinds of match, and templates. Refuses to know: queries, hosts. Keeps: matching takes time linear in the
//! path, whatever the pattern.

use sluice_l4::regexes;

/// A condition on a path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Any path.
    Any,
    /// Exactly this path.
    Exact(Box<str>),
    /// This path, or anything below it: `/a` matches `/a` and `/a/b`, but not `/ab`.
    Prefix(Box<str>),
    /// A path that starts with these characters.
    StartsWith(Box<str>),
    /// The regex matches the whole path.
    Regex(Box<regex::Regex>),
    /// Segments, some of which are wildcards.
    HttpTemplate(Box<[Segment]>),
    /// The same as another condition, in upper or lower case (ASCII). Made by [`PathMatch::in_any_case`].
    AnyCase(Box<Self>),
}

/// A segment of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// Any one segment that is not empty: `{id}` or `*`.
    One,
    /// The rest of the path: `**` or `{rest=**}`, only in last place.
    Rest,
}

impl PartialEq for PathMatch {
    /// Regexes are equal if they were written alike.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Exact(one), Self::Exact(two))
            | (Self::Prefix(one), Self::Prefix(two))
            | (Self::StartsWith(one), Self::StartsWith(two)) => one == two,
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            (Self::HttpTemplate(one), Self::HttpTemplate(two)) => one == two,
            (Self::AnyCase(one), Self::AnyCase(two)) => one == two,
            _ => false,
        }
    }
}

impl PathMatch {
    /// Parses a path as users write it: `/*`, `/a/*` (by segment), or exact.
    ///
    /// # Errors
    /// A sentence that describes what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("expected a path that begins with `/`, not `{text}`"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
            return Err(
                "a path must consist of visible ASCII characters other than `?` and `#`".into()
            );
        }
        if text == "/*" {
            return Ok(Self::Any);
        }
        match text.strip_suffix("/*") {
            Some(prefix) if !prefix.contains('*') => Ok(Self::Prefix(prefix.into())),
            None if !text.contains('*') => Ok(Self::Exact(text.into())),
            _ => Err(format!(
                "`*` may only be the last segment, as in /a/*; for `{text}`, \
                 use `template` or `regex`"
            )),
        }
    }

    /// Parses a template: `/users/{id}/*`.
    ///
    /// # Errors
    /// A sentence that describes what was expected.
    pub fn parse_template(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("expected a template that begins with `/`, not `{text}`"));
        };
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err("`**` matches the rest of a path and must be last".into());
            }
            let inside = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
            segments.push(match (segment, inside) {
                ("*", _) => Segment::One,
                ("**", _) => Segment::Rest,
                (_, Some(name)) if name.ends_with("=**") => Segment::Rest,
                (_, Some(name)) if !name.is_empty() && !name.contains(['{', '}', '*']) => {
                    Segment::One
                }
                (text, None) if !text.contains(['{', '}', '*']) => Segment::Literal(text.into()),
                (text, _) => {
                    return Err(format!(
                        "`{text}` is not a template segment; use a word, {{name}}, * or **"
                    ));
                }
            });
        }
        Ok(Self::HttpTemplate(segments.into()))
    }

    /// Parses a regex, which must match the whole path.
    ///
    /// # Errors
    /// A sentence that describes what is wrong with it.
    pub fn parse_regex(text: &str) -> Result<Self, String> {
        let whole = regexes::whole(text)?;
        Ok(Self::Regex(Box::new(regexes::anywhere(&whole)?)))
    }

    /// The same condition for paths in upper or lower case; `None` if it does not depend on case, or says itself how.
    pub fn in_any_case(self) -> Option<Self> {
        match self {
            Self::Exact(_) | Self::Prefix(_) | Self::StartsWith(_) | Self::HttpTemplate(_) => {
                Some(Self::AnyCase(Box::new(self)))
            }
            Self::Any | Self::Regex(_) | Self::AnyCase(_) => None,
        }
    }

    /// Whether `path`, without a query, matches.
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..])),
            Self::StartsWith(start) => path.starts_with(&**start),
            Self::Regex(regex) => regex.is_match(path),
            Self::HttpTemplate(segments) => template_fits(segments, path, |one, two| one == two),
            Self::AnyCase(inner) => inner.fits_in_any_case(path),
        }
    }

    fn fits_in_any_case(&self, path: &str) -> bool {
        let after = |start: &str| {
            let (here, rest) = path.split_at_checked(start.len())?;
            here.eq_ignore_ascii_case(start).then_some(rest)
        };
        match self {
            Self::Exact(exact) => path.eq_ignore_ascii_case(exact),
            Self::Prefix(prefix) => {
                after(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
            }
            Self::StartsWith(start) => after(start).is_some(),
            Self::HttpTemplate(segments) => {
                template_fits(segments, path, str::eq_ignore_ascii_case)
            }
            Self::Any | Self::Regex(_) | Self::AnyCase(_) => self.fits(path),
        }
    }

    /// The leading part of `path` that was matched, for prefix rewrites.
    pub fn matched<'a>(&self, path: &'a str) -> &'a str {
        match self {
            Self::Prefix(text) | Self::StartsWith(text) => path.get(..text.len()).unwrap_or(path),
            Self::Any => "",
            Self::Exact(_) | Self::HttpTemplate(_) | Self::Regex(_) => path,
            Self::AnyCase(inner) => inner.matched(path),
        }
    }
}

impl std::fmt::Display for PathMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("/*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}/*"),
            Self::StartsWith(text) => write!(f, "starts_with: {text}"),
            Self::Regex(regex) => write!(f, "regex: {}", regexes::written(regex.as_str())),
            Self::HttpTemplate(segments) => {
                for segment in segments {
                    match segment {
                        Segment::Literal(text) => write!(f, "/{text}")?,
                        Segment::One => f.write_str("/*")?,
                        Segment::Rest => f.write_str("/**")?,
                    }
                }
                Ok(())
            }
            Self::AnyCase(inner) => write!(f, "{inner} (any case)"),
        }
    }
}

/// Segments of a prefix that an index looks up, at most; longer prefixes are checked one by one.
pub(crate) const DEPTH_MAX: usize = 8;

/// The prefixes of a path that end before a slash or with the path, of at most [`DEPTH_MAX`] segments or one more.
pub(crate) fn folders(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'/');
    let ends = slashes.map(|(at, _)| at).chain([path.len()]);
    ends.take(DEPTH_MAX + 1).map(|end| &path[..end])
}

fn template_fits(segments: &[Segment], path: &str, equals: fn(&str, &str) -> bool) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let mut parts = path.split('/');
    for segment in segments {
        match segment {
            Segment::Rest => return true,
            Segment::One => {
                if parts.next().is_none_or(str::is_empty) {
                    return false;
                }
            }
            Segment::Literal(text) => {
                if !parts.next().is_some_and(|part| equals(part, text)) {
                    return false;
                }
            }
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(matches: &PathMatch, fits: &[&str], not: &[&str]) {
        for path in fits {
            assert!(matches.fits(path), "{matches} should fit {path}");
        }
        for path in not {
            assert!(!matches.fits(path), "{matches} should not fit {path}");
        }
    }

    #[test]
    fn paths_fit_by_segment() {
        let parse = |text| PathMatch::parse(text).unwrap();
        check(&parse("/*"), &["/", "/a", "*"], &[]);
        check(&parse("/a"), &["/a"], &["/a/", "/ab", "/"]);
        check(&parse("/a/*"), &["/a", "/a/", "/a/b/c"], &["/ab", "/"]);
        for text in ["a", "/a*", "/*/b", "/a/*/*", "/a?b", ""] {
            assert!(PathMatch::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn regexes_match_the_whole_path() {
        let parse = |text| PathMatch::parse_regex(text).unwrap();
        check(&parse("/public"), &["/public"], &["/private/publicx", "/public/", "/publi"]);
        check(&parse("/a|/b"), &["/a", "/b"], &["/ax", "/x/b"]);
        check(&parse("^/v[0-9]+/.*$"), &["/v1/", "/v12/x/y"], &["/v1", "/x/v1/"]);
        assert_eq!(parse("/a|/b").to_string(), "regex: /a|/b");
        for text in ["a(b", "/a)|(/b", "/a{9999999}"] {
            assert!(PathMatch::parse_regex(text).is_err(), "{text}");
        }
    }

    #[test]
    fn any_case_is_of_what_is_written_out() {
        let any_case = |path: PathMatch| path.in_any_case().unwrap();
        let parse = |text| any_case(PathMatch::parse(text).unwrap());
        check(&parse("/Ab"), &["/ab", "/AB"], &["/abc", "/a"]);
        check(&parse("/Ab/*"), &["/aB", "/AB/c", "/ab/"], &["/abc", "/a", "/\u{e9}"]);
        check(&any_case(PathMatch::StartsWith("/Ab".into())), &["/aBc", "/AB"], &["/a"]);
        let template = PathMatch::parse_template("/Users/{id}/cart").unwrap();
        check(&any_case(template), &["/users/X/CART"], &["/users//cart", "/users/x/carts"]);
        assert_eq!(parse("/Ab/*").matched("/aB/c"), "/aB");
        assert_eq!(parse("/Ab/*").to_string(), "/Ab/* (any case)");
        for path in [PathMatch::Any, PathMatch::parse_regex("/a").unwrap(), parse("/a")] {
            assert_eq!(path.in_any_case(), None);
        }
    }

    #[test]
    fn templates() {
        let parse = |text| PathMatch::parse_template(text).unwrap();
        check(&parse("/users/{id}"), &["/users/7"], &["/users/", "/users", "/users/7/x", "/u/7"]);
        check(&parse("/a/*/b/**"), &["/a/x/b/", "/a/x/b/c/d"], &["/a//b/", "/a/x/c/"]);
        for text in ["a", "/{}", "/**/a", "/a{b}", "/{a*}"] {
            assert!(PathMatch::parse_template(text).is_err(), "{text}");
        }
    }
}
