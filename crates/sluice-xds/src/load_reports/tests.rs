//! What is in which report.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use prost::Message as _;

use super::*;
use crate::messages::NodeMessage;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Moment {
    Moment::from_micros(1_000_000).after(SECOND * u32::try_from(seconds).unwrap())
}

fn asks(clusters: &[&str], seconds: i64) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
        load_reporting_interval: Some(TtlMessage { seconds, nanos: 0 }),
        ..LoadStatsResponse::default()
    }
}

fn endpoint(id: usize, zone: &str, issued: u64, succeeded: u64) -> CountedEndpoint {
    let locality = LocalityMessage { zone: zone.to_owned(), ..LocalityMessage::default() };
    let totals = LoadTotals { issued, succeeded, failed: issued - succeeded };
    CountedEndpoint { id, locality, totals, ..CountedEndpoint::default() }
}

fn cluster(name: &str, endpoints: Vec<CountedEndpoint>) -> ClusterLoad {
    ClusterLoad { name: name.into(), endpoints, ..ClusterLoad::default() }
}

/// What a report says of the localities of its only cluster: zone, issued, succeeded, failed.
fn shown(report: &LoadStatsRequest) -> Vec<(String, u64, u64, u64)> {
    let [cluster] = report.cluster_stats.as_slice() else { panic!("{report:?}") };
    let localities = cluster.upstream_locality_stats.iter();
    let shown = localities.map(|of| {
        let zone = of.locality.clone().unwrap().zone;
        let (issued, done) = (of.total_issued_requests, of.total_successful_requests);
        (zone, issued, done, of.total_error_requests)
    });
    shown.collect()
}

#[test]
fn each_report_has_what_is_new_by_locality() {
    let mut reporter = LoadReporter::new(b"");
    assert_eq!(reporter.due(), None);
    assert!(!reporter.wants_any());
    reporter.receive(asks(&["a"], 5), at(0));
    assert!(reporter.wants("a") && !reporter.wants("b"));
    assert_eq!(reporter.due(), Some(at(5)));
    // What was counted before the plane asked is not reported.
    reporter.begin(vec![cluster("a", vec![endpoint(1, "z", 7, 7)])], at(0));
    let endpoints = || vec![endpoint(1, "z", 9, 8), endpoint(2, "z", 3, 3), endpoint(3, "y", 1, 0)];
    let report = reporter.report(vec![cluster("a", endpoints()), cluster("b", vec![])], at(6));
    assert_eq!(shown(&report), [("y".into(), 1, 0, 1), ("z".into(), 5, 4, 1)]);
    assert_eq!(report.cluster_stats[0].load_report_interval.unwrap().seconds, 6);
    assert_eq!(report.node, None);
    assert_eq!(reporter.due(), Some(at(11)));
    // Nothing new: the cluster is reported, without localities.
    let report = reporter.report(vec![cluster("a", endpoints())], at(11));
    assert_eq!(shown(&report), []);
    assert_eq!(report.cluster_stats[0].load_report_interval.unwrap().seconds, 5);
    // A request in progress is reported each time.
    let mut busy = endpoints();
    busy[0].in_progress = 2;
    let report = reporter.report(vec![cluster("a", busy)], at(16));
    let of = &report.cluster_stats[0].upstream_locality_stats[0];
    assert_eq!((of.total_issued_requests, of.total_requests_in_progress), (0, 2));
}

#[test]
fn what_is_counted_between_streams_is_in_the_next_report() {
    let mut reporter = LoadReporter::new(b"");
    reporter.receive(asks(&["a"], 1), at(0));
    reporter.begin(vec![cluster("a", vec![endpoint(1, "", 0, 0)])], at(0));
    reporter.report(vec![cluster("a", vec![endpoint(1, "", 2, 2)])], at(1));
    reporter.closed();
    assert_eq!(reporter.due(), None);
    assert!(reporter.wants("a"), "counting goes on");
    reporter.receive(asks(&["a"], 1), at(8));
    reporter.begin(vec![cluster("a", vec![endpoint(1, "", 5, 5)])], at(8));
    let report = reporter.report(vec![cluster("a", vec![endpoint(1, "", 6, 6)])], at(9));
    assert_eq!(shown(&report), [(String::new(), 4, 4, 0)]);
    assert_eq!(report.cluster_stats[0].load_report_interval.unwrap().seconds, 8);
    // One that is asked for no longer is forgotten.
    reporter.receive(asks(&[], 1), at(9));
    reporter.receive(asks(&["a"], 1), at(10));
    reporter.begin(vec![cluster("a", vec![endpoint(1, "", 9, 9)])], at(10));
    let report = reporter.report(vec![cluster("a", vec![endpoint(1, "", 9, 9)])], at(11));
    assert_eq!(shown(&report), []);
}

#[test]
fn drops_are_told_by_category_and_endpoints_one_by_one() {
    let mut reporter = LoadReporter::new(b"");
    let response = LoadStatsResponse {
        send_all_clusters: true,
        report_endpoint_granularity: true,
        ..LoadStatsResponse::default()
    };
    reporter.receive(response, at(0));
    assert_eq!(reporter.due(), Some(at(10)), "the default");
    let load = |refused, lb| ClusterLoad {
        refused,
        dropped: [("lb".into(), lb)].into(),
        service_name: "service".into(),
        ..cluster("any", vec![endpoint(1, "z", lb, lb), endpoint(2, "z", lb, lb)])
    };
    reporter.begin(vec![load(1, 1)], at(0));
    let mut now = load(3, 5);
    for of in &mut now.endpoints {
        of.metrics = [("cpu_utilization".to_owned(), MetricLoad { count: 2, total: 0.5 })].into();
    }
    let report = reporter.report(vec![now], at(10));
    let [of] = report.cluster_stats.as_slice() else { panic!("{report:?}") };
    assert_eq!((of.total_dropped_requests, &*of.cluster_service_name), (6, "service"));
    assert_eq!(of.dropped_requests, [DroppedRequests { category: "lb".into(), dropped_count: 4 }]);
    let [locality] = of.upstream_locality_stats.as_slice() else { panic!("{of:?}") };
    assert_eq!(locality.upstream_endpoint_stats.len(), 2);
    assert_eq!(locality.upstream_endpoint_stats[0].total_issued_requests, 4);
    assert_eq!(locality.load_metric_stats[0].num_requests_finished_with_metric, 4);
    assert!((locality.load_metric_stats[0].total_metric_value - 1.0).abs() < f64::EPSILON);
}

#[test]
fn intervals_have_a_least_one_and_the_node_its_feature() {
    let mut reporter =
        LoadReporter::new(&NodeMessage { id: "n".into(), cluster: "c".into() }.encode_to_vec());
    let mut fast = asks(&["a"], 0);
    fast.load_reporting_interval = Some(TtlMessage { seconds: 0, nanos: 1 });
    reporter.receive(fast, at(0));
    assert_eq!(reporter.due(), Some(at(0).after(INTERVAL_MIN)));
    let node = reporter.greeting().node.unwrap();
    let known = NodeMessage::decode(node.clone()).unwrap();
    assert_eq!((&*known.id, &*known.cluster), ("n", "c"));
    assert!(String::from_utf8_lossy(&node).contains(SUPPORTS_ALL));
}
