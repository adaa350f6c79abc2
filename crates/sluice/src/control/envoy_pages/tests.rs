//! The table of statistics fits the metrics of Sluice.

use std::collections::BTreeMap;
use std::path::Path;

use sluice_envoy::stats::StatKind;
use sluice_envoy::stats::server::ServerFacts;
use sluice_envoy::stats::table::{Only, StatRow, StatScope, TABLE};
use sluice_telemetry::{MetricDef, MetricKind};

/// Every metric that the table may name.
fn metrics() -> BTreeMap<&'static str, &'static MetricDef> {
    let planes = crate::control::planes::METRICS;
    let vitals = crate::control::vitals::METRICS;
    let all = [
        sluice_l4::metrics::METRICS,
        sluice_l7::metrics::METRICS,
        sluice_upstream::metrics::METRICS,
        planes,
        vitals,
    ];
    all.into_iter().flatten().map(|def| (def.name, *def)).collect()
}

#[test]
fn every_statistic_is_a_metric_with_its_labels() {
    let metrics = metrics();
    for row in TABLE {
        let found = metrics.get(row.metric);
        assert!(found.is_some(), "`{}`: there is no metric `{}`", row.stat, row.metric);
        let Some(def) = found else { continue };
        let only = row.only.iter().map(|only| only.label());
        for label in row.scope.label().into_iter().chain(only) {
            assert!(
                def.labels.contains(&label),
                "`{}`: {} has no label {label}",
                row.stat,
                def.name
            );
        }
        let is_histogram = def.kind == MetricKind::Histogram;
        assert_eq!(row.kind == StatKind::Histogram, is_histogram, "{}", row.stat);
    }
}

/// What the page says before the tables.
const HEAD: &str = "\
# Statistics under Envoy's names

<!-- Written by `UPDATE=1 cargo test -p sluice --lib statistics_of_the_page`; do not edit. -->

While [files of Envoy](envoy.md) are read, `/stats` and `/stats/prometheus` show these. Each is derived from series of Sluice
when the page is read; the data path counts nothing for it. What is not here, Sluice does not count, and no statistic is 0
although the thing happens. Sluice's own series are on `/metrics`.

A statistic without a value yet is 0, except those marked *later*, which appear once something was counted.

- `NAME` is `alt_stat_name` of the cluster, or its name; `ADDRESS` is `stat_prefix` of the listener, or its address; `PREFIX` is
  `stat_prefix` of the filter. A colon becomes `_`.
- Sluice counts requests and connections by listener. Filters of one listener with different prefixes have no statistics by
  prefix; where some chains of a listener lead elsewhere, `http.PREFIX.downstream_cx_*` and `tcp.PREFIX.*` are missing, too.
- `RULES` is `rules_stat_prefix` or `shadow_rules_stat_prefix` of the filter with a dot, or nothing. A listener has statistics of `rbac` if all
  its filters for requests have these in common, none only logs, and connections have no such filter.
- Counters of requests count when the request ends. `upstream_rq_5xx` counts responses of endpoints; those that Sluice makes
  because there was none are in `http.PREFIX.downstream_rq_5xx`. Responses that are retried count as well; Envoy counts them
  apart (`retry.upstream_rq_5xx`).
- Bytes are counted when a connection ends.
- Histograms are in milliseconds. `upstream_rq_time` ends with the response headers. Quantiles are estimates within buckets.
- `server.memory_physical_size` is what the system reports; there is no `server.memory_allocated`, which the allocator
  does not count, and no `server.memory_heap_size`.
";

/// A row of the page.
fn row_of(row: &StatRow, parts: &[&StatRow]) -> String {
    let part = |of: &&StatRow| {
        let only = of.only.iter().map(|only| match only {
            Only::Is(label, values) => format!(" with {label} {}", values.join(", ")),
            Only::Not(label, values) => format!(" without {label} {}", values.join(", ")),
            Only::Each(label, values) => format!(" for each {label}, {}", values.join(", ")),
        });
        let only: String = only.collect();
        format!("{}`{}`{only}", if of.minus { "less " } else { "" }, of.metric)
    };
    let kind = match row.kind {
        StatKind::Counter => "counter",
        StatKind::Gauge => "gauge",
        StatKind::Histogram => "histogram",
    };
    let later = if row.lazy { ", later" } else { "" };
    let parts: Vec<String> = parts.iter().map(part).collect();
    let number = row.only.iter().find_map(|only| match only {
        Only::Each(_, names) => names.first().copied(),
        _ => None,
    });
    let name = format!("{}{}{}", row.scope.pattern(), row.stat, number.unwrap_or_default());
    format!("| `{name}` | {kind}{later} | {} |\n", parts.join("; "))
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut scopes: Vec<StatScope> = TABLE.iter().map(|row| row.scope).collect();
    scopes.dedup();
    page.push_str("\n| statistic | type | series |\n|---|---|---|\n");
    for scope in scopes {
        let rows: Vec<&StatRow> = TABLE.iter().filter(|row| row.scope == scope).collect();
        for rows in rows.chunk_by(|one, other| one.stat == other.stat) {
            page.push_str(&rows.first().map_or_else(String::new, |first| row_of(first, rows)));
        }
    }
    let known = Some([0, 0]);
    let facts =
        ServerFacts { certificate_days: Some(0), cds: known, lds: known, ..Default::default() };
    page.push_str("\nAbout the process:\n\n");
    for of in facts.statistics() {
        page.push_str(&format!("- `{}`\n", of.name));
    }
    page
}

#[test]
fn statistics_of_the_page_are_those_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/envoy-statistics.md");
    if std::env::var_os("UPDATE").is_some() {
        assert!(std::fs::write(&path, page()).is_ok(), "{}", path.display());
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "run UPDATE=1 cargo test -p sluice --lib statistics_of_the_page");
}
