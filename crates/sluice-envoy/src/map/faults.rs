//! Fault injection.
//!
//! Owns: delays, aborts and rates. Refuses to know: where the filter stands. Keeps: a share that is not given is
//! zero, as in Envoy.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, single};

impl Mapping<'_> {
    /// The filter `fault`, from `HTTPFault`; `None` if it injects nothing.
    pub(super) fn fault(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        config.without_effect(&["disable_downstream_cluster_stats"]);
        if let Some(delay) = config.message("delay") {
            let mut section = NativeMap::new(delay.span);
            if let Some(time) = self.duration(delay, "fixed_delay", Zero::Refused) {
                section.set("time", time);
            }
            if delay.has("header_delay") {
                self.unsupported(
                    delay,
                    "header_delay",
                    "clients could ask for any delay; write `fixed_delay`",
                );
            }
            self.fault_share(
                delay,
                config,
                ("delay_percent_runtime", "fault.http.delay.fixed_delay_percent"),
                &mut section,
            );
            native.map("delay", section);
        }
        if let Some(abort) = config.message("abort") {
            let mut section = NativeMap::new(abort.span);
            for (field, key) in [("http_status", "status"), ("grpc_status", "grpc_status")] {
                if let Some(status) = abort.number(field) {
                    section.word(key, status, abort.place(field));
                }
            }
            if abort.message("header_abort").is_some() {
                section.word("by_header", true, abort.span);
            }
            self.fault_share(
                abort,
                config,
                ("abort_percent_runtime", "fault.http.abort.abort_percent"),
                &mut section,
            );
            native.map("abort", section);
        }
        if let Some(limit) = config.message("response_rate_limit") {
            let mut section = NativeMap::new(limit.span);
            if let Some(fixed) = limit.message("fixed_limit") {
                let rate = fixed.number("limit_kbps").unwrap_or(1);
                section.word("bytes_per_second", format!("{rate}KiB"), fixed.span);
            } else {
                limit.without_effect(&["header_limit"]);
                section.word("by_header", true, limit.span);
            }
            self.fault_share(
                limit,
                config,
                ("response_rate_limit_percent_runtime", "fault.http.rate_limit.response_percent"),
                &mut section,
            );
            native.map("response_rate", section);
        }
        if native.is_empty() {
            return None;
        }
        let mut headers = NativeMap::new(config.place("headers"));
        for matcher in config.messages("headers") {
            let Some(name) = matcher.text("name").map(|name| name.to_ascii_lowercase()) else {
                continue;
            };
            if headers.has(&name) {
                self.unsupported(matcher, "name", "the header has a condition already");
            } else if let Some(value) = self.header_match(matcher) {
                headers.set(&name, value);
            }
        }
        native.map("headers", headers);
        if let Some(max) = config.number("max_active_faults") {
            native.word("max_active", max, config.place("max_active_faults"));
        }
        Some(single("fault", native.node()))
    }

    /// The share of requests, and the runtime value that overrides it.
    fn fault_share(
        &mut self,
        of: &ProtoMessage,
        config: &ProtoMessage,
        (field, usual): (&str, &str),
        section: &mut NativeMap,
    ) {
        let percent = if of.has("percentage") { self.fraction(of, "percentage") } else { Some(0) };
        if let Some(percent) = percent {
            section.word("percent", format!("{percent}%"), of.place("percentage"));
        }
        let name = config.text(field).map_or(usual, |name| name);
        section.text("runtime", name, config.place(field));
    }
}
