//! `set_values`: values of a request for other filters, rules, limits and records, from what it and its response contain, and
//! from tables.
//!
//! Owns: the values `set.NAME`, and the order in which they are made. Refuses to know: what they are used for. Keeps: a value
//! that cannot be made is absent, or what the settings say for that case; the message itself stays as it is.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Head, Known};
use sluice_core::values::{SharedValue, ValueFamily, ValueParts};
use sluice_core::{Name, Node, ValueDef};
use sluice_io::WorkerCx;

use self::settings::{SetValues, ValueSource, ValueTable};
use super::{
    CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep,
    WholeMessage, WholeStep,
};
use crate::header_values::{cookie, media_type, query_parameter};
use crate::host_name::bare_host;
use crate::identity::who;
use crate::json::Json;
use crate::template::HttpTemplate;

pub mod settings;
#[cfg(test)]
mod tests;

sluice_core::values! {
    SET: ValueFamily = "set.*", "The values that the filter `set_values` has made, by their names.";
}

/// How a value is made.
#[derive(Clone, Debug)]
struct Making {
    name: Name,
    from: MadeFrom,
    /// A regex that must match; the value is its first group, or what it matches.
    extract: Option<regex::Regex>,
    lookup: Option<ValueTable>,
    missing: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum MadeFrom {
    Text(HttpTemplate),
    Source(ValueSource),
}

#[derive(Debug)]
struct SetPlan {
    all: Vec<Making>,
    /// The largest body that members of JSON are taken from, if any value is.
    json_max: Option<usize>,
}

impl PlanSettings for SetValues {
    const NAME: &'static str = "set_values";
    const HELP: &'static str =
        "Sets values for other filters, rules, limits and records, from requests and tables.";

    fn values() -> &'static [ValueDef] {
        VALUES
    }

    fn plan(
        self,
        _settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let made: Vec<Option<Making>> =
            self.0.iter().map(|value| settings::making(value, context)).collect();
        let all = made.into_iter().collect::<Option<Vec<_>>>()?;
        let of_json =
            |making: &Making| matches!(making.from, MadeFrom::Source(ValueSource::Json(_)));
        let sizes = self.0.iter().zip(&all).filter(|(_, making)| of_json(making));
        let json_max = sizes.map(|(value, _)| value.value.json_max.0).max();
        let json_max = json_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        Some(Arc::new(SetFilter(Arc::new(SetPlan { all, json_max }))))
    }
}

/// The plan, and the filter on each worker.
#[derive(Clone, Debug)]
struct SetFilter(Arc<SetPlan>);

impl HttpFilterPlan for SetFilter {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

/// The values of a request.
#[derive(Clone, Debug, Default)]
struct ValuesByName(Vec<(Name, Arc<dyn SharedValue>)>);

impl ValueParts for ValuesByName {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        self.0.iter().find(|(own, _)| &**own == name).map(|(_, value)| &**value)
    }
}

impl fmt::Display for ValuesByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

impl HttpFilter for SetFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if let Some(max) = self.0.json_max
            && has_json(head)
        {
            let plan = Arc::clone(&self.0);
            return HeadStep::buffer(max, move |cx: &mut Cx<'_>, whole: &mut WholeMessage| {
                plan.set(cx, &whole.head, Json::parse(&whole.body).ok().as_ref());
                WholeStep::Continue
            });
        }
        self.0.set(cx, head, None);
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        self.0.set_of_response(cx, head);
        ResponseStep::Continue
    }
}

/// Whether a request says that its body is JSON (RFC 8259 §11, RFC 6839 §3.1).
fn has_json(head: &Head) -> bool {
    let kind = head.get(Known::ContentType).map(media_type).unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    kind == b"application/json" || kind.ends_with(b"+json")
}

impl SetPlan {
    fn set(&self, cx: &mut Cx<'_>, head: &Head, json: Option<&Json>) {
        let mut set = ValuesByName::default();
        for making in self.all.iter().filter(|making| !making.is_of_response()) {
            let Some(value) = making.value(cx, head, json) else { continue };
            // The next one may be made from it.
            set.0.push((making.name.clone(), value));
            cx.values.set(&SET, ValueFamily(Arc::new(set.clone())));
        }
        // Rules may match these values.
        cx.reroute();
    }
}

impl SetPlan {
    /// Adds what the response has. A response that replaces another one counts.
    fn set_of_response(&self, cx: &mut Cx<'_>, head: &Head) {
        let mut of_response = self.all.iter().filter(|making| making.is_of_response()).peekable();
        if of_response.peek().is_none() {
            return;
        }
        let before = cx.values.get(&SET).and_then(|family| {
            let parts: &dyn std::any::Any = &*family.0;
            parts.downcast_ref::<ValuesByName>().cloned()
        });
        let mut set = before.unwrap_or_default();
        for making in of_response {
            set.0.retain(|(name, _)| *name != making.name);
            if let Some(value) = making.value(cx, head, None) {
                set.0.push((making.name.clone(), value));
            }
        }
        cx.values.set(&SET, ValueFamily(Arc::new(set)));
    }
}

impl Making {
    const fn is_of_response(&self) -> bool {
        match &self.from {
            MadeFrom::Text(_) => false,
            MadeFrom::Source(source) => source.is_of_response(),
        }
    }

    fn value(&self, cx: &Cx<'_>, head: &Head, json: Option<&Json>) -> Option<Arc<dyn SharedValue>> {
        let missing = || Some(Arc::new(self.missing.clone()?.to_string()) as Arc<dyn SharedValue>);
        let text = match &self.from {
            MadeFrom::Text(text) => Some(text.fill(&cx.view(head))),
            MadeFrom::Source(ValueSource::Json(path)) => {
                let member = json.and_then(|json| json.at(path));
                if self.extract.is_none() && self.lookup.is_none() {
                    // It stays what it is: of an array, conditions match a member.
                    let member = member.cloned().map(|json| Arc::new(json) as Arc<dyn SharedValue>);
                    return member.or_else(missing);
                }
                member.map(ToString::to_string)
            }
            MadeFrom::Source(source) => source.text(cx, head),
        };
        let text = text.and_then(|text| match &self.extract {
            Some(regex) => {
                let captures = regex.captures(&text)?;
                let part = captures.get(1).or_else(|| captures.get(0))?;
                Some(part.as_str().to_owned())
            }
            None => Some(text),
        });
        let text = text.and_then(|text| match &self.lookup {
            Some(lookup) => lookup.get(&text),
            None => Some(text),
        });
        text.map(|text| Arc::new(text) as Arc<dyn SharedValue>).or_else(missing)
    }
}

impl ValueSource {
    /// What a request, or its response, has of it. What is not UTF-8 is read as if it were, with replacement characters.
    fn text(&self, cx: &Cx<'_>, head: &Head) -> Option<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let conn = || cx.conn.subject(cx.summary.source, cx.conn_values);
        match self {
            Self::SourceIp => cx.summary.source.ip().map(|ip| ip.to_canonical().to_string()),
            Self::PeerIp => cx.conn.peer().ip().map(|ip| ip.to_canonical().to_string()),
            Self::Sni => conn().sni.map(str::to_owned),
            Self::Identity => who(cx.values, conn().tls).map(|who| who.to_string()),
            Self::Host => Some(bare_host(head.authority()).into()),
            Self::Path => Some(head.path_only().to_owned()),
            Self::Method => Some(head.method_text().to_owned()),
            Self::Status => Some(head.status().to_string()),
            // Several lines are one list (RFC 9110 §5.3).
            Self::Header(name) | Self::ResponseHeader(name) => {
                let lines: Vec<&[u8]> = head.values(name.as_bytes()).collect();
                (!lines.is_empty()).then(|| text(&lines.join(&b", "[..])))
            }
            Self::Cookie(name) => {
                let lines = head.values(Known::Cookie.text().as_bytes());
                let mut found = lines.filter_map(|line| cookie(line, name.as_bytes()));
                found.next().map(text)
            }
            Self::Query(name) => {
                query_parameter(head.query().unwrap_or_default(), name).map(str::to_owned)
            }
            Self::Value(name) => {
                let value = cx.values.named(name).or_else(|| cx.conn_values.named(name));
                value.map(ToString::to_string)
            }
            Self::Cel(expression) => {
                let of = cx.view(head);
                expression.text(&of.attributes(&of.subject()))
            }
            Self::Json(_) => None,
        }
    }
}
