//! Nothing unfinished, nothing forgotten, no panic without a reason.

use tidy::source::{line_of, words};
use tidy::{none_of, sources};

const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];
const UNEXPLAINED: &[&str] = &[".unwrap()", ".unwrap_err()"];

#[test]
fn nothing_is_unfinished() {
    let mut findings = Vec::new();
    for source in sources() {
        for word in UNFINISHED {
            findings.extend(
                words(&source.code, word)
                    .map(|at| format!("{}:{} {word}", source.path, line_of(&source.code, at))),
            );
        }
    }
    none_of(
        findings,
        "Finish it, or take it out and say in an issue what is missing.",
    );
}

#[test]
fn no_panic_is_unexplained() {
    let mut findings = Vec::new();
    for source in sources() {
        for word in UNEXPLAINED {
            findings.extend(
                words(&source.product, word)
                    .map(|at| format!("{}:{} {word}", source.path, line_of(&source.product, at))),
            );
        }
    }
    none_of(
        findings,
        "Outside tests an error that can happen is handled, and one that cannot is \
         .expect(\"the invariant that makes this true\").",
    );
}
