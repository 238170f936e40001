//! What is measured, by name: `WHERE-KINDdepth`, where `WHERE` is `raw` (one file), `three` (three files
//! at once, throughput ÷ 3), `floor` (the minimal replicator), `qemu` (a quorum of three, where QEMU is
//! installed), `ls1` or `ls3` (Lockstep with one copy or three), and `KIND` a letter for what is done
//! (`w` writes, `r` reads, `m` 70 % reads) behind the size of a request where that is not 4 KiB, or
//! `log`: one write after the other, each flushed, as a database writes its log.
//!
//! Besides: `ls3-manyN` (N volumes at once at depth 4), `ls3-idleN` (N attached volumes without a request),
//! `ls3-quiet` and `ls3-quiet-beside` (a volume at depth 1 alone, and beside one at depth 64), `ls3-resync-wN`
//! (while a copy is brought up to date), `ls3-w16-pacedP` (at P percent of the rate at which it goes unpaced just
//! before), `ls3-worn-wN` (after the pool has been overwritten twice), and
//! `postgres-file` and `postgres-ls3` (pgbench on ext4). Scrubbing has no measurement of its own: a pass
//! takes a week and goes on at that rate all the time.

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
    /// A load on a volume of its own, beside one on another if there is one.
    Quiet(Workload, Option<Workload>),
    /// A load at so many percent of the rate that it reaches by itself just before.
    Paced(u8, Workload),
    /// A load while a copy is brought up to date.
    Resync(Workload),
    /// A load after the pool has been overwritten twice.
    Worn(Workload),
    /// So many attached volumes, and no load.
    Idle(usize),
    /// A load on so many volumes at once.
    Many(usize, Workload),
    /// A database.
    Postgres(Place),
}

/// Where a database lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On a file, through a loop device.
    File,
    /// On a volume, through its block device.
    Volume,
}

/// What is measured with what: each room is made and put away by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Nothing of it but files, or a cluster with a few volumes, all of it interleaved.
    Main,
    /// A cluster with many volumes.
    Crowd,
    /// A cluster with a block device, and a database on it.
    Database,
}

impl What {
    /// The export that it is a load on, if it is one: a volume, or [`PEER`].
    pub fn export(&self) -> Option<&'static str> {
        match self {
            Self::Lockstep(volume, _) => Some(volume),
            Self::Peer(_) => Some(PEER),
            Self::Quiet(..) => Some(QUIET),
            Self::Paced(..) => Some(THREE),
            Self::Resync(_) => Some(RESYNCED),
            Self::Worn(_) => Some(WORN),
            Self::Floor(_) | Self::Idle(_) | Self::Many(..) | Self::Postgres(_) => None,
        }
    }

    /// Where it is measured.
    pub fn room(&self) -> Room {
        match self {
            Self::Idle(_) | Self::Many(..) => Room::Crowd,
            Self::Postgres(_) => Room::Database,
            _ => Room::Main,
        }
    }
}

/// The peer, where measurements and exports are named.
pub const PEER: &str = "qemu";

/// Volumes that are made if something needs them, with their copies.
pub const VOLUMES: [(&str, &str); 2] = [(THREE, "a=2,b=1"), ("one", "a=1")];
/// The volume of most loads, and the noisy neighbour.
pub const THREE: &str = "three";
/// See [`What::Quiet`].
pub const QUIET: &str = "quiet";
/// See [`What::Resync`]; of its own, because all of it is written anew.
pub const RESYNCED: &str = "resynced";
/// See [`What::Worn`]; of its own, because it fills the pool.
pub const WORN: &str = "worn";

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
        plan.push(plain_floor(depth));
        plan.push(lockstep("three", Kind::Write, 4096, depth, extent));
        plan.push(lockstep("one", Kind::Write, 4096, depth, extent));
        plan.push(raw(Kind::Read, 4096, depth));
        plan.push(lockstep("three", Kind::Read, 4096, depth, extent));
        plan.push(peer(Kind::Write, 4096, depth, extent));
        plan.push(peer(Kind::Read, 4096, depth, extent));
    }
    for depth in [32, 128] {
        plan.push(lockstep("three", Kind::Write, 4096, depth, extent));
    }
    for block in [16 << 10, 64 << 10] {
        plan.push(lockstep("three", Kind::Write, block, 16, extent));
    }
    plan.push(raw_log());
    plan.push(lockstep("three", Kind::Log, 4096, 1, extent));
    for kind in [Kind::Write, Kind::Read] {
        plan.push(match kind {
            Kind::Write => three_files(1 << 20, 4),
            _ => raw(kind, 1 << 20, 4),
        });
        plan.push(lockstep("three", kind, 1 << 20, 4, extent));
        plan.push(peer(kind, 1 << 20, 4, extent));
    }
    plan.extend(beside(extent));
    plan.extend(crowd(&[1, 8, 64], &[1, 100], extent));
    plan.extend([Place::File, Place::Volume].map(postgres));
    plan
}

/// Those of the targets that no target needs, and that a short run leaves out.
const NOT_QUICK: [&str; 4] = ["raw-w1", "raw-w16", "ls3-w32", "ls3-many8"];

/// What the targets ask for, and little else.
pub fn quick(extent: Extent) -> Vec<Measurement> {
    let mut plan = targets(extent);
    plan.retain(|it| !NOT_QUICK.contains(&it.name.as_str()));
    plan
}

/// A load while something else goes on.
fn beside(extent: Extent) -> Vec<Measurement> {
    let quiet = load(Kind::Write, 4096, 1, extent);
    let noise = load(Kind::Write, 4096, 64, extent);
    let named = |name: &str, what: What| Measurement {
        name: name.into(),
        what,
    };
    vec![
        named("ls3-quiet", What::Quiet(quiet.clone(), None)),
        named("ls3-quiet-beside", What::Quiet(quiet, Some(noise))),
        named(
            "ls3-resync-w4",
            What::Resync(load(Kind::Write, 4096, 4, extent)),
        ),
        named(
            "ls3-w16-paced50",
            What::Paced(50, load(Kind::Write, 4096, 16, extent)),
        ),
        named(
            "ls3-w16-paced90",
            What::Paced(90, load(Kind::Write, 4096, 16, extent)),
        ),
    ]
}

/// So many volumes at once, so many idle ones; in an order in which they only become more.
fn crowd(busy: &[usize], idle: &[usize], extent: Extent) -> Vec<Measurement> {
    let workload = load(Kind::Write, 4096, 4, extent);
    let busy = busy.iter().map(|count| {
        let what = What::Many(
            *count,
            Workload {
                range: None,
                ..workload.clone()
            },
        );
        (*count, format!("ls3-many{count}"), what)
    });
    let idle = idle.iter();
    let idle = idle.map(|count| (*count, format!("ls3-idle{count}"), What::Idle(*count)));
    // Of the same count the idle ones first: they are fresh.
    let mut all: Vec<_> = idle.chain(busy).collect();
    all.sort_by_key(|(count, ..)| *count);
    all.into_iter()
        .map(|(_, name, what)| Measurement { name, what })
        .collect()
}

fn postgres(place: Place) -> Measurement {
    let name = match place {
        Place::File => "postgres-file",
        Place::Volume => "postgres-ls3",
    };
    Measurement {
        name: name.into(),
        what: What::Postgres(place),
    }
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
    plan.push(peer(Kind::Log, 4096, 1, extent));
    let worn = Workload {
        range: None,
        ..load(Kind::Write, 4096, 16, extent)
    };
    // Last in its room: it fills the pool for good.
    plan.push(Measurement {
        name: "ls3-worn-w16".into(),
        what: What::Worn(worn),
    });
    plan.extend(crowd(&[], &[1000], extent));
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

/// Each write is durable before the next one begins: what a flush behind each comes to.
fn raw_log() -> Measurement {
    Measurement {
        name: name("raw", Kind::Log, 4096, 1),
        what: What::Floor(words("raw --depth 1 --block 4096 --sequential")),
    }
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

/// The same without TLS and checksums: what those cost.
fn plain_floor(depth: usize) -> Measurement {
    Measurement {
        name: name("plain", Kind::Write, 4096, depth),
        what: What::Floor(words(&format!("replicate --unix --depth {depth}"))),
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
        fua: false,
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
        for wanted in [
            "ls3-w1",
            "floor-w16",
            "three-1mw4",
            "raw-1mr4",
            "ls3-w32",
            "ls3-w128",
            "ls3-16kw16",
            "ls3-log1",
            "ls3-many64",
            "ls3-idle100",
            "ls3-resync-w4",
        ] {
            assert!(
                names(&some).contains(&wanted),
                "{wanted}: {:?}",
                names(&some)
            );
        }
        for wanted in [
            "ls3-64km128",
            "ls1-log1",
            "raw-16kr4",
            "floor-w32",
            "ls3-worn-w16",
            "ls3-idle1000",
        ] {
            assert!(names(&all).contains(&wanted), "{wanted}: {:?}", names(&all));
        }
    }

    #[test]
    fn a_short_run_has_what_the_targets_need() {
        let (some, all) = (quick(EXTENT), targets(EXTENT));
        assert_eq!(some.len(), all.len() - NOT_QUICK.len());
        for target in crate::table::TARGETS {
            for needed in target.needs() {
                assert!(names(&some).contains(&needed), "{needed}");
            }
        }
    }

    #[test]
    fn a_crowd_only_grows() {
        let plan = full(EXTENT);
        let counts: Vec<usize> = plan
            .iter()
            .filter_map(|it| match it.what {
                What::Idle(count) | What::Many(count, _) => Some(count),
                _ => None,
            })
            .collect();
        assert_eq!(counts, [1, 1, 8, 64, 100, 1000]);
        assert!(matches!(
            plan.iter()
                .find(|it| it.what.room() == Room::Crowd)
                .map(|it| &it.what),
            Some(What::Idle(1))
        ));
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
