//! `error_pages`: custom responses in place of errors.
//!
//! Owns: which response an error gets, and what its body is made from. Refuses to know: why a request failed. Keeps: the
//! reason and all headers that do not describe the body stay; a file that changes is in force as soon as it has been read
//! whole, and the last one stays if it cannot be read.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_codec::Head;
use sluice_core::Node;
use sluice_core::settings::Short;
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, Fetched};

use self::settings::{ErrorPage, ErrorPages, Statuses};
use super::set_headers::clean;
use super::{CheckContext, Cx, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep};
use crate::reasons;
use crate::record::View;
use crate::reply::Reply;
use crate::template::HttpTemplate;

pub mod settings;

/// What a body is made from.
#[derive(Clone, Debug)]
enum PageBody {
    Text(HttpTemplate),
    File(Fetched<PageFile>),
    FileWithOperators(Fetched<PageTemplate>),
}

/// A file that is sent as it is.
struct PageFile(Bytes);

impl Content for PageFile {
    fn parse(content: &[u8]) -> Result<Self, String> {
        Ok(Self(Bytes::copy_from_slice(content)))
    }
}

/// A file that contains `%OPERATOR%`s.
struct PageTemplate(HttpTemplate);

impl Content for PageTemplate {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
        HttpTemplate::parse(text).map(Self)
    }
}

/// What an error is replaced by.
#[derive(Clone, Debug)]
enum PageContent {
    Body(PageBody),
    /// A redirect to this address.
    Redirect(HttpTemplate),
}

#[derive(Debug)]
struct CustomPage {
    content: PageContent,
    /// The status in place of that of the error.
    status: Option<u16>,
    content_type: String,
    headers: Vec<(String, HttpTemplate)>,
}

#[derive(Debug)]
struct PagesPlan {
    pages: BTreeMap<Statuses, CustomPage>,
    upstream: bool,
}

impl PlanSettings for ErrorPages {
    const NAME: &'static str = "error_pages";
    const HELP: &'static str =
        "Replaces error responses, by status: by a text, a file or a redirect.";

    fn plan(
        self,
        _settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let at = context.at.key("pages");
        let mut pages = BTreeMap::new();
        let mut usable = true;
        for (statuses, (span, Short(page))) in self.pages.0 {
            let key = statuses.to_string();
            let here = at.key(&key);
            let mut context = context.within(&here);
            let page = page.check(span, &mut context).then(|| {
                let content = content_of(&page, &mut context)?;
                let content_type = page.content_type.unwrap_or_else(|| self.content_type.clone());
                let status = page.status;
                Some(CustomPage { content, status, content_type, headers: page.headers.into_vec() })
            });
            match page.flatten() {
                Some(page) => drop(pages.insert(statuses, page)),
                None => usable = false,
            }
        }
        usable
            .then(|| Arc::new(PagesOf(Arc::new(PagesPlan { pages, upstream: self.upstream }))) as _)
    }
}

fn content_of(page: &ErrorPage, context: &mut CheckContext<'_>) -> Option<PageContent> {
    Some(match (&page.body, &page.body_file, &page.redirect) {
        (_, _, Some(location)) => PageContent::Redirect(location.clone()),
        (_, Some(path), None) if page.operators => {
            PageContent::Body(PageBody::FileWithOperators(context.file(path, "body_file")?))
        }
        (_, Some(path), None) => {
            PageContent::Body(PageBody::File(context.file(path, "body_file")?))
        }
        (Some(text), None, None) => PageContent::Body(PageBody::Text(text.clone())),
        (None, None, None) => PageContent::Body(PageBody::Text(HttpTemplate::default())),
    })
}

/// The plan, and the filter on each worker.
#[derive(Clone, Debug)]
struct PagesOf(Arc<PagesPlan>);

impl HttpFilterPlan for PagesOf {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl PagesPlan {
    /// The page for a status; one for exactly this status has precedence over one for its class.
    fn get(&self, status: u16) -> Option<&CustomPage> {
        let exact = self.pages.get(&Statuses::one(status));
        exact.or_else(|| self.pages.get(&Statuses::class_of(status)))
    }
}

impl PageBody {
    fn bytes(&self, view: &View<'_>) -> Bytes {
        match self {
            Self::Text(text) => text.fill(view).into(),
            // There is content from the beginning.
            Self::File(file) => file.current().map(|file| file.0.clone()).unwrap_or_default(),
            Self::FileWithOperators(file) => {
                file.current().map(|file| file.0.fill(view).into()).unwrap_or_default()
            }
        }
    }
}

impl CustomPage {
    /// The response in place of `head`, whose own headers stay.
    fn reply(&self, cx: &Cx<'_>, head: &mut Head) -> Reply {
        let none = Head::default();
        let summary = crate::record::Summary { status: head.status(), ..cx.summary.clone() };
        let view = View {
            response: Some(head),
            summary: &summary,
            ..cx.view(cx.request.unwrap_or(&none))
        };
        let reason = cx.summary.reason.unwrap_or(reasons::VIA_UPSTREAM);
        let mut reply = match &self.content {
            PageContent::Body(body) => {
                let status = self.status.unwrap_or_else(|| head.status());
                Reply::new(status, reason, cx.summary.details.clone(), body.bytes(&view))
            }
            PageContent::Redirect(to) => {
                let reply = Reply::redirect(self.status.unwrap_or(302), clean(to.fill(&view)));
                Reply { reason, details: cx.summary.details.clone(), ..reply }
            }
        };
        for (name, value) in &self.headers {
            reply = reply.with(name.clone(), clean(value.fill(&view)));
        }
        reply.content_type = self.content_type.clone().into();
        reply.keeps_headers = true;
        for (name, _) in &reply.fields {
            head.remove(name.as_bytes());
        }
        reply
    }
}

impl HttpFilter for PagesOf {
    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let own = cx.summary.reason.is_some();
        let page = self.0.get(head.status()).filter(|_| own || self.0.upstream);
        match page {
            Some(page) if !head.is_grpc() => ResponseStep::reply(page.reply(cx, head)),
            _ => ResponseStep::Continue,
        }
    }
}
