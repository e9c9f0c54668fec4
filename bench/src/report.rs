//! Prints figures, one per line.

use std::collections::BTreeMap;

use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure<'a> {
    /// Name of the benchmark.
    pub bench: &'a str,
    /// Name of the case.
    pub case: &'a str,
    /// Name of the metric.
    pub metric: &'a str,
    /// Unit of the value.
    pub unit: &'a str,
    /// The measured value.
    pub value: f64,
    /// The limit, or a peer's value in the same run, if there is one.
    pub baseline: Option<f64>,
    /// Values of peers in the same run, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<&'a str, f64>,
}

/// What a figure is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Against {
    /// A peer's value in the same run; not a limit.
    Peer(f64),
    /// A maximum.
    AtMost(f64),
    /// A minimum.
    AtLeast(f64),
}

/// Prints figures, and records whether all are within their limits.
pub struct Report {
    json: bool,
    within: bool,
}

impl Report {
    /// A report as JSON lines or as a table.
    pub fn new(json: bool) -> Self {
        Self { json, within: true }
    }

    /// Prints one figure.
    pub fn figure(
        &mut self,
        bench: &str,
        case: &str,
        metric: &str,
        unit: &str,
        value: f64,
        against: Option<Against>,
    ) {
        self.beside(bench, case, metric, unit, value, against, &[]);
    }

    /// Prints one figure, beside peers' values in the same run.
    #[allow(clippy::too_many_arguments)] // the fields of a figure
    pub fn beside(
        &mut self,
        bench: &str,
        case: &str,
        metric: &str,
        unit: &str,
        value: f64,
        against: Option<Against>,
        peers: &[(&str, f64)],
    ) {
        let baseline = against.map(|a| match a {
            Against::Peer(v) | Against::AtMost(v) | Against::AtLeast(v) => v,
        });
        let within = match against {
            Some(Against::AtMost(limit)) => value <= limit,
            Some(Against::AtLeast(limit)) => value >= limit,
            _ => true,
        };
        self.within &= within;
        if self.json {
            let figure = Figure {
                bench,
                case,
                metric,
                unit,
                value,
                baseline,
                peers: peers.iter().copied().collect(),
            };
            println!("{}", serde_json::to_string(&figure).unwrap_or_default());
            return;
        }
        let held = match against {
            Some(Against::Peer(v)) => format!("peer {v:.1} (ratio {:.2})", value / v),
            Some(Against::AtMost(v)) => {
                format!("limit ≤ {v:.1} {}", if within { "ok" } else { "EXCEEDED" })
            }
            Some(Against::AtLeast(v)) => {
                format!("limit ≥ {v:.1} {}", if within { "ok" } else { "MISSED" })
            }
            None => String::new(),
        };
        let beside: Vec<_> =
            peers.iter().map(|(who, v)| format!("  {who} {v:.1} (×{:.2})", value / v)).collect();
        println!("{case:<28} {metric:<12} {value:>10.1} {unit:<6} {held}{}", beside.concat());
    }

    /// Whether every figure was within its limit.
    pub fn within_limits(&self) -> bool {
        self.within
    }
}

/// The median of `values`; 0 when they are empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}
