//! What is measured, by name: `WHERE-KINDdepth`, where `WHERE` is `raw` (one file), `three` (three files
//! at once, throughput ÷ 3), `floor` (the minimal replicator), `qemu` (a quorum of three, where QEMU is
//! installed), `ls1` or `ls3` (Lockstep with one copy or three), and `KIND` a letter for what is done (`w` writes, `r` reads, `m` 70 % reads) behind the size of
//! a request where that is not 4 KiB.

use crate::load::Workload;

/// One measurement.
pub struct Measurement {
    /// Its name, and the key of its results.
    pub name: String,
    /// What is done.
    pub what: What,
}

/// What is done.
pub enum What {
    /// `lockstep-floor` with these arguments.
    Floor(Vec<String>),
    /// A load on a volume of [`VOLUMES`].
    Lockstep(&'static str, Workload),
    /// A load on the peer.
    Peer(Workload),
}

impl What {
    /// The export that it is a load on, if it is one: a volume, or [`PEER`].
    pub fn export(&self) -> Option<&'static str> {
        match self {
            Self::Floor(_) => None,
            Self::Lockstep(volume, _) => Some(volume),
            Self::Peer(_) => Some(PEER),
        }
    }
}

/// The peer, where measurements and exports are named.
pub const PEER: &str = "qemu";

/// The volumes that are made, with their copies.
pub const VOLUMES: [(&str, &str); 2] = [("three", "a=2,b=1"), ("one", "a=1")];

/// Request sizes and depths of the whole matrix.
const BLOCKS: [u32; 3] = [4096, 16 << 10, 64 << 10];
const DEPTHS: [usize; 5] = [1, 4, 16, 32, 128];
/// The minimal replicator has a thread in each of four processes for each lane.
const FLOOR_DEPTHS: [usize; 4] = [1, 4, 16, 32];

/// Seconds measured, seconds before, bytes of the volumes that are used.
#[derive(Clone, Copy)]
pub struct Extent {
    /// Seconds of each measurement.
    pub seconds: u64,
    /// Seconds of load before it.
    pub warm: u64,
    /// Bytes from the beginning of the volume.
    pub set: u64,
}

/// What the targets ask for.
pub fn targets(extent: Extent) -> Vec<Measurement> {
    let mut plan = Vec::new();
    for depth in [1, 16] {
        plan.push(raw(Kind::Write, 4096, depth));
        plan.push(three_files(4096, depth));
        plan.push(floor(depth));
        plan.push(lockstep("three", Kind::Write, 4096, depth, extent));
        plan.push(lockstep("one", Kind::Write, 4096, depth, extent));
        plan.push(raw(Kind::Read, 4096, depth));
        plan.push(lockstep("three", Kind::Read, 4096, depth, extent));
        plan.push(peer(Kind::Write, 4096, depth, extent));
        plan.push(peer(Kind::Read, 4096, depth, extent));
    }
    plan.push(lockstep("three", Kind::Write, 4096, 32, extent));
    for kind in [Kind::Write, Kind::Read] {
        plan.push(match kind {
            Kind::Write => three_files(1 << 20, 4),
            _ => raw(kind, 1 << 20, 4),
        });
        plan.push(lockstep("three", kind, 1 << 20, 4, extent));
        plan.push(peer(kind, 1 << 20, 4, extent));
    }
    plan
}

/// Every size, kind and depth, and a database's log.
pub fn full(extent: Extent) -> Vec<Measurement> {
    let mut plan = targets(extent);
    for block in BLOCKS {
        for depth in DEPTHS {
            for kind in [Kind::Write, Kind::Read, Kind::Mixed] {
                if kind != Kind::Mixed {
                    plan.push(raw(kind, block, depth));
                }
                if kind == Kind::Write {
                    plan.push(three_files(block, depth));
                }
                for (volume, _) in VOLUMES {
                    plan.push(lockstep(volume, kind, block, depth, extent));
                }
            }
        }
    }
    plan.extend(FLOOR_DEPTHS.map(floor));
    for (volume, _) in VOLUMES {
        plan.push(lockstep(volume, Kind::Log, 4096, 1, extent));
    }
    let mut seen = std::collections::BTreeSet::new();
    plan.retain(|measurement| seen.insert(measurement.name.clone()));
    plan
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Write,
    Read,
    Mixed,
    Log,
}

impl Kind {
    fn reads(self) -> u8 {
        match self {
            Self::Read => 100,
            Self::Mixed => 70,
            Self::Write | Self::Log => 0,
        }
    }
}

/// Large requests go one after the other.
fn is_sequential(block: u32) -> bool {
    block >= 1 << 20
}

fn name(place: &str, kind: Kind, block: u32, depth: usize) -> String {
    let kind = match kind {
        Kind::Write => "w",
        Kind::Read => "r",
        Kind::Mixed => "m",
        Kind::Log => "log",
    };
    match block {
        4096 => format!("{place}-{kind}{depth}"),
        _ if block >= 1 << 20 => format!("{place}-{}m{kind}{depth}", block >> 20),
        _ => format!("{place}-{}k{kind}{depth}", block >> 10),
    }
}

fn raw(kind: Kind, block: u32, depth: usize) -> Measurement {
    let mut arguments = format!("raw --depth {depth} --block {block}");
    if kind == Kind::Read {
        arguments.push_str(" --read");
    }
    files("raw", kind, block, depth, arguments)
}

fn three_files(block: u32, depth: usize) -> Measurement {
    let arguments = format!("raw --files 3 --depth {depth} --block {block}");
    files("three", Kind::Write, block, depth, arguments)
}

fn files(place: &str, kind: Kind, block: u32, depth: usize, mut arguments: String) -> Measurement {
    if is_sequential(block) {
        arguments.push_str(" --sequential");
    }
    Measurement {
        name: name(place, kind, block, depth),
        what: What::Floor(words(&arguments)),
    }
}

fn floor(depth: usize) -> Measurement {
    Measurement {
        name: name("floor", Kind::Write, 4096, depth),
        what: What::Floor(words(&format!(
            "replicate --unix --tls --checksums --depth {depth}"
        ))),
    }
}

fn words(arguments: &str) -> Vec<String> {
    arguments.split(' ').map(str::to_owned).collect()
}

fn lockstep(
    volume: &'static str,
    kind: Kind,
    block: u32,
    depth: usize,
    extent: Extent,
) -> Measurement {
    let place = if volume == "one" { "ls1" } else { "ls3" };
    let workload = load(kind, block, depth, extent);
    Measurement {
        name: name(place, kind, block, depth),
        what: What::Lockstep(volume, workload),
    }
}

fn peer(kind: Kind, block: u32, depth: usize, extent: Extent) -> Measurement {
    let workload = load(kind, block, depth, extent);
    Measurement {
        name: name(PEER, kind, block, depth),
        what: What::Peer(workload),
    }
}

fn load(kind: Kind, block: u32, depth: usize, extent: Extent) -> Workload {
    Workload {
        depth,
        seconds: extent.seconds as f64,
        warm: extent.warm as f64,
        block,
        range: Some(extent.set),
        reads: kind.reads(),
        sync: kind == Kind::Log,
        sequential: kind == Kind::Log || is_sequential(block),
        rate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent {
        seconds: 1,
        warm: 1,
        set: 1 << 28,
    };

    fn names(plan: &[Measurement]) -> Vec<&str> {
        plan.iter().map(|it| it.name.as_str()).collect()
    }

    #[test]
    fn the_targets_are_part_of_everything() {
        let (some, all) = (targets(EXTENT), full(EXTENT));
        assert_eq!(names(&all)[..some.len()], names(&some));
        for wanted in ["ls3-w1", "floor-w16", "three-1mw4", "raw-1mr4", "ls3-w32"] {
            assert!(
                names(&some).contains(&wanted),
                "{wanted}: {:?}",
                names(&some)
            );
        }
        for wanted in ["ls3-64km128", "ls1-log1", "raw-16kr4", "floor-w32"] {
            assert!(names(&all).contains(&wanted), "{wanted}: {:?}", names(&all));
        }
    }

    #[test]
    fn no_name_is_given_twice() {
        let plan = full(EXTENT);
        let mut sorted = names(&plan);
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), plan.len());
    }
}
