//! Dependencies point one way: types, pure cores, shells, binaries, tests; and little comes from
//! outside.

use std::collections::BTreeMap;
use tidy::workspace::built;
use tidy::{Package, Workspace, none_of};

/// A crate depends only on crates of a lower rank.
const RANKS: &[(u8, &[&str])] = &[
    // Stand-ins for foreign crates, and the vocabulary.
    (0, &["protobuf", "fxhash", "raft-proto", "lockstep-types"]),
    // Pure cores: each one concern.
    (
        10,
        &[
            "lockstep-wire",
            "lockstep-store",
            "lockstep-placement",
            "lockstep-frontend",
            "lockstep-load",
        ],
    ),
    (
        20,
        &[
            "lockstep-protocol",
            "lockstep-control",
            "lockstep-consensus",
            "lockstep-verdict",
            "lockstep-evict",
        ],
    ),
    // The composition of a node, still pure.
    (30, &["lockstep-logic"]),
    // Shells: each one part of the world.
    (40, &["lockstep-api", "lockstep-net"]),
    (50, &["lockstep-ring", "lockstep-consensus-io"]),
    (
        60,
        &[
            "lockstep-nbd",
            "lockstep-fuse",
            "lockstep-ublk",
            "lockstep-kernel-nbd",
            "lockstep-keeper",
        ],
    ),
    // The daemon, the binaries.
    (70, &["lockstep-node", "lockstep-drive"]),
    (80, &["lockstep-cli", "lockstep-csi"]),
    // It reads StorageClasses and asks daemons as the CSI driver does.
    (85, &["lockstep-scheduler-extender"]),
    // What drives all of them.
    (90, &["netlab", "faultfs"]),
    (100, &["sim", "tidy", "lockstep-floor", "e2e"]),
    (110, &["crash", "lockstep-bench", "vm"]),
];

/// What pure crates may use from outside: computation and plain data only.
const PURE_ALLOWED: &[&str] = &[
    "bytes",
    "crc32c",
    "fxhash",
    "prost",
    "protobuf",
    "raft",
    "raft-proto",
    "rustc-hash",
    "siphasher",
    "slog",
    "smallvec",
    "thiserror",
    "zerocopy",
];

/// What no pure crate reaches, at any depth.
const PURE_FORBIDDEN: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "libc",
    "nix",
    "rustix",
    "rand",
    "rand_core",
    "getrandom",
    "io-uring",
    "parking_lot",
    "tracing",
    "metrics",
    "rustls",
    "tonic",
];

/// raft-rs draws its election timeout from `rand`. The consensus core leaves it a range of one value,
/// which takes the dice out.
const PURE_OPAQUE: &[&str] = &["raft"];

/// Nothing is built from these: one provider of cryptography, aws-lc-rs, under one TLS, rustls.
const BANNED: &[&str] = &[
    "ring",
    "openssl",
    "openssl-sys",
    "native-tls",
    "protobuf-codegen",
    "prost-build-config",
];

/// Kubernetes is not linked into the daemon and CLI.
const NOT_IN_DAEMON: &[&str] = &["kube", "kube-client", "k8s-openapi"];

/// Packages in several versions, and who keeps the old one alive.
const SEVERAL_VERSIONS: &[(&str, &str)] = &[
    (
        "base64",
        "tonic and the Prometheus exporter are one version behind pem",
    ),
    (
        "foldhash",
        "comes with the older hashbrown of petgraph, under prost-build; only built on, never linked",
    ),
    ("getrandom", "rand's three versions"),
    ("hashbrown", "metrics-util is one version behind indexmap"),
    (
        "rand",
        "raft 0.7 asks for 0.8, metrics-util for 0.9; tests (proptest) have the newest",
    ),
    ("rand_chacha", "rand's three versions"),
    ("rand_core", "rand's three versions"),
    (
        "syn",
        "half of the derive macros have moved to 3; only built on, never linked",
    ),
    ("thiserror", "raft 0.7 asks for 1"),
    ("thiserror-impl", "raft 0.7 asks for thiserror 1"),
    (
        "unicode-width",
        "miette, under protox, is one behind comfy-table; only built on, never linked",
    ),
    ("untrusted", "aws-lc-rs is one version behind rustls-webpki"),
];

#[test]
fn dependencies_point_down() {
    let workspace = Workspace::load();
    let mut findings = Vec::new();
    for package in workspace.members() {
        let Some(rank) = rank(package) else {
            findings.push(format!("{} has no rank", package.name));
            continue;
        };
        for dependency in workspace
            .dependencies(package)
            .filter(|dependency| dependency.member)
        {
            if rank <= self::rank(dependency).unwrap_or(0) {
                findings.push(format!("{} depends on {}", package.name, dependency.name));
            }
        }
    }
    none_of(
        findings,
        "Dependencies point down the table in tests/tidy/tests/dependencies.rs. If a crate needs one \
         above it, the code is in the wrong room (CONTRIBUTING.md, 'Which room is a line's?'); a new \
         crate gets a rank there.",
    );
}

#[test]
fn pure_crates_use_pure_crates() {
    let workspace = Workspace::load();
    let mut findings = Vec::new();
    for package in workspace.members().filter(|package| package.pure) {
        for dependency in workspace.dependencies(package) {
            if !dependency.pure && !PURE_ALLOWED.contains(&dependency.name.as_str()) {
                findings.push(format!(
                    "{} is pure and depends on {}",
                    package.name, dependency.name
                ));
            }
        }
        let reached = workspace.reach(package, PURE_OPAQUE);
        for forbidden in PURE_FORBIDDEN.iter().filter(|name| reached.contains(*name)) {
            findings.push(format!("{} is pure and reaches {forbidden}", package.name));
        }
    }
    none_of(
        findings,
        "A pure crate is built from pure crates and a few that only compute (PURE_ALLOWED). What \
         reads clocks, dice, files or sockets belongs into a shell.",
    );
}

#[test]
fn banned_crates_stay_out() {
    let workspace = Workspace::load();
    let built = built();
    let mut findings: Vec<String> = BANNED
        .iter()
        .filter(|name| built.contains_key(**name))
        .map(|name| format!("{name} is in the tree (cargo tree -i {name} shows why)"))
        .collect();
    for package in workspace
        .members()
        .filter(|package| ["lockstep-cli", "lockstep-node"].contains(&package.name.as_str()))
    {
        let reached = workspace.reach(package, &[]);
        let kubernetes = NOT_IN_DAEMON.iter().filter(|name| reached.contains(*name));
        findings.extend(kubernetes.map(|name| format!("{} reaches {name}", package.name)));
    }
    none_of(
        findings,
        "TLS is rustls with aws-lc-rs: switch default features off and name that provider. Kubernetes \
         belongs into csi/ and scheduler-extender/.",
    );
}

#[test]
fn one_version_of_each_dependency() {
    let mut versions = built();
    versions.retain(|_, versions| versions.len() > 1);
    let excepted: BTreeMap<_, _> = SEVERAL_VERSIONS.iter().copied().collect();
    let mut findings: Vec<String> = versions
        .iter()
        .filter(|(name, _)| !excepted.contains_key(name.as_str()))
        .map(|(name, versions)| {
            format!("{name} in versions {versions:?} (cargo tree -d shows why)")
        })
        .collect();
    let single = excepted
        .keys()
        .filter(|name| !versions.contains_key(**name));
    findings
        .extend(single.map(|name| format!("{name} has one version now: take it from the table")));
    none_of(
        findings,
        "Choose versions that agree. If a foreign crate leaves no choice, put the package and the \
         reason into SEVERAL_VERSIONS of tests/tidy/tests/dependencies.rs.",
    );
}

fn rank(package: &Package) -> Option<u8> {
    RANKS
        .iter()
        .find(|(_, names)| names.contains(&package.name.as_str()))
        .map(|(rank, _)| *rank)
}
