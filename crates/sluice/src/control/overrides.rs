//! Operators' decisions about endpoints: set over the admin address, listed on `/overrides`, ended in time.
//!
//! Owns: what a decision may name, its texts, and the task that ends decisions of any kind with a time. Refuses to know: what they do to
//! a pick. Keeps: a decision about an endpoint that does not exist is refused, so that a typo is not mistaken for one;
//! each that begins or ends is logged.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_core::clock::rfc3339;
use sluice_core::limits::Limit;
use sluice_core::settings::suggest_word;
use sluice_core::value::{parse_duration, show_duration};
use sluice_l4::metrics::LIMIT_REACHED;
use sluice_upstream::Cluster;
use sluice_upstream::overrides::{EndpointOverride, OverrideAction};
use tokio::time::Instant;

use super::Control;

/// Addresses that an error lists.
const LISTED_MAX: usize = 20;

/// An operator's decision about an endpoint, as it was sent.
pub(super) struct EndpointDecision {
    pub(super) cluster: String,
    pub(super) address: String,
    pub(super) action: String,
    pub(super) weight: Option<String>,
    pub(super) lasts: Option<String>,
}

impl EndpointDecision {
    /// The override and for how long; `None` if there is to be none.
    fn wanted(&self) -> Result<Option<(OverrideAction, Option<Duration>)>, String> {
        let lasts = read_time(self.lasts.as_deref())?;
        if self.weight.is_some() && self.action != "weight" {
            return Err(format!("`{}` takes no weight; use action=weight", self.action));
        }
        let action = match self.action.as_str() {
            "drain" => OverrideAction::Drain,
            "maintenance" => OverrideAction::Maintenance,
            "weight" => OverrideAction::Weight(weight(self.weight.as_deref())?),
            "ready" if lasts.is_some() => {
                return Err("`ready` removes an override and takes no time; leave out `for`".into());
            }
            "ready" => return Ok(None),
            other => {
                let known = ["drain", "maintenance", "ready", "weight"];
                let help = suggest_word(other, &known)
                    .unwrap_or_else(|| format!("it is one of {}", known.join(", ")));
                return Err(format!("there is no action `{other}`; {help}"));
            }
        };
        Ok(Some((action, lasts)))
    }
}

fn weight(text: Option<&str>) -> Result<NonZeroU32, String> {
    let text = text.ok_or("a weight needs a number: action=weight&weight=N")?;
    let number: u32 =
        text.parse().map_err(|_| format!("a weight is a whole number from 1 on, not `{text}`"))?;
    NonZeroU32::new(number).ok_or_else(|| {
        "a weight of 0 would drain the endpoint; use `drain`, or `maintenance` to end sticky sessions too"
            .into()
    })
}

/// The time after which an override ends.
pub(super) fn read_time(text: Option<&str>) -> Result<Option<Duration>, String> {
    let lasts = text.map(parse_duration).transpose();
    let lasts = lasts.map_err(|problem| format!("`for`: {problem}"))?;
    if lasts.is_some_and(|lasts| lasts.is_zero()) {
        return Err("`for` must be longer than 0s".into());
    }
    Ok(lasts)
}

/// The override of an endpoint as it is shown.
pub(super) fn show_endpoint(one: &EndpointOverride, wall: Duration) -> Value {
    show(&one.action.to_string(), one.since, one.until, wall)
}

/// An override as it is shown.
pub(super) fn show(action: &str, since: Instant, until: Option<Instant>, wall: Duration) -> Value {
    let since = wall.saturating_sub(since.elapsed());
    let mut item = json!({ "action": action, "origin": "admin", "since": rfc3339(since) });
    if let Some(until) = until {
        item["until"] = rfc3339(wall + until.saturating_duration_since(Instant::now())).into();
    }
    item
}

/// Ends overrides when their time is over, forever.
pub(super) async fn expire(control: Rc<Control>) {
    loop {
        let of_endpoints = control.clusters.borrow().overrides().next_end();
        let of_log = control.log_override.borrow().as_ref().and_then(|one| one.until);
        let next = of_endpoints.into_iter().chain(of_log).min();
        match next {
            None => control.overrides_changed.notified().await,
            // Elapsed or not, the next pass looks at all.
            Some(end) => {
                drop(tokio::time::timeout_at(end, control.overrides_changed.notified()).await);
            }
        }
        control.expire_log_level(Instant::now());
        let mut clusters = control.clusters.borrow_mut();
        for (cluster, endpoint, one) in clusters.overrides().ended(Instant::now()) {
            clusters.set_override(&cluster, &endpoint, None);
            let (cluster, endpoint, action) = (&*cluster, &*endpoint, one.action);
            tracing::info!(cluster, endpoint, %action, "the override of an endpoint has expired");
        }
    }
}

impl Control {
    /// Every override of an endpoint, member or not, every pause of a listener, and that of the log level.
    pub(super) fn overrides(&self) -> Vec<Value> {
        let wall = self.clock.wall(self.clock.now());
        let clusters = self.clusters.borrow();
        let item =
            |(cluster, endpoint, one): (&sluice_core::Name, &Arc<str>, &EndpointOverride)| {
                let member = clusters.get(cluster).is_some_and(|of| is_member(of, endpoint));
                let mut item =
                    json!({ "cluster": &**cluster, "address": &**endpoint, "member": member });
                item["override"] = show_endpoint(one, wall);
                item
            };
        let of_log =
            self.show_log_override().map(|one| json!({ "log": "process", "override": one }));
        let of_others = self.paused_listeners().into_iter().chain(of_log);
        clusters.overrides().iter().map(item).chain(of_others).collect()
    }

    /// Does what an operator decided about an endpoint. Returns what was done.
    pub(super) fn decide(&self, decision: &EndpointDecision) -> Result<String, String> {
        let wanted = decision.wanted()?;
        let EndpointDecision { cluster, address, .. } = decision;
        let mut clusters = self.clusters.borrow_mut();
        let before = clusters.overrides().get(cluster, address);
        let known = clusters.get(cluster).cloned();
        // One that has left can still be removed.
        if before.is_none() {
            let names = || clusters.iter().map(|of| of.name.to_string()).collect();
            let of = known.as_ref().ok_or_else(|| unknown_cluster(cluster, names()))?;
            if !is_member(of, address) {
                return Err(unknown_address(of, address));
            }
        }
        let of = format!("endpoint {address} of the cluster `{cluster}`");
        let (name, endpoint) = (cluster.as_str().into(), address.as_str().into());
        let (cluster, address) = (cluster.as_str(), address.as_str());
        let Some((action, lasts)) = wanted else {
            let Some(before) = clusters.set_override(&name, &endpoint, None) else {
                return Ok(format!("{of}: ready; it had no override"));
            };
            tracing::info!(cluster, endpoint = address, action = %before.action, "the override of an endpoint was removed");
            return Ok(format!("{of}: ready; `{}` was removed", before.action));
        };
        let max = self.in_force.borrow().limits().size(Limit::Overrides);
        if before.is_none() && clusters.overrides().len() >= max {
            let limit = Limit::Overrides.def().name;
            self.shard.counter(&LIMIT_REACHED, &[limit]).increment();
            return Err(format!(
                "there are {max} overrides, as many as `limits.{limit}` allows; end some with `ready` (GET /overrides lists them)"
            ));
        }
        let since = Instant::now();
        let one = EndpointOverride { action, since, until: lasts.map(|lasts| since + lasts) };
        clusters.set_override(&name, &endpoint, Some(one));
        self.overrides_changed.notify_one();
        let time = lasts.map_or_else(String::new, |lasts| format!(" for {}", show_duration(lasts)));
        tracing::info!(cluster, endpoint = address, %action, "an endpoint was overridden{time}");
        let alone = known.is_some_and(|of| !of.has_usable());
        let warning = if alone { "; the cluster has no usable endpoint now" } else { "" };
        Ok(format!("{of}: {action}{time}{warning}"))
    }
}

fn is_member(cluster: &Cluster, address: &str) -> bool {
    cluster.members().endpoints.iter().any(|endpoint| *endpoint.name == *address)
}

fn unknown_cluster(name: &str, known: Vec<String>) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let help = suggest_word(name, &known)
        .unwrap_or_else(|| format!("known clusters: {}", known.join(", ")));
    format!("there is no cluster `{name}`; {help}")
}

fn unknown_address(cluster: &Cluster, address: &str) -> String {
    let members = cluster.members();
    let names: Vec<&str> =
        members.endpoints.iter().take(LISTED_MAX).map(|endpoint| &*endpoint.name).collect();
    let more = members.endpoints.len() - names.len();
    let help = match names.as_slice() {
        [] => "it has none now".to_owned(),
        some if more > 0 => format!("its endpoints: {} and {more} more", some.join(", ")),
        some => format!("its endpoints: {}", some.join(", ")),
    };
    format!("the cluster `{}` has no endpoint `{address}`; {help}", cluster.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(action: &str, weight: Option<&str>, lasts: Option<&str>, expected: &str) {
        let decision = EndpointDecision {
            cluster: "db".into(),
            address: "127.0.0.1:1".into(),
            action: action.into(),
            weight: weight.map(str::to_owned),
            lasts: lasts.map(str::to_owned),
        };
        let got = match decision.wanted() {
            Ok(None) => "ready".to_owned(),
            Ok(Some((action, None))) => action.to_string(),
            Ok(Some((action, Some(lasts)))) => format!("{action} for {}", show_duration(lasts)),
            Err(problem) => problem,
        };
        assert!(got.contains(expected), "{action}: {got}");
    }

    #[test]
    fn decisions_are_read_and_mistakes_explained() {
        check("drain", None, None, "drain");
        check("maintenance", None, Some("10m"), "maintenance for 10m");
        check("ready", None, None, "ready");
        check("weight", Some("20"), Some("1h"), "weight 20 for 1h");
        check("weight", Some("0"), None, "use `drain`");
        check("weight", Some("-1"), None, "from 1 on, not `-1`");
        check("weight", None, None, "weight=N");
        check("drain", Some("3"), None, "takes no weight");
        check("drain", None, Some("10"), "needs a unit");
        check("drain", None, Some("0s"), "longer than 0s");
        check("ready", None, Some("1m"), "leave out `for`");
        check("drian", None, None, "did you mean `drain`?");
        check("up", None, None, "drain, maintenance, ready, weight");
    }
}
