//! Rewrites of paths and hosts.

use sluice_core::settings::Verbatim;
use sluice_core::{Diags, Path, Span};
use sluice_l4::regexes;
use sluice_l7::routes::{HostRewrite, Originals, PathRewrite, RegexSubstitution};

use crate::sections::routes::{HostPart, HostRegex, Original, RegexRewrite, Rewrite};

/// The rewrites of a rule.
pub(super) struct Rewrites {
    pub(super) path: Option<PathRewrite>,
    pub(super) host: HostRewrite,
    pub(super) originals: Originals,
}

/// The rewrites of a rule. Fields are listed by name so that a new one cannot be forgotten.
pub(super) fn rewrites(
    section: &Rewrite,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Rewrites> {
    let Rewrite {
        path,
        replace_prefix,
        regex,
        host,
        host_header,
        host_regex,
        host_of_endpoint,
        originals,
    } = section;
    let path = self::path((path, replace_prefix, regex), span, at, diags)?;
    let host = match (host, host_header, host_regex, *host_of_endpoint) {
        (None, None, None, false) => HostRewrite::Keep,
        (Some(host), None, None, false) => HostRewrite::Literal(host.0.clone()),
        (None, Some(header), None, false) => HostRewrite::Header(header.0.clone()),
        (None, None, Some(regex), false) => {
            host_by_regex(regex, span, &at.key("host_regex"), diags)?
        }
        (None, None, None, true) => HostRewrite::Endpoint,
        _ => {
            let message = "the host is rewritten in more than one way";
            diags
                .error("short-and-long", span, at.key("host"), message)
                .help("keep one of host, host_header, host_regex, host_of_endpoint");
            return None;
        }
    };
    let tells = |what| originals.contains(&what);
    let originals = Originals {
        path: tells(Original::Path),
        host: tells(Original::Host),
        forwarded_host: tells(Original::ForwardedHost),
    };
    const HOSTS: &str = "host, host_header, host_regex or host_of_endpoint";
    let useless = [
        (originals.path && path.is_none(), "path", "path, replace_prefix or regex"),
        (originals.host && host == HostRewrite::Keep, "host", HOSTS),
        (originals.forwarded_host && host == HostRewrite::Keep, "forwarded_host", HOSTS),
    ];
    if let Some((_, what, ways)) = useless.into_iter().find(|(useless, ..)| *useless) {
        let part = if what == "path" { "path" } else { "host" };
        let message = format!("`originals: {what}` has no effect: the {part} is not rewritten");
        diags
            .error("useless-setting", span, at.key("originals"), message)
            .help(format!("remove it, or add {ways}"));
        return None;
    }
    Some(Rewrites { path, host, originals })
}

fn host_by_regex(
    section: &HostRegex,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<HostRewrite> {
    let HostRegex { from, find, replace } = section;
    let by = substitution((find, replace), span, at, diags)?;
    Some(match from {
        HostPart::Path => HostRewrite::OfPath(Box::new(by)),
        HostPart::Header(name) => HostRewrite::OfHeader(Box::new((name.clone(), by))),
    })
}

fn substitution(
    (find, replace): (&Verbatim, &Verbatim),
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<RegexSubstitution> {
    match regexes::anywhere(&find.0) {
        Ok(find) => Some(RegexSubstitution { find, replace: replace.0.clone() }),
        Err(message) => {
            diags.error("bad-value", span, at, message);
            None
        }
    }
}

/// The ways to rewrite a path: a new one, another prefix, a regex.
type Ways<'a> = (&'a Option<String>, &'a Option<String>, &'a Option<RegexRewrite>);

/// The rewrite of a path; `None` if there is none.
pub(super) fn path(
    ways: Ways<'_>,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Option<PathRewrite>> {
    match ways {
        (None, None, None) => Some(None),
        (Some(path), None, None) if path.starts_with('/') => {
            Some(Some(PathRewrite::Whole(path.clone())))
        }
        (Some(path), None, None) => {
            let message = format!("expected a path that begins with `/`, not `{path}`");
            diags.error("bad-value", span, at.key("path"), message);
            None
        }
        (None, Some(prefix), None) => Some(Some(PathRewrite::Prefix(prefix.clone()))),
        (None, None, Some(RegexRewrite { find, replace })) => {
            let regex = substitution((find, replace), span, &at.key("regex"), diags)?;
            Some(Some(PathRewrite::Regex(Box::new(regex))))
        }
        _ => {
            diags
                .error(
                    "short-and-long",
                    span,
                    at.key("path"),
                    "the path is rewritten in more than one way",
                )
                .help("keep one of path, replace_prefix, regex");
            None
        }
    }
}
