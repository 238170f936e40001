//! Curves of a run: latency and throughput against the requests in flight, one picture a kind and size
//! of request, as SVG and PNG.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::picture::{self, FONT, Picture};
use crate::results::Results;
use crate::table::{Figure, median};

/// Pictures with fewer depths than this say nothing that the table does not.
const LEAST: usize = 2;
/// What is drawn, and how its axis is called.
const DRAWN: [(&str, &str, Figure); 3] = [
    (
        "p50",
        "µs that half of the requests do not exceed",
        Figure::P50,
    ),
    (
        "p99",
        "µs that 99 in 100 requests do not exceed",
        Figure::P99,
    ),
    ("iops", "requests a second", Figure::Iops),
];

/// Depths, and which measurement has each.
type Named<'a> = Vec<(f64, &'a str)>;

/// Options of `lockstep-bench plot`.
#[derive(clap::Args)]
pub struct Options {
    /// The directory of a run's `--out`, where the pictures go too.
    results: PathBuf,
}

/// Draws the pictures of an earlier run.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let results = Results::load(&options.results)?;
    for name in draw(&results, &options.results)? {
        println!("{}", options.results.join(name).display());
    }
    Ok(())
}

/// One picture.
struct Chart {
    file: String,
    title: String,
    axis: &'static str,
    /// By place: depth and value.
    curves: BTreeMap<String, Vec<(f64, f64)>>,
}

/// Draws all of them into a directory that exists; their names.
///
/// # Errors
/// A file cannot be written.
pub fn draw(results: &Results, directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for chart in charts(results) {
        picture::save(&chart, directory)?;
        names.push(chart.file);
    }
    Ok(names)
}

/// The pictures that a run gives: `SIZE-KIND-FIGURE`.
fn charts(results: &Results) -> Vec<Chart> {
    let mut kinds: BTreeMap<String, BTreeMap<String, Named<'_>>> = BTreeMap::new();
    for name in results.all.keys() {
        if let Some((place, kind, depth)) = parts(name) {
            let places = kinds.entry(kind).or_default();
            places.entry(place).or_default().push((depth, name));
        }
    }
    let mut charts = Vec::new();
    for (kind, places) in kinds {
        let depths = places.values().map(Vec::len).max().unwrap_or_default();
        if depths < LEAST {
            continue;
        }
        for (short, axis, figure) in DRAWN {
            let curve = |points: &Named<'_>| {
                let value = |name: &str| median(&results.all[name], |report| figure.of(report));
                let mut curve: Vec<_> =
                    points.iter().map(|(at, name)| (*at, value(name))).collect();
                curve.sort_by(|a, b| a.0.total_cmp(&b.0));
                curve
            };
            charts.push(Chart {
                file: format!("{kind}-{short}"),
                title: format!("{kind}: {axis}, by requests in flight"),
                axis,
                curves: places
                    .iter()
                    .map(|(place, points)| (place.clone(), curve(points)))
                    .collect(),
            });
        }
    }
    charts
}

/// `ls3-16kw4` is place `ls3`, kind `16k-write`, depth 4; none for what has no depth.
fn parts(name: &str) -> Option<(String, String, f64)> {
    let (place, rest) = name.rsplit_once('-')?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let depth: f64 = rest[letters.len()..].parse().ok()?;
    let kind = match letters.chars().last()? {
        'w' => "write",
        'r' => "read",
        // `m` alone is a mix; behind a size it is part of it, and a kind follows.
        'm' => "mixed",
        _ => return None,
    };
    let size = &letters[..letters.len() - 1];
    let size = if size.is_empty() { "4k" } else { size };
    if !size.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((place.to_owned(), format!("{size}-{kind}"), depth))
}

impl Picture for Chart {
    fn file(&self) -> &str {
        &self.file
    }

    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let chart = self;
        let failed = |error: DrawingAreaErrorKind<B::ErrorType>| anyhow!("{}: {error}", chart.file);
        let points = || chart.curves.values().flatten();
        let deepest = points().map(|point| point.0).fold(2.0, f64::max);
        let highest = points().map(|point| point.1).fold(1.0, f64::max);
        let lowest = points()
            .map(|point| point.1)
            .fold(highest, f64::min)
            .max(1.0);
        let mut plane = ChartBuilder::on(area)
            .caption(&chart.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (1.0..deepest * 1.05).log_scale().base(2.0),
                (lowest * 0.8..highest * 1.25).log_scale(),
            )
            .map_err(failed)?;
        plane
            .configure_mesh()
            .x_desc("requests in flight")
            .y_desc(chart.axis)
            .label_style((FONT, 14))
            .x_label_formatter(&|depth| format!("{depth:.0}"))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()
            .map_err(failed)?;
        for (number, (place, curve)) in chart.curves.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            plane
                .draw_series(
                    LineSeries::new(curve.iter().copied(), color.stroke_width(2)).point_size(4),
                )
                .map_err(failed)?
                .label(place)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2))
                });
        }
        plane
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .label_font((FONT, 14))
            .draw()
            .map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_floor::report::{Report, Run, Samples};
    use std::time::Duration;

    fn report(micros: u64) -> Report {
        let run = Run {
            what: String::new(),
            depth: 1,
            time: Duration::from_secs(1),
            bytes: 4096,
            files: 1,
            cpu_nanos: 0,
            written: 0,
            cpu_of: "",
            pinned: Vec::new(),
        };
        Report::new(run, &Samples::new(vec![micros * 1000; 10]))
    }

    #[test]
    fn names_are_taken_apart() {
        let is = |name: &str, place: &str, kind: &str, depth: f64| {
            assert_eq!(
                parts(name),
                Some((place.into(), kind.into(), depth)),
                "{name}"
            );
        };
        is("ls3-w16", "ls3", "4k-write", 16.0);
        is("qemu-16kr4", "qemu", "16k-read", 4.0);
        is("ls1-m32", "ls1", "4k-mixed", 32.0);
        is("three-1mw4", "three", "1m-write", 4.0);
        is("ls3-64km128", "ls3", "64k-mixed", 128.0);
        is("ls3-resync-w4", "ls3-resync", "4k-write", 4.0);
        assert_eq!(parts("ls3-log1"), None);
        assert_eq!(parts("ls3-many8"), None);
        assert_eq!(parts("ls3-oddw8"), None);
    }

    #[test]
    fn curves_become_pictures() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut results = Results::new(directory.path());
        for (name, micros) in [
            ("ls3-w1", 300),
            ("ls3-w16", 900),
            ("raw-w1", 100),
            ("ls3-1mw4", 9000),
        ] {
            results.all.insert(name.into(), vec![report(micros)]);
        }
        let names = draw(&results, directory.path()).expect("drawn");
        // One depth of the large ones is no curve.
        assert_eq!(names, ["4k-write-p50", "4k-write-p99", "4k-write-iops"]);
        let read = |name: &str| std::fs::read(directory.path().join(name)).expect("there");
        let svg = String::from_utf8(read("4k-write-p50.svg")).expect("text");
        assert!(
            svg.contains("ls3") && svg.contains("requests in flight"),
            "{svg}"
        );
        assert!(read("4k-write-p50.png").starts_with(b"\x89PNG\r\n\x1a\n"));
    }
}
