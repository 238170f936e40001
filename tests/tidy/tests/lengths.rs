//! Files and functions that a person can hold in the head.

use std::collections::BTreeMap;
use tidy::ratchet::Ratchet;
use tidy::sources;

const FILE: usize = 600;
const FUNCTION: usize = 70;

#[test]
fn files_do_one_job() {
    let long = sources()
        .iter()
        .map(|source| (source.path.clone(), source.length()))
        .filter(|(_, length)| *length > FILE)
        .collect();
    Ratchet::load(
        "files",
        "A file has one job and up to 600 lines without its tests: split it by job.",
    )
    .check(&long);
}

#[test]
fn functions_fit_a_screen() {
    let mut long: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        for function in source
            .functions()
            .into_iter()
            .filter(|function| function.lines > FUNCTION)
        {
            // Two of one name in a file share an entry: the longer counts.
            let longest = long
                .entry(format!("{} {}", source.path, function.name))
                .or_default();
            *longest = function.lines.max(*longest);
        }
    }
    Ratchet::load(
        "functions",
        "A function has up to 70 lines: push its branches down into helpers.",
    )
    .check(&long);
}
