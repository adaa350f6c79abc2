//! When endpoints are ejected for what became of their traffic.
//!
//! Owns: the settings of passive ejection. Refuses to know: how results are counted. Keeps: 0 in a row never ejects.

use std::time::Duration;

/// Passive ejection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutlierPlan {
    /// Consecutive connection failures that eject an endpoint; 0 never does.
    pub connect_failures: u32,
    /// Consecutive server errors, missing responses included, that eject an endpoint; 0 never does.
    pub consecutive_5xx: u32,
    /// Consecutive responses 502, 503 and 504, missing ones included, that eject an endpoint; 0 never does.
    pub consecutive_gateway_errors: u32,
    /// Whether a failed connection also counts as a response 503.
    pub connect_failures_as_503: bool,
    /// Ejects endpoints that succeed less often than others.
    pub success_rate: Option<SuccessRatePlan>,
    /// Ejects endpoints that fail too often.
    pub failure_percentage: Option<FailurePercentagePlan>,
    /// The period over which results are compared.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub ejection: Duration,
    /// The longest ejection.
    pub ejection_max: Duration,
    /// Each ejection is prolonged at random by up to this long.
    pub ejection_jitter: Duration,
    /// The share of endpoints that may be ejected; one always may, unless it is the last.
    pub max_ejected_percent: u8,
    /// Whether an active check that succeeds ends an ejection, if it refutes its cause.
    pub readmit_after_check: bool,
}

impl OutlierPlan {
    /// Whether the results of a period are compared.
    pub const fn measures_rates(&self) -> bool {
        self.success_rate.is_some() || self.failure_percentage.is_some()
    }
}

/// Ejection of endpoints that succeed less often than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SuccessRatePlan {
    /// The standard deviations below the mean, in thousandths, from which an endpoint is an outlier.
    pub stdev_factor_thousandths: u32,
    /// Endpoints with enough results, below which nothing is compared.
    pub endpoints_min: usize,
    /// Results of an endpoint that are enough.
    pub requests_min: u64,
}

/// Ejection of endpoints that fail too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FailurePercentagePlan {
    /// The share of failures from which an endpoint is ejected.
    pub percent: u8,
    /// Endpoints with enough results, below which nobody is ejected.
    pub endpoints_min: usize,
    /// Results of an endpoint that are enough.
    pub requests_min: u64,
}
