//! Pure cores read no clock, roll no dice, start no thread, call no system, and walk through
//! nothing in an order that differs from run to run: one seed replays them bit for bit.

use tidy::source::{line_of, words};
use tidy::{Source, Workspace, none_of, sources};

const IMPURE: &[&str] = &[
    "std::time",
    "core::time",
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "RandomState",
    "DefaultHasher",
    "hash_map",
    "hash_set",
    "thread_rng",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "static mut",
    "thread_local",
    "tokio",
    "libc",
    "println!",
    "eprintln!",
];
/// Of `std`, wherever it is named: also in `use std::{fs, …}`.
const IMPURE_MODULES: &[&str] = &["time", "fs", "net", "env", "thread", "process"];
/// File, word, why it is harmless.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

#[test]
fn pure_cores_are_pure() {
    let workspace = Workspace::load();
    let pure: Vec<_> = workspace.members().filter(|package| package.pure).collect();
    assert!(
        pure.len() >= 5,
        "types, wire, protocol, store and logic at least are pure: {pure:?}"
    );
    let mut findings = Vec::new();
    for source in sources() {
        if pure
            .iter()
            .any(|package| source.is_under(&package.directory))
        {
            findings.extend(impurities(&source));
        }
    }
    none_of(
        findings,
        "This crate is pure (package.metadata.lockstep): time and seeds are handed in, collections \
         are ordered (BTreeMap, BTreeSet, Vec), and a shell does what touches the world.",
    );
}

#[test]
fn impurity_is_found() {
    let text = "use std::{fmt, fs};\nuse std::collections::HashMap;\nfn now() { std::time::Instant::now() }\n";
    let found = impurities(&Source::new("engine/x/src/lib.rs", text.into())).join("\n");
    for word in ["std::{… fs …}", "HashMap", "std::time", "Instant"] {
        assert!(found.contains(word), "{word} is missing in\n{found}");
    }
    let harmless = "use std::{fmt, mem};\n/// Not an Instant.\nconst X: &str = \"std::fs\";\n#[cfg(test)]\nmod tests { use std::fs; }\n";
    assert_eq!(
        impurities(&Source::new("engine/x/src/lib.rs", harmless.into())),
        [""; 0]
    );
}

fn impurities(source: &Source) -> Vec<String> {
    let code = &source.product;
    let mut found = Vec::new();
    let excepted = |word: &str| {
        EXCEPTIONS
            .iter()
            .any(|(path, excepted, _)| *path == source.path && *excepted == word)
    };
    for word in IMPURE.iter().filter(|word| !excepted(word)) {
        found.extend(
            words(code, word).map(|at| format!("{}:{} {word}", source.path, line_of(code, at))),
        );
    }
    for (at, group) in code.match_indices("std::{") {
        let inside = &code[at + group.len()..];
        let inside = &inside[..inside.find(';').unwrap_or(inside.len())];
        for module in IMPURE_MODULES
            .iter()
            .filter(|module| words(inside, module).next().is_some())
        {
            found.push(format!(
                "{}:{} std::{{… {module} …}}",
                source.path,
                line_of(code, at)
            ));
        }
    }
    found
}
