//! The timeline around a failure as a picture: completions a second, and what happened when.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::picture::{FONT, Picture};

/// A timeline, or the part of one around an event.
pub struct TimelineChart {
    /// File without an ending.
    pub file: String,
    /// Above the picture.
    pub title: String,
    /// Completions in each millisecond of the load.
    pub counts: Vec<u32>,
    /// Milliseconds that one point stands for.
    pub step: usize,
    /// What is shown, in milliseconds of the load.
    pub from: usize,
    /// See `from`.
    pub to: usize,
    /// What is time 0 of the picture, in milliseconds of the load.
    pub zero: f64,
    /// Events in milliseconds of the load, in words.
    pub marks: Vec<(f64, &'static str)>,
}

impl TimelineChart {
    /// Seconds since the zero and completions a second, a point a step.
    fn points(&self) -> Vec<(f64, f64)> {
        let shown = &self.counts[self.from.min(self.counts.len())..self.to.min(self.counts.len())];
        // What is left of a step at the end would show a fall that was none.
        let steps = shown.chunks_exact(self.step).enumerate();
        steps
            .map(|(number, counts)| {
                let at = (self.from + number * self.step) as f64;
                let sum: u32 = counts.iter().sum();
                let rate = f64::from(sum) * 1000.0 / self.step as f64;
                (self.second(at), rate)
            })
            .collect()
    }

    fn second(&self, millisecond: f64) -> f64 {
        (millisecond - self.zero) / 1000.0
    }
}

impl Picture for TimelineChart {
    fn file(&self) -> &str {
        &self.file
    }

    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let failed = |error: DrawingAreaErrorKind<B::ErrorType>| anyhow!("{}: {error}", self.file);
        let points = self.points();
        let most = points.iter().map(|point| point.1).fold(1.0, f64::max) * 1.15;
        let (begin, end) = (self.second(self.from as f64), self.second(self.to as f64));
        let mut plane = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(begin..end, 0.0..most)
            .map_err(failed)?;
        plane
            .configure_mesh()
            .x_desc("seconds since the kill")
            .y_desc(format!("writes a second, over {} ms each", self.step))
            .label_style((FONT, 14))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()
            .map_err(failed)?;
        plane
            .draw_series(LineSeries::new(points, BLUE.stroke_width(1)))
            .map_err(failed)?;
        let inside = |at: f64| (self.from as f64..=self.to as f64).contains(&at);
        let shown = self.marks.iter().filter(|(at, _)| inside(*at));
        for (row, (at, what)) in shown.enumerate() {
            let at = self.second(*at);
            let line = [(at, 0.0), (at, most)];
            plane
                .draw_series(LineSeries::new(line, RED.stroke_width(1)))
                .map_err(failed)?;
            // One below the other: events may lie close together.
            let height = most * (0.98 - 0.05 * row as f64);
            let text = Text::new(
                format!(" {what}"),
                (at, height),
                (FONT, 15).into_font().color(&RED),
            );
            plane.draw_series(std::iter::once(text)).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::save;

    fn chart() -> TimelineChart {
        TimelineChart {
            file: "failover".into(),
            title: "a kill".into(),
            counts: [vec![2; 100], vec![0; 50], vec![4; 105]].concat(),
            step: 10,
            from: 0,
            to: 255,
            zero: 100.0,
            marks: vec![(100.0, "killed"), (150.0, "back"), (900.0, "never")],
        }
    }

    #[test]
    fn a_point_is_a_rate_at_a_time() {
        let points = chart().points();
        assert_eq!(points.len(), 25, "what is left of a step is not shown");
        assert_eq!(points[0], (-0.1, 2000.0));
        assert_eq!(points[10], (0.0, 0.0));
        assert_eq!(points[24], (0.14, 4000.0));
    }

    #[test]
    fn it_becomes_a_picture_with_what_happened() {
        let directory = tempfile::tempdir().expect("a directory");
        save(&chart(), directory.path()).expect("drawn");
        let svg = std::fs::read_to_string(directory.path().join("failover.svg")).expect("there");
        assert!(svg.contains("killed") && svg.contains("back"), "{svg}");
        assert!(!svg.contains("never"), "it lies outside");
        let png = std::fs::read(directory.path().join("failover.png")).expect("there");
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    }
}
