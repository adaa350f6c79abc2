use super::*;
use sluice_core::settings::Size;
use sluice_core::{Span, Spanned};

use super::settings::{FaultAbort, FaultDelay, FaultRate, GrpcNumber};

fn none() -> FaultInjection {
    let (delay, abort, response_rate, max_active) = (None, None, None, None);
    FaultInjection { headers: Default::default(), delay, abort, response_rate, max_active }
}

fn spanned<T>(value: T) -> Option<Spanned<T>> {
    Some(Spanned { value, span: Span::default() })
}

/// Faults that requests ask for, delays of at most two seconds.
fn by_header() -> FaultInjection {
    let (percent, runtime) = (Percent(40), None);
    FaultInjection {
        delay: Some(FaultDelay {
            time: Duration::from_secs(2),
            by_header: true,
            percent,
            runtime: runtime.clone(),
        }),
        abort: spanned(FaultAbort {
            status: None,
            grpc_status: None,
            by_header: true,
            percent,
            runtime: runtime.clone(),
        }),
        response_rate: spanned(FaultRate {
            bytes_per_second: None,
            by_header: true,
            percent,
            runtime,
        }),
        ..none()
    }
}

fn faults(of: &FaultInjection, fields: &[(&str, &str)]) -> Faults {
    let mut head = Head::request("GET", "http", "a.test", "/");
    for (name, value) in fields {
        head.append(name.as_bytes(), value.as_bytes());
    }
    // Of a hundred lots, the fortieth is drawn.
    of.faults_of(&head, |share, asked| 39 < percent_of(share.percent, None, asked))
}

#[test]
fn a_request_asks_for_faults_within_the_settings() {
    let of = by_header();
    let one = |name, value| faults(&of, &[(name, value)]);
    for (value, millis) in [
        ("1", Some(1)),
        ("2000", Some(2000)),
        ("2001", Some(2000)),
        ("18446744073709551615", Some(2000)),
        ("18446744073709551616", None),
        ("0", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1s", None),
        ("\u{661}", None),
    ] {
        let delay = millis.map(Duration::from_millis);
        assert_eq!(one(DELAY, value), Faults { delay, ..Faults::default() }, "{value}");
    }
    for (name, value, abort) in [
        (ABORT, "503", Some(AbortWith::Status(503))),
        (ABORT, "200", Some(AbortWith::Status(200))),
        (ABORT, "199", None),
        (ABORT, "600", None),
        (ABORT, "65739", None),
        (ABORT, "abc", None),
        (ABORT_GRPC, "14", Some(AbortWith::Grpc(GrpcCode::Unavailable))),
        (ABORT_GRPC, "0", Some(AbortWith::Grpc(GrpcCode::Ok))),
        (ABORT_GRPC, "17", None),
        (ABORT_GRPC, "4294967310", None),
    ] {
        assert_eq!(one(name, value), Faults { abort, ..Faults::default() }, "{name}: {value}");
    }
    for (value, rate) in [("1", Some(1024)), ("0", None), ("x", None)] {
        assert_eq!(one(RATE, value), Faults { rate, ..Faults::default() }, "{value}");
    }
    let huge = one(RATE, "18446744073709551615");
    assert_eq!(huge.rate, Some(u64::MAX), "no rate is so high that it becomes a low one");
}

#[test]
fn a_request_asks_for_a_smaller_share_only() {
    for (asked, hit) in [("100", true), ("40", true), ("39", false), ("0", false), ("x", true)] {
        let fields = [(DELAY, "5"), (DELAY_PERCENT, asked)];
        assert_eq!(faults(&by_header(), &fields).delay.is_some(), hit, "{asked}");
    }
    assert_eq!(percent_of(Percent(10), None, Some(100)), 10);
    assert_eq!(percent_of(Percent(10), Some(50), None), 50);
    assert_eq!(percent_of(Percent(10), Some(50), Some(20)), 20);
    assert_eq!(percent_of(Percent(10), Some(0), Some(20)), 0);
    assert_eq!(percent_of(Percent(10), Some(u64::MAX), None), 100);
}

#[test]
fn headers_count_only_if_the_settings_say_so() {
    let fixed = FaultAbort {
        status: None,
        grpc_status: Some(GrpcNumber(GrpcCode::NotFound)),
        by_header: false,
        percent: Percent(100),
        runtime: None,
    };
    let rate = FaultRate {
        bytes_per_second: Some(Size(100)),
        by_header: false,
        percent: Percent(100),
        runtime: None,
    };
    let of = FaultInjection { abort: spanned(fixed), response_rate: spanned(rate), ..none() };
    let asked = [(ABORT, "503"), (DELAY, "5"), (RATE, "7")];
    let abort = Some(AbortWith::Grpc(GrpcCode::NotFound));
    assert_eq!(faults(&of, &asked), Faults { delay: None, abort, rate: Some(100) });
    assert_eq!(faults(&none(), &asked), Faults::default());
}

#[test]
fn as_many_requests_have_a_fault_as_are_allowed() {
    let active = Arc::default();
    let begin = || ActiveFault::begin(&active, Some(2));
    let (first, second) = (begin(), begin());
    assert!(first.is_some() && second.is_some() && begin().is_none());
    drop(first);
    let third = begin();
    assert!(third.is_some() && begin().is_none());
    drop((second, third));
    assert_eq!(active.load(Relaxed), 0);
}
