//! The retries of a rule.

use std::time::Duration;

use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Spanned};
use sluice_l7::routes::{ResetHeader, RetryAvoid, RetryPlan, RetryReset, RetryWhen, ValueMatch};

use crate::sections::routes::retries::{self as sections, Avoid, ResetFormat, Retry, RetryOn};
use sluice_l7::routes::Values;

/// The plan. Fields are listed by name so that a new one cannot be forgotten.
pub(super) fn retry_plan(
    retry: &Spanned<Retry>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<RetryPlan> {
    let Retry {
        when: words,
        statuses,
        response_headers,
        hedge,
        methods,
        request_headers,
        attempts,
        avoid,
        backoff,
        backoff_max,
        reset_headers,
        reset_max,
        body,
    } = &retry.value;
    let when = when(words);
    let nothing = when == RetryWhen::default()
        && statuses.is_empty()
        && response_headers.0.is_empty()
        && !hedge;
    if nothing {
        diags
            .error("missing-field", retry.span, at, "this retry has no condition")
            .help("add `when: [reset, gateway_error]`, `statuses` or `response_headers`");
        return None;
    }
    if reset_headers.is_empty() && *reset_max != RESET_MAX {
        let message = "`reset_max` has no effect without `reset_headers`";
        diags
            .warning("useless-setting", retry.span, at.key("reset_max"), message)
            .help("add the headers that name a wait: `reset_headers: [retry-after]`");
    }
    Some(RetryPlan {
        attempts: attempts.get(),
        when,
        statuses: statuses.iter().map(|range| (range.0, range.1)).collect(),
        response_headers: headers(response_headers),
        hedge: *hedge,
        methods: methods.iter().map(|method| method.0.clone()).collect(),
        request_headers: headers(request_headers),
        avoid: match avoid {
            Avoid::None => RetryAvoid::Nothing,
            Avoid::Endpoint => RetryAvoid::Endpoint,
            Avoid::Priority => RetryAvoid::Priority,
        },
        backoff: backoff.0,
        backoff_max: backoff_max.0,
        reset: (!reset_headers.is_empty()).then(|| {
            let headers = reset_headers.iter().map(reset_header).collect();
            Box::new(RetryReset { headers, wait_max: *reset_max })
        }),
        body_max: usize::try_from(body.0).unwrap_or(usize::MAX),
    })
}

/// The longest wait that a header may name, unless the rule says so.
const RESET_MAX: Duration = Duration::from_secs(300);

fn when(words: &[RetryOn]) -> RetryWhen {
    let mut when = RetryWhen::default();
    for word in words {
        match word {
            RetryOn::ServerError => when.server_error = true,
            RetryOn::GatewayError => when.gateway_error = true,
            RetryOn::Reset => when.reset = true,
            RetryOn::ConnectFailure | RetryOn::RefusedStream => when.unsent = true,
            RetryOn::TryTimeout => when.per_try_timeout = true,
            RetryOn::Conflict => when.conflict = true,
            RetryOn::RateLimited => when.rate_limited = true,
            RetryOn::Cancelled => when.grpc |= 1 << 1,
            RetryOn::DeadlineExceeded => when.grpc |= 1 << 4,
            RetryOn::ResourceExhausted => when.grpc |= 1 << 8,
            RetryOn::Internal => when.grpc |= 1 << 13,
            RetryOn::Unavailable => when.grpc |= 1 << 14,
        }
    }
    when
}

fn headers(values: &Values) -> Vec<(String, ValueMatch)> {
    values.0.iter().map(|(name, wanted)| (name.to_ascii_lowercase(), wanted.clone())).collect()
}

fn reset_header(header: &Short<sections::ResetHeader>) -> ResetHeader {
    let sections::ResetHeader { name, format } = &header.0;
    ResetHeader { name: name.0.clone(), is_unix: *format == ResetFormat::Unix }
}
