//! Why an endpoint is ejected.
//!
//! Owns: the kinds of faults. Refuses to know: how they are found. Keeps: each has a word of its own in metrics.

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EjectionKind {
    /// Failed connections in a row.
    ConnectFailures,
    /// Server errors and missing responses in a row.
    Consecutive5xx,
    /// Responses 502, 503 and 504 and missing ones in a row.
    ConsecutiveGatewayErrors,
    /// Fewer good responses than other endpoints.
    SuccessRate,
    /// A large share of failed responses.
    FailurePercentage,
    /// Fewer connections made than with other endpoints.
    ConnectSuccessRate,
    /// A large share of failed connections.
    ConnectFailurePercentage,
    /// No reply to datagrams.
    Silence,
    /// Slower responses than those of other endpoints.
    Latency,
}

impl EjectionKind {
    /// The word for it in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ConnectFailures => "connect_failures",
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::ConnectSuccessRate => "connect_success_rate",
            Self::ConnectFailurePercentage => "connect_failure_percentage",
            Self::Silence => "silence",
            Self::Latency => "latency",
        }
    }

    /// Whether connections were made, and responses failed.
    pub(crate) const fn is_of_answers(self) -> bool {
        matches!(
            self,
            Self::Consecutive5xx
                | Self::ConsecutiveGatewayErrors
                | Self::SuccessRate
                | Self::FailurePercentage
        )
    }
}
