//! Every counter in the sources is one that the mix must reach, or is exempt for a reason: none is forgotten
//! in either list.

use sim::summary::{EXEMPT, EXPECTED};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where counters are hit.
const FOLDERS: [&str; 7] = [
    "control",
    "disk",
    "invariants",
    "record_world",
    "scenarios",
    "store_world",
    "world",
];

#[test]
fn every_counter_is_expected_or_exempt() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![src.join("net.rs")];
    FOLDERS
        .iter()
        .for_each(|folder| walk(&src.join(folder), &mut files));
    let known = known();
    let topics: BTreeSet<&str> = known.iter().filter_map(|name| topic(name)).collect();
    let mut unknown = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source can be read");
        for (literal, counted) in literals(&text) {
            let counts = counted || topic(literal).is_some_and(|topic| topics.contains(topic));
            if counts && !known.contains(literal) {
                unknown.insert(literal.to_string());
            }
            seen.insert(literal.to_string());
        }
    }
    assert!(unknown.is_empty(), "in neither list: {unknown:#?}");
    let gone: Vec<&&str> = known
        .iter()
        .filter(|name| topic(name).is_some() && !seen.contains(**name))
        .collect();
    assert!(gone.is_empty(), "nothing counts these: {gone:#?}");
}

#[test]
fn no_counter_is_in_both_lists() {
    let both: Vec<&str> = EXEMPT
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| EXPECTED.contains(name))
        .collect();
    assert!(both.is_empty(), "{both:?}");
}

fn known() -> BTreeSet<&'static str> {
    let exempt = EXEMPT.iter().map(|(name, _)| *name);
    EXPECTED.iter().copied().chain(exempt).collect()
}

/// What stands before the colon of a counter's name.
fn topic(name: &str) -> Option<&str> {
    name.split_once(": ").map(|(topic, _)| topic)
}

/// String literals without braces or line breaks, and whether each is handed to a counter as it stands.
fn literals(text: &str) -> Vec<(&str, bool)> {
    let mut found = Vec::new();
    let mut before = 0;
    for line in text.lines() {
        let comment = line.trim_start().starts_with("//");
        let pieces: Vec<&str> = line.split('"').collect();
        for (i, piece) in pieces.iter().enumerate().skip(1).step_by(2) {
            let start = piece.as_ptr() as usize - text.as_ptr() as usize;
            let lead = text[before..start - 1].trim_end();
            let counted = lead.ends_with(".hit(") || lead.ends_with(".add(");
            if i + 1 < pieces.len() && !comment && !piece.contains(['{', '\\']) {
                found.push((*piece, counted));
            }
            before = start;
        }
    }
    found
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}
