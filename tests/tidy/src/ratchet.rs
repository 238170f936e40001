//! A committed table of what is too long. An entry may shrink and go, never grow or come.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `LOCKSTEP_TIDY=shrink` lowers and drops entries; `LOCKSTEP_TIDY=record` writes the table anew.
const SWITCH: &str = "LOCKSTEP_TIDY";

/// A table: names and lengths.
#[derive(Debug)]
pub struct Ratchet {
    path: PathBuf,
    what: &'static str,
    entries: BTreeMap<String, usize>,
}

impl Ratchet {
    /// Reads `tests/tidy/ratchets/NAME.txt`: lines of length and name.
    ///
    /// # Panics
    /// If a line is neither.
    pub fn load(name: &str, what: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("ratchets")
            .join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Self {
            path,
            what,
            entries: parse(&text),
        }
    }

    /// Compares with what is over the limit now.
    ///
    /// # Panics
    /// With words for whoever made something longer, or has to drop an entry.
    #[track_caller]
    pub fn check(self, now: &BTreeMap<String, usize>) {
        match std::env::var(SWITCH).as_deref() {
            Ok("record") => return self.write(now.clone()),
            Ok("shrink") => {
                let kept = self
                    .entries
                    .iter()
                    .filter_map(|(name, was)| now.get(name).map(|is| (name.clone(), *was.min(is))));
                self.write(kept.collect());
            }
            _ => {}
        }
        crate::none_of(self.findings(now), "");
    }

    fn findings(&self, now: &BTreeMap<String, usize>) -> Vec<String> {
        let what = self.what;
        let longer = now
            .iter()
            .filter_map(|(name, is)| match self.entries.get(name) {
                None => Some(format!("{name}: {is} lines. {what}")),
                Some(was) if is > was => Some(format!(
                    "{name}: {is} lines, it had {was} and may only shrink. {what}"
                )),
                Some(_) => None,
            });
        let shrinking = std::env::var(SWITCH).as_deref() == Ok("shrink");
        let gone = self.entries.keys().filter(|name| !shrinking && !now.contains_key(*name)).map(|name| {
            format!("{name} is no longer too long, thank you: run {SWITCH}=shrink cargo test -p tidy, and commit the table")
        });
        longer.chain(gone).collect()
    }

    fn write(&self, entries: BTreeMap<String, usize>) {
        let directory = self.path.parent().expect("the table lies in a directory");
        std::fs::create_dir_all(directory).expect("tests/tidy can be written");
        let lines: String = entries
            .iter()
            .map(|(name, length)| format!("{length} {name}\n"))
            .collect();
        std::fs::write(&self.path, lines)
            .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

fn parse(text: &str) -> BTreeMap<String, usize> {
    text.lines()
        .map(|line| {
            let (length, name) = line.split_once(' ').unwrap_or_default();
            let length = length
                .parse()
                .unwrap_or_else(|_| panic!("'{line}' is not 'LENGTH NAME'"));
            (name.to_string(), length)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shrinking_is_silent() {
        let ratchet = Ratchet {
            path: PathBuf::new(),
            what: "",
            entries: parse("70 a\n80 b\n90 c\n"),
        };
        let now = parse("70 a\n81 b\n75 d\n");
        let findings = ratchet.findings(&now);
        let subjects: Vec<_> = findings.iter().map(|finding| &finding[..1]).collect();
        assert_eq!(subjects, ["b", "d", "c"], "{findings:?}");
        assert_eq!(ratchet.findings(&parse("69 a\n1 b\n90 c\n")), [""; 0]);
    }
}
