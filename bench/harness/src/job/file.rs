//! The job file: what is to be measured, in TOML; read whole and judged before anything is touched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::size;

/// Bytes of a block; requests are multiples of it.
const BLOCK: u64 = 4096;
/// A request that no device takes in one piece says nothing of it.
const LARGEST: u64 = 32 << 20;
const DEEPEST: usize = 1024;
/// From this size on, requests go one after the other unless the job says otherwise.
const LARGE: u64 = 1 << 20;

/// A job.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// How long and how often.
    #[serde(default)]
    pub run: Extent,
    /// What is measured.
    #[serde(rename = "target", default)]
    pub targets: Vec<Target>,
    /// With what.
    #[serde(rename = "workload", default)]
    pub workloads: Vec<Workload>,
}

/// How long and how often.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extent {
    /// Seconds of each measurement.
    pub seconds: u64,
    /// Seconds of the same load before it.
    pub warm: u64,
    /// How often each is measured, in turn with all others.
    pub repeats: usize,
    /// How fio talks to the kernel.
    pub engine: Engine,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            seconds: 10,
            warm: 2,
            repeats: 5,
            engine: Engine::IoUring,
        }
    }
}

/// fio's engines for direct I/O at depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Engine {
    /// The newer one.
    #[serde(rename = "io_uring")]
    IoUring,
    /// Where io_uring is forbidden.
    #[serde(rename = "libaio")]
    Libaio,
}

/// A device, a file or an NBD export.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name in the results.
    pub name: String,
    /// The host that it is on: elsewhere it is passed over, so that all hosts can have the same file.
    pub host: Option<String>,
    /// A block device.
    pub device: Option<PathBuf>,
    /// A file; made and removed again if it does not exist.
    pub file: Option<PathBuf>,
    /// `nbd://HOST:PORT/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
    pub nbd: Option<String>,
    /// How much of it is used, from the beginning; all of it when not given.
    pub size: Option<String>,
    /// What it holds may be destroyed.
    #[serde(default)]
    pub overwrite: bool,
}

/// A load, at one depth or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// What is done.
    pub kind: Kind,
    /// Bytes of a request.
    pub block: Option<String>,
    /// Requests in flight.
    pub depth: Option<Depths>,
    /// Percent of the requests of a mix that read.
    pub reads: Option<u8>,
    /// One request after the other.
    pub sequential: Option<bool>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Durable writes.
    Write,
    /// Reads.
    Read,
    /// Both.
    Mixed,
    /// One durable write after the other, at depth 1: a database's log.
    Log,
}

/// One or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Depths {
    /// One.
    One(usize),
    /// Several.
    Several(Vec<usize>),
}

/// One load at one depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// As in `bench/run`: `w16`, `64kr4`, `1mw4`, `log1`.
    pub name: String,
    /// What is done.
    pub kind: Kind,
    /// Bytes of a request.
    pub block: u32,
    /// Requests in flight.
    pub depth: usize,
    /// Percent that read.
    pub reads: u8,
    /// One after the other.
    pub sequential: bool,
}

impl Job {
    /// Reads a file and judges it.
    ///
    /// # Errors
    /// It cannot be read, has a field that is not known, or asks for what cannot be.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the job file {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the job file {} is refused", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // Its own words name the line, the field, and which ones there are.
        let job: Self = toml::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
        job.judge()?;
        Ok(job)
    }

    /// All loads, in the order of the file.
    ///
    /// # Errors
    /// One asks for what cannot be, or two are the same.
    pub fn loads(&self) -> anyhow::Result<Vec<Load>> {
        let mut loads = Vec::new();
        for (number, workload) in self.workloads.iter().enumerate() {
            let of = workload
                .loads()
                .with_context(|| format!("workload {}", number + 1))?;
            loads.extend(of);
        }
        let mut seen = BTreeSet::new();
        for load in &loads {
            ensure!(
                seen.insert(&load.name),
                "two workloads are the same: {}; take one away",
                load.name
            );
        }
        Ok(loads)
    }

    fn judge(&self) -> anyhow::Result<()> {
        let Extent {
            seconds, repeats, ..
        } = self.run;
        ensure!(seconds > 0, "run.seconds is at least 1");
        ensure!(repeats > 0, "run.repeats is at least 1");
        ensure!(
            !self.targets.is_empty(),
            "it names nothing to measure; add a [[target]]"
        );
        ensure!(
            !self.workloads.is_empty(),
            "it names no load; add a [[workload]]"
        );
        let mut names = BTreeSet::new();
        for target in &self.targets {
            target.judge()?;
            ensure!(
                names.insert(&target.name),
                "two targets are called '{}'; give each a name of its own",
                target.name
            );
        }
        self.loads().map(drop)
    }
}

impl Target {
    /// Bytes that are used, if the job says.
    ///
    /// # Errors
    /// It is no size, or no multiple of a block.
    pub fn bytes(&self) -> anyhow::Result<Option<u64>> {
        let Some(text) = &self.size else {
            return Ok(None);
        };
        let bytes = size::parse(text)?;
        ensure!(
            bytes >= BLOCK && bytes.is_multiple_of(BLOCK),
            "'{text}' is no multiple of {BLOCK} bytes"
        );
        Ok(Some(bytes))
    }

    fn judge(&self) -> anyhow::Result<()> {
        let name = &self.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "'{name}' is no name for a target; use letters, digits, '_' and '.'"
        );
        let given = [
            self.device.is_some(),
            self.file.is_some(),
            self.nbd.is_some(),
        ];
        let count = given.iter().filter(|given| **given).count();
        ensure!(
            count == 1,
            "target '{name}' names {count} places; it needs exactly one of 'device', 'file' and 'nbd'"
        );
        self.bytes()
            .with_context(|| format!("the size of target '{name}'"))?;
        if let Some(uri) = &self.nbd {
            Export::parse(uri).with_context(|| format!("target '{name}'"))?;
        }
        Ok(())
    }
}

impl Workload {
    fn loads(&self) -> anyhow::Result<Vec<Load>> {
        let block = self.block.as_deref().map_or(Ok(BLOCK), size::parse)?;
        ensure!(
            block.is_multiple_of(BLOCK) && (BLOCK..=LARGEST).contains(&block),
            "a block is a multiple of {BLOCK} bytes and at most {}",
            size::text(LARGEST)
        );
        let reads = self.share_of_reads()?;
        let depths = match &self.depth {
            None => vec![1],
            Some(Depths::One(depth)) => vec![*depth],
            Some(Depths::Several(depths)) => depths.clone(),
        };
        ensure!(!depths.is_empty(), "the list of depths is empty");
        let is_log = self.kind == Kind::Log;
        let usual = is_log || block >= LARGE;
        let sequential = self.sequential.unwrap_or(usual);
        ensure!(
            sequential || !is_log,
            "a log is sequential; for scattered writes use kind = \"write\""
        );
        depths
            .into_iter()
            .map(|depth| {
                ensure!(
                    (1..=DEEPEST).contains(&depth),
                    "a depth is 1 to {DEEPEST}, not {depth}"
                );
                ensure!(
                    depth == 1 || !is_log,
                    "a log is written at depth 1, not {depth}; for more use kind = \"write\" and sequential = true"
                );
                Ok(Load {
                    name: name(self.kind, block, depth, sequential, usual),
                    kind: self.kind,
                    block: u32::try_from(block)?,
                    depth,
                    reads,
                    sequential,
                })
            })
            .collect()
    }

    fn share_of_reads(&self) -> anyhow::Result<u8> {
        match (self.kind, self.reads) {
            (Kind::Mixed, Some(reads)) if !(1..=99).contains(&reads) => {
                bail!("'reads' of a mix is 1 to 99 percent, not {reads}")
            }
            (Kind::Mixed, reads) => Ok(reads.unwrap_or(70)),
            (_, Some(_)) => bail!("'reads' belongs to kind = \"mixed\" only"),
            (Kind::Read, None) => Ok(100),
            (Kind::Write | Kind::Log, None) => Ok(0),
        }
    }
}

fn name(kind: Kind, block: u64, depth: usize, sequential: bool, usual: bool) -> String {
    let letter = match kind {
        Kind::Write => "w",
        Kind::Read => "r",
        Kind::Mixed => "m",
        Kind::Log => "log",
    };
    let order = match (sequential, usual) {
        (true, false) => "s",
        (false, true) => "x",
        _ => "",
    };
    let size = match block {
        BLOCK if order.is_empty() => String::new(),
        _ if block.is_multiple_of(1 << 20) => format!("{}m", block >> 20),
        _ => format!("{}k", block >> 10),
    };
    format!("{size}{order}{letter}{depth}")
}

/// Where an NBD export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Export {
    /// Behind a Unix socket.
    Unix(PathBuf, String),
    /// At HOST:PORT.
    Tcp(String, String),
}

impl Export {
    /// A URI as libnbd and QEMU take it.
    ///
    /// # Errors
    /// It is none of those that can be measured here.
    pub fn parse(uri: &str) -> anyhow::Result<Self> {
        const FORMS: &str = "write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH";
        if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
            let socket = rest.split_once("?socket=");
            let (export, socket) = socket.with_context(|| format!("'{uri}': {FORMS}"))?;
            ensure!(!socket.is_empty(), "'{uri}' names no socket: {FORMS}");
            return Ok(Self::Unix(socket.into(), export.into()));
        }
        let rest = uri
            .strip_prefix("nbd://")
            .with_context(|| format!("'{uri}' is no NBD export: {FORMS}"))?;
        let (address, export) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!address.is_empty(), "'{uri}' names no host: {FORMS}");
        let port = address.rsplit_once(':').map(|(_, port)| port);
        let has_port = port.is_some_and(|port| port.parse::<u16>().is_ok());
        let address = match has_port {
            true => address.to_owned(),
            false => format!("{address}:10809"),
        };
        Ok(Self::Tcp(address, export.into()))
    }
}

#[cfg(test)]
mod tests;
