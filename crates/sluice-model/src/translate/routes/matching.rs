//! What a rule matches.

use sluice_core::{Diags, Path, Spanned};
use sluice_l7::routes::{
    ClientCertificate, Conditions, PathMatch, RuntimeShare, Values, ValuesOfFilters,
};

use crate::sections::routes::{self as sections, RouteMatch};

/// The condition on the path.
pub(super) fn path(
    matches: &Spanned<RouteMatch>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<PathMatch> {
    let path = matches.path.as_ref().map_or(PathMatch::Any, |path| path.0.clone());
    if matches.case_sensitive {
        return Some(path);
    }
    let help = match &path {
        PathMatch::Regex(_) => "remove it, and begin the regex with `(?i)`",
        _ => "remove it, or add the `path` that it is about",
    };
    let any_case = path.in_any_case();
    if any_case.is_none() {
        let message = "`case_sensitive: false` has no effect on this path";
        diags.error("useless-setting", matches.span, at.key("case_sensitive"), message).help(help);
    }
    any_case
}

/// The conditions of a match apart from its path. Fields are listed by name so that a new one cannot be forgotten.
pub(super) fn conditions(of: &RouteMatch) -> Option<Box<Conditions>> {
    let RouteMatch {
        path: _,
        case_sensitive: _,
        method,
        headers,
        content_type,
        query,
        cookies,
        values,
        client_certificate,
        source,
        tls,
        sni,
        version,
        grpc,
        when,
        runtime,
    } = of;
    let conditions = Conditions {
        methods: method.iter().map(|method| method.0.clone()).collect(),
        headers: headers.0.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect(),
        content_types: content_type.clone(),
        query: query.0.clone(),
        cookies: cookies.0.clone(),
        values: values.0.0.clone(),
        client_certificate: client_certificate.as_deref().map(|text| match text {
            "true" => ClientCertificate::Present(true),
            "false" => ClientCertificate::Present(false),
            subject => ClientCertificate::Subject(subject.to_owned()),
        }),
        sources: source.clone(),
        tls: *tls,
        sni: sni.clone(),
        versions: version.clone(),
        grpc: grpc.clone(),
        when: when.clone().map(Box::new),
        runtime: runtime
            .as_ref()
            .map(|share| RuntimeShare { key: share.key.clone(), percent: share.percent }),
    };
    (!conditions.is_empty()).then(|| Box::new(conditions))
}

/// The section that conditions are written as, without a path.
pub fn written(of: &Conditions) -> RouteMatch {
    let Conditions {
        methods,
        headers,
        content_types,
        query,
        cookies,
        values,
        client_certificate,
        sources,
        tls,
        sni,
        versions,
        grpc,
        when,
        runtime,
    } = of;
    RouteMatch {
        path: None,
        case_sensitive: true,
        method: methods.iter().cloned().map(sections::MethodName).collect(),
        headers: Values(headers.clone()),
        content_type: content_types.clone(),
        query: Values(query.clone()),
        cookies: Values(cookies.clone()),
        values: ValuesOfFilters(Values(values.clone())),
        client_certificate: client_certificate.as_ref().map(|of| match of {
            ClientCertificate::Present(present) => present.to_string(),
            ClientCertificate::Subject(subject) => subject.clone(),
        }),
        source: sources.clone(),
        tls: *tls,
        sni: sni.clone(),
        version: versions.clone(),
        grpc: grpc.clone(),
        when: when.as_deref().cloned(),
        runtime: runtime
            .as_ref()
            .map(|share| sections::RuntimeShare { key: share.key.clone(), percent: share.percent }),
    }
}
