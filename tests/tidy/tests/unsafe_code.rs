//! `unsafe` stands only in crates that own system calls or buffers, and says why it is sound.

use std::fs;
use tidy::source::{line_of, words};
use tidy::{Source, Workspace, none_of, sources};

/// Crate, and what it needs `unsafe` for.
const MAY: &[(&str, &str)] = &[
    (
        "lockstep-ring",
        "io_uring submissions and the pool of aligned, registered buffers",
    ),
    (
        "lockstep-fuse",
        "mounting, loop devices, descriptors handed to the keeper",
    ),
    (
        "lockstep-ublk",
        "commands to /dev/ublk-control, and the memory in which the kernel describes requests",
    ),
    (
        "lockstep-floor",
        "the smallest program to compare with drives io_uring itself",
    ),
    (
        "netlab",
        "entering namespaces, and the ioctl that makes a TAP device",
    ),
];

#[test]
fn unsafe_is_forbidden_elsewhere() {
    let mut findings = Vec::new();
    for package in Workspace::load().members() {
        if MAY.iter().any(|(name, _)| *name == package.name) {
            continue;
        }
        for root in &package.roots {
            let text = fs::read_to_string(root).unwrap_or_default();
            let source = Source::new("crate", text);
            // A crate with nothing in it yet has nothing to forbid.
            if !source.code.trim().is_empty() && !source.code.contains("#![forbid(unsafe_code)]") {
                findings.push(root.display().to_string());
            }
        }
    }
    none_of(
        findings,
        "Put #![forbid(unsafe_code)] at the top of each of these, or the crate and its reason into \
         the table of tests/tidy/tests/unsafe_code.rs.",
    );
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let findings = sources().iter().flat_map(unexplained).collect();
    none_of(
        findings,
        "Put '// SAFETY: …' right above: the invariant that makes it sound, and who keeps it.",
    );
}

#[test]
fn a_missing_reason_is_found() {
    let findings = |text: &str| unexplained(&Source::new("engine/x/src/lib.rs", text.into()));
    assert_eq!(findings("fn f() {\n    unsafe { g() }\n}\n").len(), 1);
    assert_eq!(
        findings("// SAFETY: far away\n\nfn f() {\n    h();\n    unsafe { g() }\n}\n").len(),
        1
    );
    assert_eq!(findings("unsafe impl Send for X {}\n").len(), 1);
    assert_eq!(
        findings("fn f() {\n    // SAFETY: g is.\n    let x =\n        unsafe { g() };\n}\n"),
        [""; 0]
    );
    assert_eq!(
        findings("// SAFETY: X owns it.\n#[allow(x)]\nunsafe impl Send for X {}\n"),
        [""; 0]
    );
}

fn unexplained(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let code: Vec<&str> = source.code.lines().collect();
    let needs_a_reason = |at: &usize| {
        let after = source.code[at + "unsafe".len()..].trim_start();
        after.starts_with('{') || after.starts_with("impl")
    };
    words(&source.code, "unsafe")
        .filter(needs_a_reason)
        .map(|at| line_of(&source.code, at))
        .filter(|line| !is_explained(&lines[..*line], &code[..*line]))
        .map(|line| format!("{}:{line} {}", source.path, lines[line - 1].trim()))
        .collect()
}

/// Whether the last of these lines has its reason: on it, or above it behind nothing but comments,
/// attributes and the start of its own statement.
fn is_explained(lines: &[&str], code: &[&str]) -> bool {
    for (back, (line, code)) in lines.iter().zip(code).rev().enumerate() {
        if line.contains("SAFETY:") {
            return true;
        }
        let code = code.trim();
        let own_statement = !code.ends_with([';', '{', '}', ',']) && !line.trim().is_empty();
        if back > 0 && !(code.starts_with("#[") || own_statement) {
            return false;
        }
    }
    false
}
