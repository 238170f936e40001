//! Two runs beside each other: which differences exceed what the repeats of one run differ by.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{bail, ensure};

use crate::results::{Figures, Results};
use crate::table::{FIGURES, Figure, TARGETS};

/// Options of `lockstep-bench compare`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lockstep-bench compare before after\n  lockstep-bench compare docs/results.json after --gate 15"
)]
pub struct Options {
    /// The run that is compared with: a `results.json` or the directory of one.
    before: PathBuf,
    /// The run that is judged.
    after: PathBuf,
    /// End with an error if a ratio of a target became worse by more than so many percent and by more
    /// than the repeats differ. Ratios only: other machines have other figures.
    #[arg(long, value_name = "PERCENT")]
    gate: Option<f64>,
}

/// Least and greatest of the repeats, and the one in the middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
    repeats: usize,
}

/// What can be said of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// The repeats of one overlap those of the other.
    Noise,
    /// Fewer than three repeats of either tell nothing about noise.
    Unknown,
}

/// Compares and prints; an error if the gate is asked for and does not hold.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let before = Results::load(&options.before)?;
    let after = Results::load(&options.after)?;
    ensure!(
        before.all.keys().any(|name| after.all.contains_key(name))
            || before
                .figures
                .keys()
                .any(|name| after.figures.contains_key(name)),
        "{} and {} have no measurement in common",
        options.before.display(),
        options.after.display()
    );
    println!("{}", render(&before, &after));
    let Some(percent) = options.gate else {
        return Ok(());
    };
    let fallen = fallen(&before, &after, percent);
    if !fallen.is_empty() {
        bail!("worse by more than {percent} %:\n  {}", fallen.join("\n  "));
    }
    Ok(())
}

fn render(before: &Results, after: &Results) -> String {
    let mut text = String::new();
    if before.machine != after.machine {
        let _ = writeln!(
            text,
            "The machines differ, so that only ratios can be compared:\n  {:?}\n  {:?}\n",
            before.machine, after.machine
        );
    }
    text.push_str("| target | before | after | change | |\n|---|---|---|---|---|\n");
    for target in TARGETS {
        let spreads = (
            Spread::of(&target.repeats(before)),
            Spread::of(&target.repeats(after)),
        );
        if let (Some(old), Some(new)) = spreads {
            row(&mut text, target.what, target.is_cost(), old, new);
        }
    }
    text.push_str("\n| measurement | before | after | change | |\n|---|---|---|---|---|\n");
    for (name, old) in &before.all {
        let Some(new) = after.all.get(name) else {
            continue;
        };
        for (label, figure) in FIGURES {
            let values = |reports: &[lockstep_floor::report::Report]| {
                Spread::of(&reports.iter().map(|it| figure.of(it)).collect::<Vec<_>>())
            };
            if let (Some(old), Some(new)) = (values(old), values(new)) {
                row(
                    &mut text,
                    &format!("{name} {label}"),
                    Figure::is_cost(*figure),
                    old,
                    new,
                );
            }
        }
    }
    for (name, old) in &before.figures {
        let Some(new) = after.figures.get(name) else {
            continue;
        };
        for label in old.first().into_iter().flat_map(Figures::keys) {
            let values = |repeats: &[Figures]| {
                let values = repeats.iter().filter_map(|it| it.get(label).copied());
                Spread::of(&values.collect::<Vec<_>>())
            };
            if let (Some(old), Some(new)) = (values(old), values(new)) {
                let what = format!("{name} {label}");
                row(&mut text, &what, is_cost(label), old, new);
            }
        }
    }
    text
}

/// Whether less of a figure is better: all but rates and shares between equals.
fn is_cost(label: &str) -> bool {
    !["IOPS", "a second", "slowest / fastest"]
        .iter()
        .any(|good| label.ends_with(good))
}

fn row(text: &mut String, what: &str, cost: bool, old: Spread, new: Spread) {
    let verdict = match verdict(cost, old, new) {
        Verdict::Better => "better",
        Verdict::Worse => "**worse**",
        Verdict::Noise => "within the noise",
        Verdict::Unknown => "too few repeats to tell",
    };
    let _ = writeln!(
        text,
        "| {what} | {:.2} | {:.2} | {:+.0} % | {verdict} |",
        old.median,
        new.median,
        100.0 * (new.median / old.median - 1.0)
    );
}

fn verdict(cost: bool, old: Spread, new: Spread) -> Verdict {
    if old.repeats.min(new.repeats) < 3 {
        return Verdict::Unknown;
    }
    let (above, below) = (new.least > old.greatest, new.greatest < old.least);
    match (above, below, cost) {
        (true, _, false) | (_, true, true) => Verdict::Better,
        (true, _, true) | (_, true, false) => Verdict::Worse,
        _ => Verdict::Noise,
    }
}

/// Targets whose ratio became worse by more than `percent`, in words.
fn fallen(before: &Results, after: &Results, percent: f64) -> Vec<String> {
    let mut fallen = Vec::new();
    for target in TARGETS {
        let (Some(old), Some(new)) = (
            Spread::of(&target.repeats(before)),
            Spread::of(&target.repeats(after)),
        ) else {
            continue;
        };
        let worse = match target.is_cost() {
            true => new.median / old.median - 1.0,
            false => 1.0 - new.median / old.median,
        };
        let noise = verdict(target.is_cost(), old, new) == Verdict::Noise;
        if worse * 100.0 > percent && !noise {
            fallen.push(format!(
                "{}: {:.2}, was {:.2}",
                target.what, new.median, old.median
            ));
        }
    }
    fallen
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            least: *sorted.first()?,
            median: sorted[sorted.len() / 2],
            greatest: *sorted.last()?,
            repeats: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Spread {
        Spread::of(values).expect("some")
    }

    #[test]
    fn what_overlaps_is_noise() {
        let old = spread(&[10.0, 11.0, 12.0]);
        assert_eq!(
            verdict(false, old, spread(&[11.5, 13.0, 14.0])),
            Verdict::Noise
        );
        assert_eq!(
            verdict(false, old, spread(&[12.5, 13.0, 14.0])),
            Verdict::Better
        );
        assert_eq!(
            verdict(true, old, spread(&[12.5, 13.0, 14.0])),
            Verdict::Worse
        );
        assert_eq!(
            verdict(false, old, spread(&[7.0, 8.0, 9.0])),
            Verdict::Worse
        );
        assert_eq!(verdict(false, old, spread(&[99.0])), Verdict::Unknown);
    }

    #[test]
    fn a_spread_is_the_ends_and_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        let of = spread(&[3.0, 1.0, 2.0]);
        assert_eq!(
            (of.least, of.median, of.greatest, of.repeats),
            (1.0, 2.0, 3.0, 3)
        );
    }

    /// Results in which Lockstep's depth-1 latency is so many times the floor's, three times.
    fn results(ratio: f64) -> Results {
        let report = |p50: f64| lockstep_floor::report::Report {
            what: "test".into(),
            depth: 1,
            seconds: 1.0,
            requests: 1,
            iops: 1e6 / p50,
            megabytes: 1.0,
            p50,
            p99: p50,
            p999: p50,
            max: p50,
            cpu: 1.0,
            cpu_of: "nobody".into(),
            written: 1.0,
            pinned: Vec::new(),
            cpus: 1,
            kernel: "test".into(),
        };
        let three = |p50: f64| vec![report(p50), report(p50 * 1.01), report(p50 * 0.99)];
        let mut results = Results::default();
        results.all.insert("floor-w1".into(), three(100.0));
        results.all.insert("ls3-w1".into(), three(100.0 * ratio));
        results
    }

    #[test]
    fn the_gate_lets_noise_through_and_stops_a_loss() {
        assert_eq!(
            fallen(&results(1.0), &results(1.02), 5.0),
            Vec::<String>::new()
        );
        let fallen = fallen(&results(1.0), &results(1.3), 5.0);
        assert_eq!(fallen.len(), 1, "{fallen:?}");
        assert!(fallen[0].contains("minimal replicator"), "{fallen:?}");
    }

    #[test]
    fn figures_are_compared_by_what_is_better() {
        let of = |rate: f64| {
            let mut results = Results::default();
            for more in 0..3 {
                let values = [("transactions a second".to_owned(), rate + f64::from(more))];
                results.add_figures("postgres-ls3", values.into());
            }
            results
        };
        let text = render(&of(100.0), &of(200.0));
        let row = "| postgres-ls3 transactions a second | 101.00 | 201.00 | +99 % | better |";
        assert!(text.contains(row), "{text}");
        assert!(is_cost("memory of all nodes, MiB") && !is_cost("slowest volume, IOPS"));
    }
}
