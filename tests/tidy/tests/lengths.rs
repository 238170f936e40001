//! Files and functions that a person can hold in the head.

use tidy::{none_of, sources};

const FILE: usize = 600;
const FUNCTION: usize = 70;

#[test]
fn files_do_one_job() {
    let long = sources()
        .iter()
        .map(|source| (&source.path, source.length()))
        .filter(|(_, length)| *length > FILE)
        .map(|(path, length)| format!("{path}: {length} lines"))
        .collect();
    none_of(
        long,
        &format!("A file has one job and up to {FILE} lines without its tests: split it by job."),
    );
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for source in sources() {
        let functions = source.functions().into_iter();
        long.extend(
            functions
                .filter(|function| function.lines > FUNCTION)
                .map(|it| {
                    format!(
                        "{}:{} {}: {} lines",
                        source.path, it.line, it.name, it.lines
                    )
                }),
        );
    }
    none_of(
        long,
        &format!("A function has up to {FUNCTION} lines: push its branches down into helpers."),
    );
}
