//! The workspace as `cargo metadata` tells it: packages, and what of them reaches what.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target everything is built for; dependencies of others are no concern.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// All packages that the members reach on Linux.
#[derive(Debug)]
pub struct Workspace {
    /// By package id.
    pub packages: BTreeMap<String, Package>,
}

/// A package.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it belongs to this workspace.
    pub member: bool,
    /// Whether `package.metadata.lockstep.pure` is set.
    pub pure: bool,
    /// Where its manifest lies.
    pub directory: PathBuf,
    /// The roots of its libraries and binaries.
    pub roots: Vec<PathBuf>,
    /// Ids of what it is built from, without dev-dependencies.
    pub dependencies: BTreeSet<String>,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Panics
    /// If cargo fails, with its words.
    pub fn load() -> Self {
        let output = cargo(&[
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            TARGET,
        ]);
        let metadata: Value = serde_json::from_str(&output).expect("cargo writes JSON");
        Self::of(&metadata)
    }

    /// The members, by name.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.member)
    }

    /// What a package is directly built from.
    pub fn dependencies(&self, package: &Package) -> impl Iterator<Item = &Package> {
        package.dependencies.iter().map(|id| &self.packages[id])
    }

    /// Names of all that a package is built from, at any depth, not looking behind `opaque`.
    pub fn reach(&self, package: &Package, opaque: &[&str]) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        let mut open: Vec<&Package> = self.dependencies(package).collect();
        while let Some(next) = open.pop() {
            if names.insert(next.name.as_str()) && !opaque.contains(&next.name.as_str()) {
                open.extend(self.dependencies(next));
            }
        }
        names
    }

    fn of(metadata: &Value) -> Self {
        let members: BTreeSet<&str> = list(&metadata["workspace_members"]).map(text).collect();
        let mut packages: BTreeMap<String, Package> = list(&metadata["packages"])
            .map(|package| {
                (
                    text(&package["id"]).to_string(),
                    Package::of(package, &members),
                )
            })
            .collect();
        let mut reached = BTreeSet::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let id = text(&node["id"]);
            reached.insert(id.to_string());
            let package = packages
                .get_mut(id)
                .expect("cargo resolves the packages it lists");
            package.dependencies = list(&node["deps"])
                .filter(|dependency| {
                    list(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev")
                })
                .map(|dependency| text(&dependency["pkg"]).to_string())
                .collect();
        }
        packages.retain(|id, _| reached.contains(id));
        Self { packages }
    }
}

impl Package {
    fn of(package: &Value, members: &BTreeSet<&str>) -> Self {
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let built = |target: &&Value| {
            list(&target["kind"]).any(|kind| ["lib", "bin", "proc-macro"].contains(&text(kind)))
        };
        Self {
            name: text(&package["name"]).to_string(),
            version: text(&package["version"]).to_string(),
            member: members.contains(text(&package["id"])),
            pure: package["metadata"]["lockstep"]["pure"] == true,
            directory: manifest
                .parent()
                .expect("a manifest lies in a directory")
                .to_path_buf(),
            roots: list(&package["targets"])
                .filter(built)
                .map(|target| PathBuf::from(text(&target["src_path"])))
                .collect(),
            dependencies: BTreeSet::new(),
        }
    }
}

/// Names and versions of all packages that are really built: `cargo metadata` also lists optional
/// ones that no feature switches on.
///
/// # Panics
/// If cargo fails, with its words.
pub fn built() -> BTreeMap<String, BTreeSet<String>> {
    let edges = [
        "-e",
        "normal,build,dev",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in cargo(&[&["tree", "--workspace", "--target", TARGET], &edges[..]].concat()).lines()
    {
        let mut parts = line.split(' ');
        if let (Some(name), Some(version)) = (parts.next(), parts.next()) {
            versions
                .entry(name.to_string())
                .or_default()
                .insert(version.to_string());
        }
    }
    assert!(
        versions.contains_key("lockstep-types"),
        "cargo tree lists the workspace"
    );
    versions
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs, since it runs this test");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo {}: {words}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this crate lies at tests/tidy")
        .to_path_buf()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo's metadata has a text here")
}
