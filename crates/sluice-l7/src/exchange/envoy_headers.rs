//! The request headers by which Envoy's clients set retries and time-outs, and those by which it reports attempts.
//!
//! Owns: what each header means. Refuses to know: how retries and time-outs are carried out. Keeps: only a rule with
//! `envoy_headers` heeds them; what is heeded does not reach the endpoint, and what cannot be parsed changes nothing; a
//! client cannot ask for more than a bounded number of attempts, statuses and headers.
//!
//! Source: Envoy, router filter, "HTTP headers (consumed)".

use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::names::is_token;
use sluice_core::settings::OrNone;

use super::RequestTask;
use crate::routes::{RetryPlan, RuleOptions, ValueMatch};

/// The most retries that a client may ask for.
const RETRIES_MAX: u32 = 31;

/// The most statuses or header names that are read from a list.
const LIST_MAX: usize = 64;

/// The headers that are heeded.
const HEEDED: [&str; 9] = [
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
];

impl RequestTask {
    /// The options of a rule that heeds the headers, as changed by those of the request.
    pub(super) fn heed_envoy_headers(&mut self, options: Arc<RuleOptions>) -> Arc<RuleOptions> {
        let Some(changed) = changed(&mut self.request, &options) else { return options };
        self.deadlines.configure(&changed.timeouts);
        Arc::new(changed)
    }

    /// Tells the endpoint which attempt this is.
    pub(super) fn number_attempt(&mut self) {
        let number = (self.summary.attempts.len() + 1).to_string();
        self.request.set(ATTEMPT_COUNT, number.as_bytes());
    }

    /// Tells the client how many attempts there were.
    pub(super) fn show_attempts(&mut self) {
        let number = self.summary.attempts.len().to_string();
        self.response.set(ATTEMPT_COUNT, number.as_bytes());
    }
}

const ATTEMPT_COUNT: &[u8] = b"x-envoy-attempt-count";

/// The options as changed by the headers of a request, which are removed; `None` if it has none.
fn changed(request: &mut Head, options: &RuleOptions) -> Option<RuleOptions> {
    let is_heeded = |name: &[u8]| HEEDED.iter().any(|it| name.eq_ignore_ascii_case(it.as_bytes()));
    if !request.fields().any(|(name, _)| is_heeded(name)) {
        return None;
    }
    let mut options = options.clone();
    change_retries(request, &mut options.retry);
    if let Some(word) = text(request, "x-envoy-hedge-on-per-try-timeout") {
        match word {
            "true" => options.retry.hedge = true,
            "false" => options.retry.hedge = false,
            _ => {}
        }
    }
    let millis = |name: &str| Some(Duration::from_millis(number(request, name)?));
    // 0 disables a time-out.
    let timeout = |name: &str| millis(name).map(|time| (!time.is_zero()).then_some(time));
    let timeouts = &mut options.timeouts;
    for (name, of) in [
        ("x-envoy-upstream-rq-timeout-ms", &mut timeouts.response),
        ("x-envoy-upstream-rq-per-try-timeout-ms", &mut timeouts.per_try),
    ] {
        if let Some(timeout) = timeout(name) {
            *of = timeout;
        }
    }
    if let Some(most) = timeout("x-envoy-upstream-stream-duration-ms") {
        timeouts.stream = Some(OrNone(most));
    }
    request.remove_where(|name, _| is_heeded(name));
    Some(options)
}

fn change_retries(request: &Head, retry: &mut RetryPlan) {
    let (mut statuses, mut headers, mut asks) = (false, false, false);
    let when = &mut retry.when;
    for word in list(request, "x-envoy-retry-on") {
        let known = match word {
            "5xx" => &mut when.server_error,
            "gateway-error" => &mut when.gateway_error,
            "reset" => &mut when.reset,
            "connect-failure" | "refused-stream" | "reset-before-request" => &mut when.unsent,
            "retriable-4xx" => &mut when.conflict,
            "envoy-ratelimited" => &mut when.rate_limited,
            "retriable-status-codes" => &mut statuses,
            "retriable-headers" => &mut headers,
            _ => continue,
        };
        (*known, asks) = (true, true);
    }
    for word in list(request, "x-envoy-retry-grpc-on") {
        let code = match word {
            "cancelled" => 1,
            "deadline-exceeded" => 4,
            "resource-exhausted" => 8,
            "internal" => 13,
            "unavailable" => 14,
            _ => continue,
        };
        when.grpc |= 1 << code;
        asks = true;
    }
    if statuses {
        let codes = list(request, "x-envoy-retriable-status-codes");
        let codes = codes.filter_map(|code| code.parse().ok());
        retry.statuses.extend(codes.map(|code: u16| (code, code)));
    }
    if headers {
        let names = list(request, "x-envoy-retriable-header-names");
        let names = names.filter(|name| is_token(name.as_bytes()));
        let present = |name: &str| (name.to_ascii_lowercase(), ValueMatch::Present(true));
        retry.response_headers.extend(names.map(present));
    }
    if asks {
        retry.attempts = retry.attempts.max(2);
    }
    if retry.attempts > 1
        && let Some(retries) = number(request, "x-envoy-max-retries")
    {
        retry.attempts = 1 + u32::try_from(retries).unwrap_or(u32::MAX).min(RETRIES_MAX);
    }
}

fn text<'a>(request: &'a Head, name: &str) -> Option<&'a str> {
    request.get_named(name.as_bytes()).and_then(|value| std::str::from_utf8(value).ok())
}

/// The words of a list in a header.
fn list<'a>(request: &'a Head, name: &str) -> impl Iterator<Item = &'a str> {
    let words = text(request, name).unwrap_or_default().split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).take(LIST_MAX)
}

fn number(request: &Head, name: &str) -> Option<u64> {
    let text = text(request, name)?;
    // A sign is none of a number here.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{RetryWhen, Timeouts};

    fn request(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::request("GET", "http", "a", "/");
        fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
        head
    }

    #[track_caller]
    fn check(fields: &[(&str, &str)], retry: RetryPlan, timeouts: Timeouts) {
        let mut head = request(fields);
        head.append(b"x-envoy-original-path", b"/x");
        let changed = changed(&mut head, &RuleOptions::default()).unwrap();
        assert_eq!((changed.retry, changed.timeouts), (retry, timeouts), "{fields:?}");
        let left: Vec<_> = head.fields().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(left, [b"x-envoy-original-path".to_vec()]);
    }

    #[test]
    fn headers_set_retries() {
        let usual = RetryPlan::default;
        let when = RetryWhen::default;
        let retry_on = |words| ("x-envoy-retry-on", words);
        let both = RetryWhen { server_error: true, reset: true, ..when() };
        let plan = RetryPlan { attempts: 2, when: both, ..usual() };
        check(&[retry_on("5xx, reset,,nonsense")], plan, Timeouts::default());
        let conflict = RetryWhen { conflict: true, ..when() };
        for (retries, attempts) in [("4", 5), ("0", 1), ("99", 32), ("-1", 2), ("x", 2), ("", 2)] {
            let fields = [retry_on("retriable-4xx"), ("x-envoy-max-retries", retries)];
            let plan = RetryPlan { attempts, when: conflict, ..usual() };
            check(&fields, plan, Timeouts::default());
        }
        let fields =
            [retry_on("retriable-status-codes"), ("x-envoy-retriable-status-codes", "404,x,429")];
        let statuses = vec![(404, 404), (429, 429)];
        check(&fields, RetryPlan { attempts: 2, statuses, ..usual() }, Timeouts::default());
        let fields =
            [retry_on("retriable-headers"), ("x-envoy-retriable-header-names", "X-Again, b c")];
        let response_headers = vec![("x-again".to_owned(), ValueMatch::Present(true))];
        check(&fields, RetryPlan { attempts: 2, response_headers, ..usual() }, Timeouts::default());
        let grpc = RetryWhen { grpc: 1 << 1 | 1 << 14, ..when() };
        let plan = RetryPlan { attempts: 2, when: grpc, ..usual() };
        check(&[("x-envoy-retry-grpc-on", "cancelled,unavailable")], plan, Timeouts::default());
        // A number of retries without a condition is none, nor are statuses without the word for them.
        let fields = [("x-envoy-max-retries", "3"), ("x-envoy-retriable-status-codes", "404")];
        check(&fields, usual(), Timeouts::default());
    }

    #[test]
    fn a_header_lets_late_attempts_go_on() {
        for (word, hedge) in [("true", true), ("false", false), ("1", false), ("", false)] {
            let fields = [("x-envoy-hedge-on-per-try-timeout", word)];
            let plan = RetryPlan { hedge, ..RetryPlan::default() };
            check(&fields, plan, Timeouts::default());
        }
    }

    #[test]
    fn headers_set_timeouts() {
        let (usual, ms) = (Timeouts::default, Duration::from_millis);
        let timeouts =
            Timeouts { response: Some(ms(250)), per_try: Some(ms(100)), stream: None, ..usual() };
        let fields = [
            ("x-envoy-upstream-rq-timeout-ms", "250"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "100"),
            ("x-envoy-upstream-stream-duration-ms", "soon"),
        ];
        check(&fields, RetryPlan::default(), timeouts);
        let fields = [("X-Envoy-Upstream-Rq-Timeout-Ms", "0")];
        check(&fields, RetryPlan::default(), Timeouts { response: None, ..usual() });
        for (value, most) in [("700", Some(ms(700))), ("0", None)] {
            let fields = [("x-envoy-upstream-stream-duration-ms", value)];
            let timeouts = Timeouts { stream: Some(OrNone(most)), ..usual() };
            check(&fields, RetryPlan::default(), timeouts);
        }
        assert!(
            changed(&mut request(&[("x-envoy-other", "1")]), &RuleOptions::default()).is_none()
        );
    }

    #[test]
    fn lists_are_bounded() {
        let codes = vec!["500"; 1000].join(",");
        let fields = [
            ("x-envoy-retry-on", "retriable-status-codes"),
            ("x-envoy-retriable-status-codes", &*codes),
        ];
        let changed = changed(&mut request(&fields), &RuleOptions::default()).unwrap();
        assert_eq!(changed.retry.statuses.len(), LIST_MAX);
    }
}
