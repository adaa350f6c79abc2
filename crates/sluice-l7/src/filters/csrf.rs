//! `csrf`: refuses what pages of other sites have a browser do (cross-site request forgery).
//!
//! Owns: which requests change state, and which page a request comes from. Refuses to know: who the client is. Keeps: a
//! request that changes state passes only if its page is of the same host or of a listed origin.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Node, Spanned};
use sluice_io::WorkerCx;
use sluice_telemetry::CounterSet;

use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::words::OriginPattern;

sluice_core::choice! {
    /// What becomes of a request that changes state and does not say which page it comes from.
    pub enum WithoutOrigin {
        /// It gets a 403 response.
        Refuse = "refuse",
        /// It passes. Browsers send an origin with each of them; other clients need not.
        Allow = "allow",
    }
}

sluice_core::section! {
    /// Refuses requests that change state and come from pages of other sites (CSRF).
    pub struct Csrf {
        /// Origins whose pages may make such requests besides those of the host of the request; `{ regex: REGEX }` for those
        /// that it matches.
        pub origins: Vec<Spanned<OriginPattern>>,
        /// What becomes of a request that does not say which page it comes from.
        pub without_origin: WithoutOrigin = "refuse",
    }
}

impl PlanSettings for Csrf {
    const NAME: &'static str = "csrf";
    const HELP: &'static str =
        "Refuses requests that change state and come from pages of other sites (CSRF).";

    fn plan(self, _: &Node, context: &mut CheckContext<'_>) -> Option<Arc<dyn HttpFilterPlan>> {
        let any = self.origins.iter().find(|origin| origin.value == OriginPattern::Any);
        if let Some(any) = any {
            let at = context.at.key("origins");
            let finding =
                context.diags.error("bad-value", any.span, at, "`*` lets every page pass");
            finding.help("list the origins; where every page may pass, leave the filter out with `csrf: skip`");
        }
        any.is_none().then(|| Arc::new(CsrfPlan(Arc::new(self))) as _)
    }
}

#[derive(Debug)]
struct CsrfPlan(Arc<Csrf>);

impl HttpFilterPlan for CsrfPlan {
    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, _: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(CsrfFilter {
            settings: Arc::clone(&self.0),
            listener: owner.split('/').next().unwrap_or_default().into(),
            counted: CounterSet::default(),
        })
    }
}

#[derive(Debug)]
struct CsrfFilter {
    settings: Arc<Csrf>,
    listener: Box<str>,
    counted: CounterSet<&'static str>,
}

/// Which page a request that changes state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageOrigin {
    /// One that may make it.
    Known,
    /// Another one.
    Foreign,
    /// The request does not say.
    Unknown,
}

impl HttpFilter for CsrfFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let Some(page) = self.settings.judge(head) else { return HeadStep::Continue };
        self.counted.count(&page.word(), |word| {
            cx.worker.shard.counter(&metrics::CSRF, &[&self.listener, word])
        });
        match self.settings.refusal(page) {
            None => HeadStep::Continue,
            Some(details) => {
                let body = "a page of another site may not make this request\n";
                HeadStep::reply(Reply::new(403, reasons::DENIED, details, body))
            }
        }
    }
}

impl PageOrigin {
    const fn word(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
        }
    }
}

impl Csrf {
    /// Why a request from such a page is refused, if it is.
    fn refusal(&self, page: PageOrigin) -> Option<&'static str> {
        match page {
            PageOrigin::Known => None,
            PageOrigin::Foreign => Some("csrf_origin"),
            PageOrigin::Unknown => {
                (self.without_origin == WithoutOrigin::Refuse).then_some("csrf_no_origin")
            }
        }
    }

    /// Which page a request comes from; `None` if it changes no state.
    fn judge(&self, request: &Head) -> Option<PageOrigin> {
        // A WebSocket is open to whatever follows, however harmless its first request is.
        if request.method().is_safe() && request.upgrade().is_none() {
            return None;
        }
        let Some(page) = page_of(request) else { return Some(PageOrigin::Unknown) };
        // Browsers hide the origin of a page whose policy is `no-referrer`, and say this instead.
        let hidden =
            page == b"null" && request.get_named(b"sec-fetch-site") == Some(b"same-origin");
        let listed = |page: &str| self.origins.iter().any(|origin| origin.value.fits(page));
        let passes = hidden
            || std::str::from_utf8(page)
                .is_ok_and(|page| is_of(page, request.authority()) || listed(page));
        Some(if passes { PageOrigin::Known } else { PageOrigin::Foreign })
    }
}

/// The origin of the page that a request comes from: `Origin`, or the beginning of `Referer` (RFC 9110 §10.1.3). Of two,
/// the request cannot be from both.
fn page_of(request: &Head) -> Option<&[u8]> {
    let mut origins = request.values(b"origin");
    match (origins.next(), origins.next()) {
        (Some(origin), None) => return Some(origin),
        (Some(_), Some(_)) => return Some(b""),
        (None, _) => {}
    }
    let referer = request.get_named(b"referer")?;
    let host = referer.windows(3).position(|part| part == b"://")? + 3;
    let end = referer[host..].iter().position(|byte| b"/?#".contains(byte));
    Some(end.map_or(referer, |end| &referer[..host + end]))
}

/// Whether an origin is of this host and port. The scheme is not compared, because TLS may have been terminated before.
fn is_of(origin: &str, authority: &str) -> bool {
    let Some((_, host)) = origin.split_once("://") else { return false };
    let bare = |name: &str| {
        let without = |port| name.strip_suffix(port);
        without(":443").or_else(|| without(":80")).unwrap_or(name).to_ascii_lowercase()
    };
    !host.is_empty() && bare(host) == bare(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::parse_origin_pattern;

    fn refusal(
        method: &str,
        fields: &[(&str, &str)],
        without_origin: WithoutOrigin,
    ) -> Option<&'static str> {
        let csrf = Csrf {
            origins: vec![Spanned {
                value: parse_origin_pattern("https://*.partner.test").unwrap(),
                span: Default::default(),
            }],
            without_origin,
        };
        let mut head = Head::request(method, "http", "Shop.test", "/");
        for (name, value) in fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        csrf.judge(&head).and_then(|page| csrf.refusal(page))
    }

    #[test]
    fn what_changes_state_must_come_from_the_same_host_or_a_listed_origin() {
        for (field, value, expected) in [
            ("origin", "https://shop.test", None),
            ("origin", "https://shop.test:443", None),
            ("origin", "http://shop.test", None),
            ("origin", "https://a.partner.test", None),
            ("origin", "https://partner.test", Some("csrf_origin")),
            ("origin", "https://shop.test:8443", Some("csrf_origin")),
            ("origin", "https://shop.test.evil.test", Some("csrf_origin")),
            ("origin", "https://evil.test", Some("csrf_origin")),
            ("origin", "shop.test", Some("csrf_origin")),
            ("origin", "https://", Some("csrf_origin")),
            ("origin", "null", Some("csrf_origin")),
            ("origin", "", Some("csrf_origin")),
            ("referer", "https://shop.test/a?b=https://evil.test", None),
            ("referer", "https://shop.test", None),
            ("referer", "https://a.partner.test?x", None),
            ("referer", "https://evil.test/https://shop.test/", Some("csrf_origin")),
            ("referer", "https://evil.test#https://shop.test", Some("csrf_origin")),
            ("referer", "https://shop.test@evil.test/", Some("csrf_origin")),
            ("referer", "/relative", Some("csrf_no_origin")),
            ("x-other", "https://shop.test", Some("csrf_no_origin")),
        ] {
            let of = |method| refusal(method, &[(field, value)], WithoutOrigin::Refuse);
            for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE"] {
                assert_eq!(of(method), expected, "{method} {field}: {value}");
            }
            for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
                assert_eq!(of(method), None, "{method} {field}: {value}");
            }
        }
    }

    #[test]
    fn an_origin_counts_more_than_a_referer_and_two_count_as_another() {
        let both = [("origin", "https://evil.test"), ("referer", "https://shop.test/")];
        assert_eq!(refusal("POST", &both, WithoutOrigin::Refuse), Some("csrf_origin"));
        let two = [("origin", "https://shop.test"), ("origin", "https://shop.test")];
        assert_eq!(refusal("POST", &two, WithoutOrigin::Allow), Some("csrf_origin"));
    }

    #[test]
    fn a_hidden_origin_passes_if_the_browser_says_that_it_is_the_same() {
        let of = |site| {
            let fields = [("origin", "null"), ("sec-fetch-site", site)];
            refusal("POST", &fields, WithoutOrigin::Refuse)
        };
        assert_eq!(of("same-origin"), None);
        for other in ["same-site", "cross-site", "none", "same-origin, cross-site"] {
            assert_eq!(of(other), Some("csrf_origin"), "{other}");
        }
    }

    #[test]
    fn a_websocket_changes_state_whatever_its_method_is() {
        let csrf = Csrf { origins: Vec::new(), without_origin: WithoutOrigin::Refuse };
        let mut head = Head::request("GET", "http", "shop.test", "/");
        head.append(b"origin", b"https://evil.test");
        assert_eq!(csrf.judge(&head), None);
        assert!(head.set_upgrade(b"websocket"));
        assert_eq!(csrf.judge(&head), Some(PageOrigin::Foreign));
    }

    #[test]
    fn clients_that_are_no_browsers_may_be_let_through() {
        assert_eq!(refusal("POST", &[], WithoutOrigin::Allow), None);
        let other = [("origin", "https://evil.test")];
        assert_eq!(refusal("POST", &other, WithoutOrigin::Allow), Some("csrf_origin"));
    }
}
