//! Results as they are kept: every repeat of every measurement, and the machine they were taken on.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use lockstep_floor::report::Report;
use serde::{Deserialize, Serialize};

/// Version of the file's layout.
pub const VERSION: u32 = 1;

/// All that one run measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// See [`VERSION`].
    pub version: u32,
    /// Where.
    pub machine: Machine,
    /// By name, in the order of the repeats.
    pub all: BTreeMap<String, Vec<Report>>,
    /// What is not told by a load's report, by name, in the order of the repeats.
    #[serde(default)]
    pub figures: BTreeMap<String, Vec<Figures>>,
}

/// Values by what they are, with their unit.
pub type Figures = BTreeMap<String, f64>;

/// What figures depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As it calls itself.
    pub processor: String,
    /// How many.
    pub cpus: usize,
    /// MiB.
    pub memory: u64,
    /// Release.
    pub kernel: String,
    /// Name and rotation of the device under the files, as far as the kernel tells.
    pub disk: String,
    /// Version of Lockstep.
    pub lockstep: String,
}

impl Results {
    /// None yet, of this machine.
    pub fn new(directory: &Path) -> Self {
        Self {
            version: VERSION,
            machine: Machine::here(directory),
            all: BTreeMap::new(),
            figures: BTreeMap::new(),
        }
    }

    /// Of an earlier run: its `results.json`, or the directory that it lies in.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let file = match path.is_dir() {
            true => path.join("results.json"),
            false => path.to_owned(),
        };
        let text =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let results: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no results of this program", file.display()))?;
        anyhow::ensure!(
            results.version == VERSION,
            "{} is of version {}, and this program reads {VERSION}: measure again",
            file.display(),
            results.version
        );
        Ok(results)
    }

    /// As `results.json` in a directory, which is made.
    pub fn save(&self, directory: &Path) -> anyhow::Result<()> {
        keep(directory, "results.json", &serde_json::to_vec_pretty(self)?)
    }

    /// Keeps one repeat of figures that are not those of a load.
    pub fn add_figures(&mut self, name: &str, figures: Figures) {
        self.figures.entry(name.into()).or_default().push(figures);
    }
}

/// A file in a directory, which is made: whole or as it was, should we be ended meanwhile.
///
/// # Errors
/// The system's.
pub fn keep(directory: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        let unfinished = directory.join(format!("{name}.new"));
        std::fs::write(&unfinished, bytes)?;
        std::fs::rename(unfinished, directory.join(name))
    };
    write().with_context(|| format!("cannot keep {name} in {}", directory.display()))
}

impl Machine {
    /// This one; the disk is that under the directory.
    pub fn here(directory: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':'))
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name"),
            cpus: lockstep_floor::cpu::count(),
            memory: memory
                .split(' ')
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or_default()
                >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: disk_under(directory).unwrap_or_else(|| "unknown".into()),
            lockstep: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// The block device that a directory lies on.
fn disk_under(directory: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(directory).ok()?.dev();
    // As in linux/kdev_t.h: twelve bits of major, twenty of minor, spread over the word.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let name = link.file_name()?.to_string_lossy().into_owned();
    let rotates =
        std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/queue/rotational"));
    Some(match rotates.as_deref().map(str::trim) {
        Ok("1") => format!("{name}, says that it rotates"),
        Ok("0") => format!("{name}, does not rotate"),
        _ => name,
    })
}
