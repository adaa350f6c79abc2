//! Circuit breakers.
//!
//! Owns: limits by priority, and retry budgets. Refuses to know: connections. Keeps: the limits that Envoy has
//! without being told are written out.

use super::Mapping;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain};

impl Mapping<'_> {
    /// Envoy's circuit breakers: 1024 connections, pending requests and requests, and 3 retries, each by priority.
    pub(super) fn limits(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let breakers = cluster.message("circuit_breakers");
        let mut limits = NativeMap::new(breakers.map_or(cluster.span, |of| of.span));
        let mut high = NativeMap::new(limits_span(cluster));
        let thresholds = |high: bool| {
            let mut all = breakers.into_iter().flat_map(|of| of.messages("thresholds"));
            all.find(|of| (&*of.choice("priority") == "HIGH") == high)
        };
        self.thresholds(thresholds(false), cluster, &mut limits);
        // Where nothing asks for them, those that Envoy has without being told are left out.
        if self.high_priority || thresholds(true).is_some() {
            self.thresholds(thresholds(true), cluster, &mut high);
            limits.map("high", high);
        }
        if let Some(breakers) = breakers {
            for of in breakers.messages("per_host_thresholds") {
                of.without_effect(&["priority", "track_remaining"]);
                if let Some(max) = of.number("max_connections") {
                    limits.word("connections_per_endpoint", max, of.place("max_connections"));
                }
            }
        }
        native.map("limits", limits);
    }

    fn thresholds(
        &mut self,
        of: Option<&ProtoMessage>,
        cluster: &ProtoMessage,
        limits: &mut NativeMap,
    ) {
        for (field, key, default) in [
            ("max_connections", "connections", 1024),
            ("max_pending_requests", "pending", 1024),
            ("max_requests", "requests", 1024),
            ("max_retries", "retries", 3),
        ] {
            let found = of.and_then(|of| of.number(field));
            let span = of.map_or(cluster.span, |of| of.place(field));
            match found.unwrap_or(default) {
                0 if matches!(key, "connections" | "requests") => {
                    if let Some(of) = of {
                        self.unsupported(of, field, "nothing at all could pass");
                    }
                }
                // The largest number stands for no limit.
                value
                    if value >= u64::from(u32::MAX)
                        && matches!(key, "connections" | "requests") =>
                {
                    limits.word(key, "none", span);
                }
                value => limits.word(key, value, span),
            }
        }
        limits.word("retry_share", "0%", cluster.span);
        let Some(of) = of else { return };
        of.without_effect(&["track_remaining", "priority"]);
        if of.number("max_connection_pools").is_some_and(|pools| pools < u64::from(u32::MAX)) {
            self.unsupported(
                of,
                "max_connection_pools",
                "a cluster has one pool for each endpoint and worker",
            );
        }
        if let Some(budget) = of.message("retry_budget") {
            let share = self.percent(budget, "budget_percent");
            limits.set("retry_share", share.unwrap_or_else(|| plain("20%", budget.span)));
            let least = budget.number("min_retry_concurrency").unwrap_or(3);
            limits.word("retries", least, budget.span);
            budget.without_effect(&["budget_interval"]);
        }
    }
}

/// The type of a connection manager.
const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Whether a route asks for high priority, or may: one that comes on its own.
pub(super) fn asks_for_high_priority(of: &ProtoMessage) -> bool {
    let asks = match of.type_name() {
        "envoy.config.route.v3.RouteAction" => {
            let priority = of.peek("priority").map(|field| &field.value);
            matches!(priority, Some(ProtoValue::Enum(_, Some(word))) if &**word == "HIGH")
        }
        MANAGER => of.has("rds") || of.has("scoped_routes"),
        _ => false,
    };
    let mut below = false;
    for field in &of.fields {
        field.value.messages(&mut |inner| below = below || asks_for_high_priority(inner));
    }
    asks || below
}

fn limits_span(cluster: &ProtoMessage) -> sluice_core::Span {
    cluster.place("circuit_breakers")
}
