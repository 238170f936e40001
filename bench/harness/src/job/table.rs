//! Targets beside each other, load by load.

use std::fmt::Write as _;

use lockstep_floor::report::Report;

use super::file::Load;
use crate::results::Results;
use crate::table::median;

/// As Markdown: each target against the first one, in the order of the job.
pub fn render(results: &Results, targets: &[String], loads: &[Load]) -> String {
    let mut text = format!(
        "{}, {} processors, {} MiB, Linux {}\n\n\
         Medians; IOPS with the least and the greatest of the repeats, latencies in µs.\n\n\
         | load | target | IOPS | least – greatest | MB/s | p50 | p99 | p99.9 | max | IOPS against the first |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        results.machine.processor,
        results.machine.cpus,
        results.machine.memory,
        results.machine.kernel
    );
    for load in loads {
        let of = |target: &String| results.all.get(&format!("{target}-{}", load.name));
        let first = targets.first().and_then(of);
        let first = first.map(|reports| median(reports, |it| it.iops));
        for target in targets {
            let Some(reports) = of(target) else {
                continue;
            };
            row(&mut text, &load.name, target, reports, first);
        }
    }
    text
}

fn row(text: &mut String, load: &str, target: &str, reports: &[Report], first: Option<f64>) {
    let of = |figure: fn(&Report) -> f64| median(reports, figure);
    let least = reports
        .iter()
        .map(|it| it.iops)
        .fold(f64::INFINITY, f64::min);
    let greatest = reports.iter().map(|it| it.iops).fold(0.0, f64::max);
    let ratio = match first {
        Some(first) if first > 0.0 => format!("{:.2} ×", of(|it| it.iops) / first),
        _ => "–".into(),
    };
    let _ = writeln!(
        text,
        "| {load} | {target} | {:.0} | {least:.0} – {greatest:.0} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {ratio} |",
        of(|it| it.iops),
        of(|it| it.megabytes),
        of(|it| it.p50),
        of(|it| it.p99),
        of(|it| it.p999),
        of(|it| it.max),
    );
}
