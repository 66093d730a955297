//! A scrape of what requests count: the sums of the workers' cells, as the crate prometheus' own counters would show them.
//!
//! A service has few series before its first request: those with a rate or a level that has a meaning at 0. All others
//! appear with the first event and stay, so that a sidecar of many services is cheap to scrape.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use outrigger_policy::{Outcome, retry::GiveUp};
use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    metrics::{
        Metrics, ServiceSeries,
        cells::{BOUNDS, Cell, ServiceCells, TCP_BOUNDS},
        labels::{HedgeResult, PoolEvent, Rejected, TcpResult, Tolerated},
    },
    reason::Reason,
};

/// A family of counters of each service.
struct ServiceCounters {
    name: &'static str,
    help: &'static str,
    /// The label beside `service`.
    label: &'static str,
    /// The values of the label, and the counts.
    counts: fn(&ServiceSeries) -> Vec<(String, u64)>,
}

const SERVICE_COUNTERS: [ServiceCounters; 13] = [
    ServiceCounters {
        name: "outrigger_requests_total",
        help: "Responses to the app, by status; 499: the app disconnected.",
        label: "code",
        counts: |series| series.cells.codes(),
    },
    ServiceCounters {
        name: "outrigger_responses_total",
        help: "Responses to the app, by class of the status.",
        label: "class",
        counts: |series| classes(&series.cells.codes()),
    },
    ServiceCounters {
        name: "outrigger_attempts_total",
        help: "Attempts at an instance, by outcome.",
        label: "outcome",
        counts: |series| labelled(series, Outcome::LABELS, |cells| &cells.attempts),
    },
    ServiceCounters {
        name: "outrigger_retries_total",
        help: "Retries (again, race), or why a failed attempt was not repeated.",
        label: "why",
        counts: |series| {
            let mut counts = labelled(series, GiveUp::ALL.map(GiveUp::label), |cells| &cells.gave_up);
            counts.push(("again".to_owned(), series.cells.sum(|cells| &cells.retried)));
            counts.push(("race".to_owned(), series.cells.sum(|cells| &cells.raced)));
            counts.retain(|(_, count)| *count > 0);
            counts
        },
    },
    ServiceCounters {
        name: "outrigger_errors_total",
        help: "Requests that ended with a reason of the sidecar, by reason.",
        label: "reason",
        counts: |series| labelled(series, Reason::ALL.map(Reason::label), |cells| &cells.errors),
    },
    ServiceCounters {
        name: "outrigger_hedges_total",
        help: "Second attempts beside a slow one, by result; budget: the retry budget allowed none.",
        label: "result",
        counts: |series| labelled(series, HedgeResult::LABELS, |cells| &cells.hedges),
    },
    ServiceCounters {
        name: "outrigger_stalled_attempts_total",
        help: "Second attempts beside one at a stalled instance, by result; budget: the retry budget allowed none.",
        label: "result",
        counts: |series| labelled(series, HedgeResult::LABELS, |cells| &cells.stalled),
    },
    ServiceCounters {
        name: "outrigger_shed_total",
        help: "Requests that the bulkhead rejected, by limit.",
        label: "why",
        counts: |series| labelled(series, Rejected::LABELS, |cells| &cells.shed),
    },
    ServiceCounters {
        name: "outrigger_tolerated_total",
        help: "Messages that were carried although the RFCs do not allow them, by what is wrong.",
        label: "what",
        counts: |series| labelled(series, Tolerated::LABELS, |cells| &cells.tolerated),
    },
    ServiceCounters {
        name: "outrigger_pool_connections_total",
        help: "Connections to instances, by event.",
        label: "event",
        counts: |series| labelled(series, PoolEvent::LABELS, |cells| &cells.pool),
    },
    ServiceCounters {
        name: "outrigger_tcp_connections_total",
        help: "Connections of TCP listeners that have ended, by result.",
        label: "result",
        counts: |series| labelled(series, TcpResult::LABELS, |cells| &cells.tcp_ended),
    },
    ServiceCounters {
        name: "outrigger_tcp_bytes_total",
        help: "Bytes of TCP listeners that instances and the app have taken.",
        label: "to",
        counts: |series| labelled(series, ["instance", "app"], |cells| &cells.tcp_bytes),
    },
    ServiceCounters {
        name: "outrigger_tunnel_bytes_total",
        help: "Bytes of tunnels (upgrades, CONNECT) that instances and the app have taken.",
        label: "to",
        counts: |series| labelled(series, ["instance", "app"], |cells| &cells.tunnel_bytes),
    },
];

/// The classes that a service has from its start, so that the rate of the first error is not lost.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Sums of statuses by their class: those of [`CLASSES`], and the others once they were counted.
fn classes(codes: &[(String, u64)]) -> Vec<(String, u64)> {
    let class_of = |code: &str| match code.as_bytes() {
        [first @ b'1'..=b'5', _, _] => format!("{}xx", char::from(*first)),
        _ => "other".to_owned(),
    };
    let mut classes: BTreeMap<String, u64> = CLASSES.map(|class| (class.to_owned(), 0)).into();
    for (code, count) in codes {
        *classes.entry(class_of(code)).or_default() += count;
    }
    classes.into_iter().collect()
}

/// The sums of an array of cells that are not 0, with its labels.
fn labelled<const N: usize>(
    series: &ServiceSeries,
    labels: [&str; N],
    cells: fn(&ServiceCells) -> &[Cell; N],
) -> Vec<(String, u64)> {
    let sums = (0..N).map(|at| series.cells.sum(|block| &cells(block)[at]));
    labels
        .into_iter()
        .zip(sums)
        .filter(|(_, sum)| *sum > 0)
        .map(|(label, sum)| (label.to_owned(), sum))
        .collect()
}

/// Registers the metrics that requests count.
///
/// # Errors
/// When `registry` has a metric of the same name.
pub(crate) fn register(registry: &Registry, metrics: &Arc<Metrics>) -> Result<(), prometheus::Error> {
    let descs = families(metrics).into_iter().map(|(family, labels)| {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(family.name().to_owned(), family.help().to_owned(), labels, HashMap::new())
    });
    let descs = descs.collect::<Result<_, _>>()?;
    registry.register(Box::new(RequestCollector { metrics: metrics.clone(), descs }))?;
    registry.register(Box::new(metrics.lag.clone()))
}

struct RequestCollector {
    metrics: Arc<Metrics>,
    descs: Vec<Desc>,
}

impl Collector for RequestCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.metrics).into_iter().map(|(family, _)| family).collect()
    }
}

/// Every family, with the names of its labels.
fn families(metrics: &Metrics) -> Vec<(MetricFamily, Vec<&'static str>)> {
    let services = metrics.services();
    let of_services = |metric: fn(&ServiceSeries) -> Metric| services.iter().map(|one| metric(one)).collect();
    let mut families: Vec<_> = SERVICE_COUNTERS
        .iter()
        .map(|&ServiceCounters { name, help, label, counts }| {
            let counters = services.iter().flat_map(|series| {
                let counts = counts(series).into_iter();
                counts.map(|(value, count)| counter(&[(label, &value), ("service", &series.name)], count))
            });
            (family(name, help, MetricType::COUNTER, counters.collect()), vec!["service", label])
        })
        .collect();
    let help = "Seconds from a request's head to the last byte of its response.";
    let durations =
        |bounds: &[u64], buckets: fn(&ServiceCells) -> &[Cell], sum: fn(&ServiceCells) -> &Cell| {
            services.iter().filter_map(|series| histogram(series, bounds, buckets, sum)).collect()
        };
    let all = durations(&BOUNDS, |cells| &cells.duration_buckets, |cells| &cells.duration_sum);
    let duration = family("outrigger_request_duration_seconds", help, MetricType::HISTOGRAM, all);
    let help = "Seconds from the accept of a connection of a TCP listener to its end.";
    let all = durations(&TCP_BOUNDS, |cells| &cells.tcp_duration_buckets, |cells| &cells.tcp_duration_sum);
    let tcp_duration = family("outrigger_tcp_connection_duration_seconds", help, MetricType::HISTOGRAM, all);
    let open = |series: &ServiceSeries| series.cells.sum(|cells| &cells.tcp_open);
    let all = services.iter().filter(|series| series.has_tcp());
    let all = all.map(|series| gauge("service", &series.name, open(series))).collect();
    let help = "Connections of TCP listeners that have an instance.";
    let tcp_open = family("outrigger_tcp_connections", help, MetricType::GAUGE, all);
    let all = of_services(|series| gauge("service", &series.name, series.in_flight()));
    let in_flight = family("outrigger_in_flight", "Requests and tunnels in flight.", MetricType::GAUGE, all);
    let all = Reason::ALL.into_iter().filter_map(|reason| {
        let count = metrics.workers.sum(|cells| &cells.refused[reason as usize]);
        (count > 0).then(|| counter(&[("reason", reason.label())], count))
    });
    let all = all.collect();
    let help = "Requests and connections refused before a service was found, by reason.";
    let refused = family("outrigger_refused_total", help, MetricType::COUNTER, all);
    let all = vec![
        gauge("state", "active", metrics.workers.sum(|cells| &cells.active)),
        gauge("state", "parked", metrics.workers.sum(|cells| &cells.parked)),
    ];
    let connections =
        family("outrigger_app_connections", "App connections, by state.", MetricType::GAUGE, all);
    families.extend([
        (duration, vec!["service"]),
        (tcp_duration, vec!["service"]),
        (tcp_open, vec!["service"]),
        (in_flight, vec!["service"]),
        (refused, vec!["reason"]),
        (connections, vec!["state"]),
    ]);
    families
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A series without a value. A scrape shows labels in the order of their names.
fn labelled_metric(labels: &[(&str, &str)]) -> Metric {
    let mut pairs: Vec<_> = labels
        .iter()
        .map(|&(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        })
        .collect();
    pairs.sort_by(|one, other| one.name().cmp(other.name()));
    Metric::from_label(pairs)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floats")]
fn counter(labels: &[(&str, &str)], count: u64) -> Metric {
    let (mut metric, mut value) = (labelled_metric(labels), Counter::default());
    value.set_value(count as f64);
    metric.set_counter(value);
    metric
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floats")]
fn gauge(label: &str, label_value: &str, count: u64) -> Metric {
    let (mut metric, mut value) = (labelled_metric(&[(label, label_value)]), Gauge::default());
    value.set_value(count as f64);
    metric.set_gauge(value);
    metric
}

/// `None` before the first request, because a histogram has many series.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floats")]
fn histogram(
    series: &ServiceSeries,
    bounds: &[u64],
    cells: fn(&ServiceCells) -> &[Cell],
    sum: fn(&ServiceCells) -> &Cell,
) -> Option<Metric> {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut count = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (at, most) in bounds.iter().enumerate() {
        count += series.cells.sum(|block| &cells(block)[at]);
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(count);
        bucket.set_upper_bound(seconds(*most));
        buckets.push(bucket);
    }
    count += series.cells.sum(|block| &cells(block)[bounds.len()]);
    if count == 0 {
        return None;
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(count);
    histogram.set_sample_sum(seconds(series.cells.sum(sum)));
    let mut metric = labelled_metric(&[("service", &series.name)]);
    metric.set_histogram(histogram);
    Some(metric)
}
