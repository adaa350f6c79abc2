//! The normalisation of paths and header names, so that every reader takes them to mean the same.
//!
//! Owns: path normalisation, and header names that can pass for others. Refuses to know: routes. Keeps: a normal path
//! stays the same byte for byte; normalising twice has the same result as normalising once.
//!
//! Source: RFC 3986 §5.2.4 (dots), §6.2.2.2 (percent-encoding).

/// How paths and header names are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hygiene {
    /// Whether to remove dot segments and decode what needs no encoding.
    pub normalize: bool,
    /// Whether to merge consecutive slashes into one.
    pub merge_slashes: bool,
    /// What to do with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// What to do with header names that contain an underscore, which some servers read as a hyphen.
    pub underscores: Underscores,
}

sluice_core::choice! {
    /// What to do with `%2F` and `%5C` in a path.
    pub enum EscapedSlashes {
        /// Forwards the path with them.
        Keep = "keep",
        /// Refuses the request with 400.
        Reject = "reject",
        /// Decodes them as `unescape` does, and redirects the client to the resulting path.
        Redirect = "redirect",
        /// Decodes them to a slash and a backslash; `normalize` turns the backslash into a slash too.
        Unescape = "unescape",
    }
}

sluice_core::choice! {
    /// What to do with headers whose names contain an underscore.
    pub enum Underscores {
        /// Forwards them.
        Keep = "keep",
        /// Removes them.
        Drop = "drop",
        /// Refuses the request with 400.
        Reject = "reject",
    }
}

impl Default for Hygiene {
    fn default() -> Self {
        Self {
            normalize: true,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
            underscores: Underscores::Keep,
        }
    }
}

/// The outcome of normalising a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathVerdict {
    /// The path is normal.
    Normal,
    /// The path was changed to this.
    Changed(String),
    /// The client is to be redirected to this.
    Redirect(String),
    /// The path is refused.
    Refused,
}

/// Normalises a path; its query stays as it is.
pub fn path(hygiene: &Hygiene, path: &str) -> PathVerdict {
    let (only, query) =
        path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    if !needs_work(hygiene, only) {
        return PathVerdict::Normal;
    }
    let mut text = only.to_owned();
    let escaped = has_escaped_slash(&text);
    let mut redirect = false;
    if escaped {
        match hygiene.escaped_slashes {
            EscapedSlashes::Keep => {}
            EscapedSlashes::Reject => return PathVerdict::Refused,
            EscapedSlashes::Unescape | EscapedSlashes::Redirect => {
                text = unescape_slashes(&text);
                redirect = hygiene.escaped_slashes == EscapedSlashes::Redirect;
            }
        }
    }
    if hygiene.normalize {
        match decode_unreserved(&text) {
            Some(decoded) => text = decoded,
            None => return PathVerdict::Refused,
        }
        match remove_dots(&text) {
            Some(clean) => text = clean,
            None => return PathVerdict::Refused,
        }
    }
    if hygiene.merge_slashes {
        while text.contains("//") {
            text = text.replace("//", "/");
        }
    }
    if text == only {
        return PathVerdict::Normal;
    }
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    if redirect { PathVerdict::Redirect(text) } else { PathVerdict::Changed(text) }
}

/// Normalises a path that a rewrite made. `None` if it is refused or contains dot segments, which would lead to another
/// folder than the rewrite names: no rewrite should produce them.
pub fn rewritten(hygiene: &Hygiene, made: String) -> Option<String> {
    let only = made.split_once('?').map_or(&*made, |(only, _)| only);
    if !only.starts_with('/') || !made.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return None;
    }
    let dots = |decoded: String| decoded.split('/').any(|segment| matches!(segment, "." | ".."));
    if hygiene.normalize && decode_unreserved(only).is_none_or(dots) {
        return None;
    }
    match path(hygiene, &made) {
        PathVerdict::Normal => Some(made),
        PathVerdict::Changed(path) | PathVerdict::Redirect(path) => Some(path),
        PathVerdict::Refused => None,
    }
}

/// The path as a lenient server may read it, if it is another: without parameters of segments (`;x`), decoded, with
/// backslashes as slashes, without empty and dot segments. Neither takes a query.
pub fn lenient(path: &str) -> Option<String> {
    let odd = |pair: &[u8]| matches!(pair, b"//" | b"/.");
    let bytes = path.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b';' | b'\\')) && !bytes.windows(2).any(odd) {
        return None;
    }
    let bare: Vec<&str> =
        path.split('/').map(|part| part.split(';').next().unwrap_or("")).collect();
    let text = decode_graphic(&bare.join("/")).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let folder = if text.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    let read = format!("/{}{folder}", segments.join("/"));
    (read != path).then_some(read)
}

/// Decodes what stands for a visible ASCII character, and leaves the rest.
pub(crate) fn decode_graphic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits =
            rest.get(at + 1..at + 3).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii_graphic) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether the path may not be normal; a single scan suffices for most paths.
fn needs_work(hygiene: &Hygiene, path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.contains(&b'%')
        || bytes.windows(2).any(|pair| match pair {
            b"/." => hygiene.normalize,
            b"//" => hygiene.merge_slashes,
            _ => false,
        })
        || (hygiene.normalize && bytes.contains(&b'\\'))
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes()
        .windows(3)
        .any(|three| three.eq_ignore_ascii_case(b"%2f") || three.eq_ignore_ascii_case(b"%5c"))
}

fn unescape_slashes(path: &str) -> String {
    ["%2f", "%2F"]
        .iter()
        .fold(path.to_owned(), |text, escaped| text.replace(escaped, "/"))
        .replace("%5c", "\\")
        .replace("%5C", "\\")
}

/// Decodes what needs no encoding; `None` if an encoding is invalid or hides NUL, CR or LF.
fn decode_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte == 0 || byte == b'\r' || byte == b'\n' {
            return None;
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    // Some servers take a backslash for a slash.
    Some(out.replace('\\', "/"))
}

/// Removes dot segments; `None` if they lead above the root.
fn remove_dots(path: &str) -> Option<String> {
    let Some(rest) = path.strip_prefix('/') else { return Some(path.to_owned()) };
    let mut segments: Vec<&str> = Vec::new();
    let count = rest.split('/').count();
    for (place, segment) in rest.split('/').enumerate() {
        let last = place + 1 == count;
        match segment {
            "." => {
                if last {
                    segments.push("");
                }
            }
            ".." => {
                segments.pop()?;
                if last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lenient_server_reads_a_path_in_its_own_way() {
        for (path, read) in [
            ("/a/b", None),
            ("/a/b/", None),
            ("/", None),
            ("*", None),
            ("/a%2Fb", Some("/a/b")),
            ("/a%5cb", Some("/a/b")),
            ("/a\\b", Some("/a/b")),
            ("//a///b", Some("/a/b")),
            ("/x/..;/a", Some("/a")),
            ("/x;p=1/../a;q", Some("/a")),
            ("/%61", Some("/a")),
            ("/a/%2e%2e/b", Some("/b")),
            ("/../../b", Some("/b")),
            ("/a/.", Some("/a")),
            ("/a%2F", Some("/a/")),
            ("/a%00b", None),
            ("/a%zz", None),
            ("/a%2", None),
            ("/a%252Fb", Some("/a%2Fb")),
        ] {
            assert_eq!(lenient(path).as_deref(), read, "{path}");
        }
    }

    proptest! {
        /// Whatever the path is, its last reading is reached, and begins with a slash.
        #[test]
        fn lenient_readings_come_to_an_end(path in "/[a/.%25eEfF;\\\\2]{0,40}") {
            let mut read = path;
            let mut count = 0;
            while let Some(next) = lenient(&read) {
                prop_assert!(next.starts_with('/') && next.len() <= read.len() + 1);
                read = next;
                count += 1;
                prop_assert!(count < 50, "{read}");
            }
        }
    }

    fn all() -> Hygiene {
        Hygiene {
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Unescape,
            ..Hygiene::default()
        }
    }

    #[test]
    fn paths_become_normal() {
        let changed = |text: &str| PathVerdict::Changed(text.to_owned());
        for (text, expected) in [
            ("/a/b", PathVerdict::Normal),
            ("/a%20b", PathVerdict::Normal),
            ("/", PathVerdict::Normal),
            ("*", PathVerdict::Normal),
            ("/a/./b", changed("/a/b")),
            ("/a/../b?x=/../y", changed("/b?x=/../y")),
            ("/a/..", changed("/")),
            ("/a/.", changed("/a/")),
            ("/a/%2e%2E/b", changed("/b")),
            ("/%61", changed("/a")),
            ("/a%3a", changed("/a%3A")),
            ("/a\\..\\b", changed("/b")),
            ("/..", PathVerdict::Refused),
            ("/a/../../b", PathVerdict::Refused),
            ("/%", PathVerdict::Refused),
            ("/%zz", PathVerdict::Refused),
            ("/%00", PathVerdict::Refused),
            ("/%0d%0a", PathVerdict::Refused),
        ] {
            assert_eq!(path(&Hygiene::default(), text), expected, "{text}");
        }
        assert_eq!(path(&all(), "//a///b"), changed("/a/b"));
        assert_eq!(path(&all(), "/a%2fb%5C.."), changed("/a/"));
        let reject = Hygiene { escaped_slashes: EscapedSlashes::Reject, ..Hygiene::default() };
        assert_eq!(path(&reject, "/a%2Fb"), PathVerdict::Refused);
        let redirect = Hygiene { escaped_slashes: EscapedSlashes::Redirect, ..Hygiene::default() };
        assert_eq!(path(&redirect, "/a%2Fb?c"), PathVerdict::Redirect("/a/b?c".into()));
    }

    #[test]
    fn what_a_rewrite_makes_is_normal_or_refused() {
        let made = |text: &str| rewritten(&Hygiene::default(), text.to_owned());
        for refused in [
            "/static/../admin",
            "/a/..",
            "/./a",
            "/a/%2e%2E/b",
            "/a\\..\\b",
            "a",
            "",
            "/a b",
            "/a#b",
            "/%0a",
        ] {
            assert_eq!(made(refused), None, "{refused}");
        }
        for (text, path) in [
            ("/a/b?x=/../y", "/a/b?x=/../y"),
            ("/a%3ab", "/a%3Ab"),
            ("/..a/b..", "/..a/b.."),
            ("//a", "//a"),
        ] {
            assert_eq!(made(text).as_deref(), Some(path));
        }
        let merging = Hygiene { merge_slashes: true, ..Hygiene::default() };
        assert_eq!(rewritten(&merging, "/a//b".into()).as_deref(), Some("/a/b"));
        let careless = Hygiene { normalize: false, ..Hygiene::default() };
        assert_eq!(rewritten(&careless, "/a/../b".into()).as_deref(), Some("/a/../b"));
    }

    proptest! {
        #[test]
        fn rewriting_twice_is_rewriting_once(text in "/[a./%25eEfF\\\\2?#]{0,20}", more: bool) {
            let hygiene = if more { all() } else { Hygiene::default() };
            if let Some(once) = rewritten(&hygiene, text.clone()) {
                let only = once.split('?').next().unwrap();
                prop_assert!(!only.split('/').any(|segment| matches!(segment, "." | "..")));
                prop_assert_eq!(rewritten(&hygiene, once.clone()), Some(once));
            }
        }

        #[test]
        fn doing_it_twice_is_doing_it_once(text in "/[a./%25eEfF\\\\2]{0,20}", more: bool) {
            let hygiene = if more { all() } else { Hygiene::default() };
            if let PathVerdict::Changed(once) = path(&hygiene, &text) {
                prop_assert_eq!(path(&hygiene, &once), PathVerdict::Normal, "{} became {}", text, once);
                let below = !once.split('/').any(|segment| segment == "..");
                prop_assert!(below, "{} became {}", text, once);
            }
        }

        #[test]
        fn no_path_panics(text in "\\PC{0,40}") {
            let _ = path(&all(), &text);
        }
    }
}
