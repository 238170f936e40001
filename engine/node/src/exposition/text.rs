//! Families of samples as text.

use std::fmt::{Display, Write};

/// Samples, written family by family.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// Kinds of family.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Text {
    /// Begins a family: what follows up to the next are its samples.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_as_the_format_says() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Of a");
        text.sample("a_total", &[], 3);
        text.sample("a_total", &[("x", "q\"\\\n"), ("y", "")], 0.5);
        assert_eq!(
            text.into_string(),
            "# HELP a_total Of a\n# TYPE a_total counter\na_total 3\na_total{x=\"q\\\"\\\\\\n\",y=\"\"} 0.5\n"
        );
    }
}
