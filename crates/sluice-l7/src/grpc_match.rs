//! A condition on gRPC requests, by service and method.
//!
//! Owns: what it compares, and how that is written. Refuses to know: messages. Keeps: names are compared as they are in
//! the path.

use sluice_codec::Head;

/// A gRPC service and optionally a method of it; without either, any gRPC request matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// The service, including its package.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

impl GrpcMatch {
    /// Whether a request is one of gRPC for this service and method.
    pub fn fits(&self, head: &Head) -> bool {
        let mut parts = head.path_only().split('/').skip(1);
        let (service, method) = (parts.next(), parts.next());
        head.is_grpc() && self.fits_names(service, method)
    }

    /// Whether it is this service and method.
    pub fn fits_names(&self, service: Option<&str>, method: Option<&str>) -> bool {
        self.service.as_deref().is_none_or(|wanted| service == Some(wanted))
            && self.method.as_deref().is_none_or(|wanted| method == Some(wanted))
    }
}

sluice_core::text_setting! {
    GrpcMatch, "a service, service/Method or *", "orders.v1.Orders", parse, show;
}

fn show(of: &GrpcMatch) -> String {
    match (&of.service, &of.method) {
        (Some(service), Some(method)) => format!("{service}/{method}"),
        (Some(service), None) => service.clone(),
        (None, _) => "*".into(),
    }
}

fn parse(text: &str) -> Result<GrpcMatch, String> {
    if text == "*" {
        return Ok(GrpcMatch::default());
    }
    let (service, method) = text.split_once('/').map_or((text, None), |(s, m)| (s, Some(m)));
    let fits = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_')
    };
    if !fits(service) || !method.is_none_or(fits) {
        return Err(format!(
            "expected a service such as orders.v1.Orders, service/Method or *, not `{text}`"
        ));
    }
    Ok(GrpcMatch { service: Some(service.into()), method: method.map(Into::into) })
}
