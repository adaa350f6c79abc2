//! Outlier detection.
//!
//! Owns: Envoy's defaults: 5 failures, 30 s, 10 percent. Refuses to know: active checks. Keeps: a cluster without it
//! ejects no endpoint.

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain};

impl Mapping<'_> {
    /// The `outlier` of a cluster.
    pub(super) fn outliers(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let Some(of) = cluster.message("outlier_detection") else {
            native.word("outlier", "none", cluster.span);
            return;
        };
        let mut outlier = NativeMap::new(of.span);
        let mut enforce = NativeMap::new(of.span);
        let split = of.is("split_external_local_origin_errors");
        let count = |field: &str, default: u64| {
            let found = of.number(field).unwrap_or(default);
            let word = if found == 0 { "none".to_owned() } else { found.to_string() };
            (word, of.place(field))
        };
        let (word, span) = count("consecutive_5xx", 5);
        outlier.word("consecutive_5xx", word, span);
        let (word, span) = count("consecutive_gateway_failure", 5);
        outlier.word("consecutive_gateway_errors", word, span);
        // Unless told apart, a failed connection counts as a response of 503.
        outlier.word("connect_failures_as_503", !split, of.span);
        let (word, span) = count("consecutive_local_origin_failure", 5);
        outlier.word("connect_failures", if split { word } else { "none".into() }, span);
        for (field, key, default) in [
            ("enforcing_consecutive_5xx", "consecutive_5xx", 100),
            ("enforcing_consecutive_gateway_failure", "consecutive_gateway_errors", 0),
            ("enforcing_consecutive_local_origin_failure", "connect_failures", 100),
            ("enforcing_success_rate", "success_rate", 100),
            ("enforcing_failure_percentage", "failure_percentage", 0),
        ] {
            let share = of.number(field).unwrap_or(default);
            enforce.word(key, format!("{share}%"), of.place(field));
        }
        // Successes of connections are enforced as those of responses are.
        for field in
            ["enforcing_local_origin_success_rate", "enforcing_failure_percentage_local_origin"]
        {
            if of.has(field) {
                of.field(field);
                self.differs(of, field, "it is the same for connections and responses");
            }
        }
        outlier.map("enforce", enforce);
        self.outlier_rates(of, &mut outlier);
        for (field, key, default) in [
            ("interval", "interval", "10s"),
            ("base_ejection_time", "ejection", "30s"),
            ("max_ejection_time", "ejection_max", "5m"),
        ] {
            let time = self.duration(of, field, Zero::Refused);
            outlier.set(key, time.unwrap_or_else(|| plain(default, of.span)));
        }
        if let Some(jitter) = self.duration(of, "max_ejection_time_jitter", Zero::Kept) {
            outlier.set("ejection_jitter", jitter);
        }
        let most = of.number("max_ejection_percent").unwrap_or(10);
        outlier.word("max_ejected", format!("{most}%"), of.place("max_ejection_percent"));
        if let Some(readmit) = of.bool("successful_active_health_check_uneject_host") {
            outlier.word("readmit_after_check", readmit, of.span);
        }
        if of.bool("always_eject_one_host") == Some(false) {
            self.differs(of, "always_eject_one_host", "one endpoint may always be ejected");
        }
        native.set("outlier", outlier.node());
    }

    fn outlier_rates(&mut self, of: &ProtoMessage, outlier: &mut NativeMap) {
        let mut rate = NativeMap::new(of.span);
        let factor = of.number("success_rate_stdev_factor").unwrap_or(1900);
        rate.word("stdev_factor", format!("{}.{:03}", factor / 1000, factor % 1000), of.span);
        volume(of, "success_rate", 100, &mut rate);
        outlier.map("success_rate", rate);
        let mut failures = NativeMap::new(of.span);
        let threshold = of.number("failure_percentage_threshold").unwrap_or(85);
        failures.word("threshold", format!("{threshold}%"), of.span);
        volume(of, "failure_percentage", 50, &mut failures);
        outlier.map("failure_percentage", failures);
    }
}

/// How many endpoints must have had how many requests each before a rate counts.
fn volume(of: &ProtoMessage, rate: &str, requests: u64, native: &mut NativeMap) {
    let number = |field: &str, usual| of.number(&format!("{rate}_{field}")).unwrap_or(usual).max(1);
    native.word("endpoints", number("minimum_hosts", 5), of.span);
    native.word("requests", number("request_volume", requests), of.span);
}
