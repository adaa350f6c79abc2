//! When endpoints are ejected for what became of their traffic.
//!
//! Owns: the settings of passive ejection. Refuses to know: how results are counted. Keeps: 0 in a row never ejects.

use std::time::Duration;

use crate::endpoint::EjectionKind;

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
    /// Ejects endpoints that do not reply to datagrams.
    pub silence: Option<SilencePlan>,
    /// Ejects endpoints that respond more slowly than others.
    pub latency: Option<LatencyPlan>,
    /// How often what is found has an effect.
    pub enforce: EnforcePlan,
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
        self.success_rate.is_some() || self.failure_percentage.is_some() || self.latency.is_some()
    }
}

/// The share of the cases, in percent, in which an endpoint is ejected for what was found; in the others it is only
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnforcePlan {
    /// For connection failures in a row.
    pub connect_failures: u8,
    /// For server errors in a row.
    pub consecutive_5xx: u8,
    /// For gateway errors in a row.
    pub consecutive_gateway_errors: u8,
    /// For a low success rate.
    pub success_rate: u8,
    /// For a large share of failures.
    pub failure_percentage: u8,
    /// For silence.
    pub silence: u8,
    /// For slow responses.
    pub latency: u8,
}

impl EnforcePlan {
    /// Everything has an effect.
    pub const ALWAYS: Self = Self {
        connect_failures: 100,
        consecutive_5xx: 100,
        consecutive_gateway_errors: 100,
        success_rate: 100,
        failure_percentage: 100,
        silence: 100,
        latency: 100,
    };

    /// The share for faults of that kind.
    pub const fn of(&self, kind: EjectionKind) -> u8 {
        match kind {
            EjectionKind::ConnectFailures => self.connect_failures,
            EjectionKind::Consecutive5xx => self.consecutive_5xx,
            EjectionKind::ConsecutiveGatewayErrors => self.consecutive_gateway_errors,
            EjectionKind::SuccessRate | EjectionKind::ConnectSuccessRate => self.success_rate,
            EjectionKind::FailurePercentage | EjectionKind::ConnectFailurePercentage => {
                self.failure_percentage
            }
            EjectionKind::Silence => self.silence,
            EjectionKind::Latency => self.latency,
        }
    }
}

/// Ejection of endpoints that respond more slowly than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LatencyPlan {
    /// How many times as long as the median of all its mean response time must be, in thousandths.
    pub factor_thousandths: u32,
    /// By how much it must exceed the median at least.
    pub excess_min: Duration,
    /// Endpoints with enough responses, below which nothing is compared.
    pub endpoints_min: usize,
    /// Responses of an endpoint that are enough.
    pub requests_min: u64,
}

/// Ejection of endpoints that do not reply to datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SilencePlan {
    /// Datagrams to the endpoint, of all its flows, since its last reply to any of them.
    pub datagrams: u32,
    /// How long it has not replied since the first of these.
    pub time: Duration,
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
