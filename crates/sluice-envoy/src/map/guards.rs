//! Guards against load: adaptive concurrency, admission control, bandwidth.
//!
//! Owns: their settings. Refuses to know: where a filter stands. Keeps: a guard that is switched off is left out; runtime
//! keys have no counterpart, their defaults count.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, single};

/// The gRPC statuses that are successes unless others are listed.
const GRPC_SUCCESSES: [u64; 11] = [0, 1, 2, 3, 5, 6, 7, 9, 11, 12, 16];

impl Mapping<'_> {
    /// The filter `adaptive_concurrency`; `None` if it is off.
    pub(super) fn adaptive_concurrency(&mut self, config: &ProtoMessage) -> Option<Node> {
        if !is_on(config, "enabled") {
            config.all_without_effect();
            return None;
        }
        let gradient = config.message("gradient_controller_config")?;
        let mut native = NativeMap::new(config.span);
        if let Some(percentile) = self.percent(gradient, "sample_aggregate_percentile") {
            native.set("percentile", percentile);
        }
        let mut lowest = 3;
        if let Some(ideal) = gradient.message("min_rtt_calc_params") {
            lowest = ideal.number("min_concurrency").unwrap_or(lowest);
            native.word("min", lowest, ideal.place("min_concurrency"));
            if let Some(tolerance) = self.percent(ideal, "buffer") {
                native.set("tolerance", tolerance);
            }
            self.ideal_latency(ideal, &mut native);
        }
        if let Some(limits) = gradient.message("concurrency_limit_params") {
            if let Some(max) = limits.number("max_concurrency_limit") {
                native.word("max", max, limits.place("max_concurrency_limit"));
            }
            if let Some(interval) =
                self.duration(limits, "concurrency_update_interval", Zero::Refused)
            {
                native.set("interval", interval);
            }
            if limits.number("min_concurrency_limit").is_some_and(|min| min != lowest) {
                let why = "the lowest limit is that under which latencies are measured";
                self.unsupported(limits, "min_concurrency_limit", why);
            }
        }
        error_status(config, "concurrency_limit_exceeded_status", &mut native);
        self.differs(
            config,
            "gradient_controller_config",
            "a latency ends with the headers of the response, and begins when the request has been received",
        );
        Some(single("adaptive_concurrency", native.node()))
    }

    fn ideal_latency(&mut self, of: &ProtoMessage, native: &mut NativeMap) {
        if of.has("fixed_value") {
            of.without_effect(&["interval", "request_count"]);
            if let Some(jitter) = of.message("jitter") {
                jitter.all_without_effect();
            }
            if let Some(ideal) = self.duration(of, "fixed_value", Zero::Refused) {
                native.set("ideal", ideal);
            }
            return;
        }
        let mut measure = NativeMap::new(of.span);
        if let Some(every) = self.duration(of, "interval", Zero::Refused) {
            measure.set("every", every);
        }
        if let Some(jitter) = self.percent(of, "jitter") {
            measure.set("jitter", jitter);
        }
        if let Some(requests) = of.number("request_count") {
            measure.word("requests", requests, of.place("request_count"));
        }
        native.map("measure", measure);
    }

    /// The filter `admission_control`; `None` if it is off.
    pub(super) fn admission_control(&mut self, config: &ProtoMessage) -> Option<Node> {
        if !is_on(config, "enabled") {
            config.all_without_effect();
            return None;
        }
        let mut native = NativeMap::new(config.span);
        if let Some(window) = self.duration(config, "sampling_window", Zero::Refused) {
            native.set("window", window);
        }
        for (field, key) in
            [("sr_threshold", "threshold"), ("max_rejection_probability", "max_refused")]
        {
            let Some(share) = config.message(field) else { continue };
            share.without_effect(&["runtime_key"]);
            if let Some(percent) = self.percent(share, "default_value") {
                native.set(key, percent);
            }
        }
        if let Some(aggression) = config.message("aggression") {
            aggression.without_effect(&["runtime_key"]);
            let value = aggression.float("default_value").unwrap_or(0.0);
            // Envoy takes one below 1 for 1.
            let text = format!("{:.3}", value.max(1.0));
            let text = text.trim_end_matches('0').trim_end_matches('.');
            native.set("aggression", plain(text, aggression.span));
        }
        if let Some(rate) = config.message("rps_threshold") {
            rate.without_effect(&["runtime_key"]);
            if let Some(rate) = rate.number("default_value").filter(|rate| *rate > 0) {
                native.word("min_rate", rate, config.place("rps_threshold"));
            }
        }
        if let Some(criteria) = config.message("success_criteria") {
            self.success_criteria(criteria, &mut native);
        }
        self.differs(
            config,
            "success_criteria",
            "requests that clients cancel are not counted, and those of all workers are",
        );
        Some(single("admission_control", native.node()))
    }

    fn success_criteria(&mut self, criteria: &ProtoMessage, native: &mut NativeMap) {
        if let Some(http) = criteria.message("http_criteria") {
            let mut succeeds = [false; 600];
            for range in http.messages("http_success_status") {
                let place =
                    |field: &str| usize::try_from(range.number(field).unwrap_or(0)).unwrap_or(600);
                let (start, end) = (place("start").min(600), place("end").min(600));
                succeeds.iter_mut().take(end).skip(start).for_each(|status| *status = true);
            }
            if succeeds[500..].contains(&true) {
                self.unsupported(http, "http_success_status", "statuses from 500 are failures");
            }
            let failures = ranges_of(&succeeds[..500]);
            let failures = failures.map(|text| plain(text, http.span)).collect();
            native.list("failures", failures, http.span);
        }
        if let Some(grpc) = criteria.message("grpc_criteria") {
            let numbers =
                grpc.list("grpc_success_status").iter().filter_map(|item| match item.value {
                    ProtoValue::Int(number) => u64::try_from(number).ok(),
                    _ => None,
                });
            let mut listed: Vec<u64> = numbers.collect();
            listed.sort_unstable();
            listed.dedup();
            let failures: Vec<Node> = (1..=16)
                .filter(|status| !listed.contains(status))
                .map(|status| plain(status, grpc.span))
                .collect();
            let places = grpc.has("grpc_success_status");
            if places && !listed.contains(&0) {
                self.unsupported(grpc, "grpc_success_status", "OK is always a success");
            } else if places && failures.is_empty() {
                self.unsupported(grpc, "grpc_success_status", "nothing would be a failure");
            } else if places && listed != GRPC_SUCCESSES {
                native.list("grpc_failures", failures, grpc.place("grpc_success_status"));
            }
        }
    }

    /// The filter `bandwidth_limit`; `None` if it is off.
    pub(super) fn bandwidth_limit(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&["stat_prefix", "response_trailer_prefix"]);
        let mode = config.choice("enable_mode");
        if !is_on(config, "runtime_enabled") || &*mode == "DISABLED" {
            config.all_without_effect();
            return None;
        }
        self.only_false(
            config,
            "enable_response_trailers",
            "records have the delays (`%VALUE(bandwidth_limit.response)%`)",
        );
        let Some(rate) = config.number("limit_kbps") else {
            self.unsupported(config, "limit_kbps", "a limit is needed");
            return None;
        };
        let (mut native, span) = (NativeMap::new(config.span), config.place("limit_kbps"));
        for (key, modes) in [
            ("request", ["REQUEST", "REQUEST_AND_RESPONSE"]),
            ("response", ["RESPONSE", "REQUEST_AND_RESPONSE"]),
        ] {
            if modes.contains(&&*mode) {
                native.word(key, format!("{rate}KiB/s"), span);
            }
        }
        native.word("burst", format!("{rate}KiB"), span);
        if let Some(interval) = self.duration(config, "fill_interval", Zero::Refused) {
            native.set("interval", interval);
        }
        Some(single("bandwidth_limit", native.node()))
    }
}

/// Whether a filter with this flag is switched on, which it is without one.
pub(super) fn is_on(config: &ProtoMessage, flag: &str) -> bool {
    let Some(flag) = config.message(flag) else { return true };
    flag.without_effect(&["runtime_key"]);
    !flag.has("default_value") || flag.is("default_value")
}

fn error_status(config: &ProtoMessage, field: &str, native: &mut NativeMap) {
    if let Some(status) = config.message(field)
        && let Some(field) = status.field("code")
        && let ProtoValue::Enum(code, _) = field.value
        && (400..600).contains(&code)
    {
        native.word("status", code, status.span);
    }
}

/// The ranges of statuses from 100 that are not successes.
fn ranges_of(succeeds: &[bool]) -> impl Iterator<Item = String> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (status, _) in succeeds.iter().enumerate().skip(100).filter(|(_, succeeds)| !**succeeds) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == status => *last = status,
            _ => ranges.push((status, status)),
        }
    }
    ranges.into_iter().map(|(first, last)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    })
}
