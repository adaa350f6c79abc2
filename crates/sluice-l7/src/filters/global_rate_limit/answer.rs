//! What a service for rate limits answers, and what becomes of the request.
//!
//! Owns: how answers are read, and which headers they may add. Refuses to know: what was asked. Keeps: what cannot be carried
//! out to the letter, or says neither yes nor no, is no answer.

use bytes::Bytes;
use sluice_codec::names::is_field_value;

use super::super::ext_authz::answer::tree;
use super::super::ext_authz::messages::HeaderValueMessage;
use super::super::rate_limit::fields::RateFields;
use super::messages::{DescriptorStatusMessage, DurationMessage, RateLimitResponse};
use crate::json::Json;
use crate::words::is_editable;

/// The answer of a service.
#[derive(Debug)]
pub(super) struct RateAnswer {
    /// Whether the request exceeds a limit.
    pub(super) limited: bool,
    /// After how many seconds the client may come back.
    pub(super) retry_after: Option<u64>,
    /// What is left of each limit.
    pub(super) fields: RateFields,
    /// Headers for the client.
    pub(super) response: Vec<(String, Bytes)>,
    /// Headers for the endpoint.
    pub(super) request: Vec<(String, Bytes)>,
    /// The body of a refusal.
    pub(super) body: Bytes,
    /// What the service tells later filters and records.
    pub(super) metadata: Option<Json>,
}

/// Reads an answer.
///
/// # Errors
/// What cannot be carried out.
pub(super) fn read(answer: RateLimitResponse) -> Result<RateAnswer, String> {
    let limited = match answer.overall_code {
        1 => false,
        2 => true,
        other => return Err(format!("it has the code {other}")),
    };
    let mut fields = RateFields::default();
    for (place, status) in answer.statuses.iter().enumerate() {
        add(&mut fields, place, status);
    }
    let exceeded = answer.statuses.iter().filter(|status| status.code == 2);
    let waits = exceeded.filter_map(|status| status.duration_until_reset.map(seconds));
    let headers = |all: Vec<HeaderValueMessage>| {
        all.into_iter().map(header).collect::<Result<Vec<_>, String>>()
    };
    Ok(RateAnswer {
        limited,
        retry_after: waits.max().filter(|_| limited),
        fields,
        response: headers(answer.response_headers_to_add)?,
        request: headers(answer.request_headers_to_add)?,
        body: answer.raw_body,
        metadata: answer.dynamic_metadata.map(tree),
    })
}

/// Whole seconds, rounded up; at least one, so that no client comes back at once.
fn seconds(time: DurationMessage) -> u64 {
    let whole = u64::try_from(time.seconds).unwrap_or(0);
    whole.saturating_add(u64::from(time.nanos > 0)).max(1)
}

/// Adds what is left of the limit of a descriptor, if it has one.
fn add(fields: &mut RateFields, place: usize, status: &DescriptorStatusMessage) {
    let Some(limit) = &status.current_limit else { return };
    let window = match limit.unit {
        1 => 1,
        2 => 60,
        3 => 3600,
        4 => 86_400,
        5 => 30 * 86_400,
        6 => 365 * 86_400,
        7 => 7 * 86_400,
        _ => return,
    };
    // The draft names policies by printable ASCII strings.
    let is_quotable = |byte: u8| (0x20..0x7f).contains(&byte) && !b"\"\\".contains(&byte);
    let named = !limit.name.is_empty() && limit.name.bytes().all(is_quotable);
    let name = if named { limit.name.clone() } else { format!("limit-{place}") };
    let reset = status.duration_until_reset.map_or(window, seconds);
    fields.put(&name, (limit.requests_per_unit, window), (status.limit_remaining, reset));
}

fn header(header: HeaderValueMessage) -> Result<(String, Bytes), String> {
    let HeaderValueMessage { key, value, raw_value } = header;
    let value = if raw_value.is_empty() { Bytes::from(value) } else { raw_value };
    if !is_editable(&key) || !is_field_value(&value) {
        return Err(format!("it adds the header {key:?}"));
    }
    Ok((key.to_ascii_lowercase(), value))
}
