//! Medians and ratios as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lockstep_floor::report::Report;

use crate::crowd;
use crate::results::Results;

/// A target: what of which measurement, against what of which other, and the bound.
pub struct Target {
    /// In words.
    pub what: &'static str,
    of: (&'static str, Figure),
    against: Option<(&'static str, Figure)>,
    /// The ratio is to be at least this, or, of a cost, at most.
    bound: f64,
}

/// A figure of a measurement.
#[derive(Clone, Copy, PartialEq)]
pub enum Figure {
    /// Requests a second.
    Iops,
    /// MB a second.
    Megabytes,
    /// µs that half of the requests do not exceed.
    P50,
    /// Of 99 in 100.
    P99,
    /// Core-µs a request.
    Cpu,
    /// KiB written a request, all copies together.
    Written,
    /// How many times the median 999 in 1,000 requests do not exceed.
    Tail,
}

/// Those that are told of every measurement.
pub const FIGURES: &[(&str, Figure)] = &[
    ("IOPS", Figure::Iops),
    ("p50 µs", Figure::P50),
    ("p99 µs", Figure::P99),
    ("core-µs", Figure::Cpu),
    ("KiB written", Figure::Written),
];

impl Figure {
    /// Its value.
    pub fn of(self, report: &Report) -> f64 {
        match self {
            Self::Iops => report.iops,
            Self::Megabytes => report.megabytes,
            Self::P50 => report.p50,
            Self::P99 => report.p99,
            Self::Cpu => report.cpu,
            Self::Written => report.written,
            Self::Tail => report.p999 / report.p50,
        }
    }

    /// Whether less is better.
    pub fn is_cost(self) -> bool {
        !matches!(self, Self::Iops | Self::Megabytes)
    }
}

/// What baseline figures ask for.
pub const TARGETS: &[Target] = &[
    Target {
        what: "4k write depth 1, p50, against the minimal replicator",
        of: ("ls3-w1", Figure::P50),
        against: Some(("floor-w1", Figure::P50)),
        bound: 1.15,
    },
    Target {
        what: "4k write depth 16, against three files at once ÷ 3",
        of: ("ls3-w16", Figure::Iops),
        against: Some(("three-w16", Figure::Iops)),
        bound: 1.5,
    },
    Target {
        what: "4k write depth 16, against the minimal replicator",
        of: ("ls3-w16", Figure::Iops),
        against: Some(("floor-w16", Figure::Iops)),
        bound: 1.0,
    },
    Target {
        what: "4k write depth 1, p50, against QEMU's quorum of three",
        of: ("ls3-w1", Figure::P50),
        against: Some(("qemu-w1", Figure::P50)),
        bound: 1.0,
    },
    Target {
        what: "4k write depth 16, against QEMU's quorum of three",
        of: ("ls3-w16", Figure::Iops),
        against: Some(("qemu-w16", Figure::Iops)),
        bound: 4.0,
    },
    Target {
        what: "CPU core-µs a durable 4k write at depth 16",
        of: ("ls3-w16", Figure::Cpu),
        against: None,
        bound: 60.0,
    },
    Target {
        what: "KiB written per 4 KiB, three copies, depth 16",
        of: ("ls3-w16", Figure::Written),
        against: None,
        bound: 30.0,
    },
    Target {
        what: "4k write depth 1, p99.9 against p50",
        of: ("ls3-w1", Figure::Tail),
        against: None,
        bound: 10.0,
    },
    Target {
        what: "4k write at half of the rate of depth 16, p99.9 against p50",
        of: ("ls3-w16-paced50", Figure::Tail),
        against: None,
        bound: 10.0,
    },
    Target {
        what: "4k write at nine tenths of that rate, p99.9 against p50",
        of: ("ls3-w16-paced90", Figure::Tail),
        against: None,
        bound: 10.0,
    },
    Target {
        what: "4k read depth 1, against raw",
        of: ("ls3-r1", Figure::Iops),
        against: Some(("raw-r1", Figure::Iops)),
        bound: 0.5,
    },
    Target {
        what: "4k read depth 16, against raw",
        of: ("ls3-r16", Figure::Iops),
        against: Some(("raw-r16", Figure::Iops)),
        bound: 0.5,
    },
    Target {
        what: "1M sequential write depth 4, against three files at once",
        of: ("ls3-1mw4", Figure::Megabytes),
        against: Some(("three-1mw4", Figure::Megabytes)),
        bound: 0.6,
    },
    Target {
        what: "1M sequential read depth 4, against raw",
        of: ("ls3-1mr4", Figure::Megabytes),
        against: Some(("raw-1mr4", Figure::Megabytes)),
        bound: 0.7,
    },
];

/// A figure that is not a load's, and what it may be at most.
struct Limit {
    what: &'static str,
    /// Measurement and figure.
    of: (&'static str, &'static str),
    most: f64,
}

const LIMITS: &[Limit] = &[Limit {
    what: "processor of a node with 100 attached idle volumes, % of a core",
    of: ("ls3-idle100", crowd::BUSIEST),
    most: 1.0,
}];

/// Tables of medians and of ratios.
pub fn render(results: &Results) -> String {
    let mut text = String::from(
        "| measurement | IOPS | MB/s | p50 µs | p99 | p99.9 | core-µs | KiB written |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (name, reports) in &results.all {
        let median = |figure: fn(&Report) -> f64| median(reports, figure);
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |",
            median(|r| r.iops),
            median(|r| r.megabytes),
            median(|r| r.p50),
            median(|r| r.p99),
            median(|r| r.p999),
            median(|r| r.cpu),
            median(|r| r.written),
        );
    }
    figures(&mut text, results);
    text.push_str("\n| target | measured | wanted | |\n|---|---|---|---|\n");
    for Limit { what, of, most } in LIMITS {
        if let Some(measured) = limited(results, of) {
            let met = if measured <= *most { "met" } else { "missed" };
            let _ = writeln!(text, "| {what} | {measured:.2} | ≤ {most} | {met} |");
        }
    }
    for target in TARGETS {
        let Some(measured) = target.measured(results) else {
            continue;
        };
        let cost = target.is_cost();
        let met = if cost {
            measured <= target.bound
        } else {
            measured >= target.bound
        };
        let _ = writeln!(
            text,
            "| {} | {measured:.2} | {} {} | {} |",
            target.what,
            if cost { "≤" } else { "≥" },
            target.bound,
            if met { "met" } else { "missed" },
        );
    }
    text
}

/// What is not told by a load's report.
fn figures(text: &mut String, results: &Results) {
    if results.figures.is_empty() {
        return;
    }
    text.push_str("\n| measurement | what | median | least | greatest |\n|---|---|---|---|---|\n");
    for (name, repeats) in &results.figures {
        let labels: BTreeSet<&String> = repeats.iter().flat_map(|it| it.keys()).collect();
        for label in labels {
            let mut values: Vec<f64> = repeats
                .iter()
                .filter_map(|it| it.get(label).copied())
                .collect();
            values.sort_by(f64::total_cmp);
            let (least, greatest) = (values[0], values[values.len() - 1]);
            let middle = values[values.len() / 2];
            let _ = writeln!(
                text,
                "| {name} | {label} | {middle:.2} | {least:.2} | {greatest:.2} |"
            );
        }
    }
}

/// The median of a figure, if it was measured.
fn limited(results: &Results, (name, label): &(&str, &str)) -> Option<f64> {
    let repeats = results.figures.get(*name)?.iter();
    let mut values: Vec<f64> = repeats.filter_map(|it| it.get(*label).copied()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Target {
    /// Whether less is better.
    pub fn is_cost(&self) -> bool {
        self.of.1.is_cost()
    }

    /// The measurements that it is computed from.
    #[cfg(test)]
    pub fn needs(&self) -> Vec<&'static str> {
        let against = self.against.map(|(name, _)| name);
        [Some(self.of.0), against].into_iter().flatten().collect()
    }

    /// The median of all repeats.
    fn measured(&self, results: &Results) -> Option<f64> {
        let mut repeats = self.repeats(results);
        repeats.sort_by(f64::total_cmp);
        repeats.get(repeats.len() / 2).copied()
    }

    /// The ratio of each repeat, or the figure itself; none where it was not measured.
    pub fn repeats(&self, results: &Results) -> Vec<f64> {
        let (name, figure) = self.of;
        let reports = |name| results.all.get(name).map_or(&[][..], Vec::as_slice);
        let own = reports(name).iter().map(|report| figure.of(report));
        match self.against {
            None => own.collect(),
            Some((other, against)) => own
                .zip(reports(other))
                .map(|(own, other)| own / against.of(other))
                .collect(),
        }
    }
}

/// The median over the repeats; 0 without any.
pub fn median(reports: &[Report], figure: impl Fn(&Report) -> f64) -> f64 {
    let mut values: Vec<f64> = reports.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_rows_and_limits() {
        let mut results = Results::default();
        for share in [0.4, 3.0, 1.5] {
            let figures = [(crowd::BUSIEST.to_owned(), share)].into();
            results.add_figures("ls3-idle100", figures);
        }
        let text = render(&results);
        assert!(
            text.contains(
                "| ls3-idle100 | processor of the busiest node, % of a core | 1.50 | 0.40 | 3.00 |"
            ),
            "{text}"
        );
        assert!(text.contains("| 1.50 | ≤ 1 | missed |"), "{text}");
    }
}
