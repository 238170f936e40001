//! A refusal in words: what cannot be, why, and what would help.

use crate::refusal::{Area, Refusal, Shortage};
use crate::topology::Fitness;
use crate::{Grammar, MAX_COPIES};
use lockstep_types::{EXTENT, FaultDomain};
use std::fmt;

/// Nodes named in one message at most.
const NAMED: usize = 5;

/// The refusal as one or two sentences for a person.
pub fn explain(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoSites => {
            "no data node has joined the cluster: join one ('lockstep node join') and give it a pool".into()
        }
        Refusal::UnknownSite { site, known } => {
            format!("site '{site}' has no data node; the sites there are: {}", known.join(", "))
        }
        Refusal::TooManyCopies { copies } => {
            format!("{copies} copies are asked for; 1 to {MAX_COPIES} are possible")
        }
        Refusal::Contradiction { site, copies } => format!(
            "{copies} copies are asked for in {}, but with the fault domain 'site' no two may share one: \
             ask for 1 there, or for the fault domain 'zone', 'rack' or 'node'",
            if site == "*" { "each site".into() } else { format!("site '{site}'") }
        ),
        Refusal::TooFew(shortage) => too_few(shortage),
        Refusal::Local { node, why } => {
            format!("a copy must be on node '{node}', but {why}; choose another node or do not require a local copy")
        }
        Refusal::Satisfied => {
            "every copy that is asked for exists; change the volume's copies first to have more".into()
        }
        Refusal::UnknownNode { node } => {
            format!("a copy is on node {node}, which is not in the cluster; remove that copy first")
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&explain(self))
    }
}

impl std::error::Error for Refusal {}

fn too_few(shortage: &Shortage) -> String {
    let place = match &shortage.area {
        Area::Anywhere => "the cluster".to_owned(),
        Area::Site(site) => format!("site {site}"),
    };
    let level = level_name(shortage.level, shortage.found);
    let mut text = format!(
        "{place} has {} {level} with space for a copy of {}; {} {} needed",
        shortage.found,
        size(shortage.extents),
        shortage.needed,
        if shortage.needed == 1 { "is" } else { "are" },
    );
    let mut reasons = Vec::new();
    let down = names(
        shortage
            .unfit
            .iter()
            .filter(|(_, fit)| *fit == Fitness::Down)
            .map(|(name, _)| name),
    );
    let cordoned = names(
        shortage
            .unfit
            .iter()
            .filter(|(_, fit)| *fit == Fitness::Cordoned)
            .map(|(name, _)| name),
    );
    if let Some(down) = down {
        reasons.push(format!("not answering: {down}"));
    }
    if let Some(cordoned) = cordoned {
        reasons.push(format!("cordoned: {cordoned}"));
    }
    let full = shortage
        .full
        .iter()
        .map(|(name, free)| format!("{name} ({} free)", size(*free)));
    let full: Vec<_> = full.collect();
    if let Some(full) = names(full.iter()) {
        reasons.push(format!("too full: {full}"));
    }
    if let Some(crowded) = names(shortage.crowded.iter()) {
        reasons.push(format!("holding as many copies as they can: {crowded}"));
    }
    if let Some(shared) = names(shortage.shared.iter()) {
        let one = level_name(shortage.level, 1);
        reasons.push(format!("sharing a {one} with another copy: {shared}"));
    }
    if shortage.nodes == 0 {
        reasons.push("no data node is there".into());
    }
    if !reasons.is_empty() {
        text.push_str(&format!(" ({})", reasons.join("; ")));
    }
    format!("{text}: {}", remedy(shortage, &place))
}

/// What would help, the nearest first.
fn remedy(shortage: &Shortage, place: &str) -> String {
    let mut ways = Vec::new();
    if shortage.unfit.iter().any(|(_, fit)| *fit == Fitness::Down) {
        ways.push("bring the silent node back".to_owned());
    }
    if shortage
        .unfit
        .iter()
        .any(|(_, fit)| *fit == Fitness::Cordoned)
    {
        ways.push("uncordon a node".to_owned());
    }
    if !shortage.full.is_empty() {
        ways.push("add a pool or free space".to_owned());
    }
    if !shortage.crowded.is_empty() {
        ways.push("add a pool, or make one with a larger journal".to_owned());
    }
    let missing = shortage.needed.saturating_sub(shortage.found);
    ways.push(match (shortage.level, missing) {
        (FaultDomain::Node, 1) => format!("add a node with space to {place}"),
        (FaultDomain::Node, n) => format!("add {n} nodes with space to {place}"),
        (level, n) => format!("add nodes in {n} more {} of {place}", level_name(level, n)),
    });
    if shortage.level != FaultDomain::Node && !shortage.shared.is_empty() {
        ways.push("choose a narrower fault domain".to_owned());
    }
    let fewer = Grammar::Count(shortage.found);
    if shortage.found > 0 && shortage.area == Area::Anywhere {
        ways.push(format!(
            "ask for {fewer} {}",
            if shortage.found == 1 {
                "copy"
            } else {
                "copies"
            }
        ));
    }
    ways.join(", or ")
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> Option<String> {
    let all: Vec<_> = all.map(String::as_str).collect();
    let mut text = all
        .iter()
        .take(NAMED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > NAMED {
        text.push_str(&format!(" and {} more", all.len() - NAMED));
    }
    (!all.is_empty()).then_some(text)
}

fn level_name(level: FaultDomain, count: u32) -> &'static str {
    match (level, count) {
        (FaultDomain::Site, 1) => "site",
        (FaultDomain::Site, _) => "sites",
        (FaultDomain::Zone, 1) => "zone",
        (FaultDomain::Zone, _) => "zones",
        (FaultDomain::Rack, 1) => "rack",
        (FaultDomain::Rack, _) => "racks",
        (FaultDomain::Node, 1) => "node",
        (FaultDomain::Node, _) => "nodes",
    }
}

/// Extents as bytes for people.
fn size(extents: u64) -> String {
    let bytes = extents.saturating_mul(EXTENT as u64);
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20)];
    for (unit, shift) in units {
        if bytes >= 1 << shift {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                tenth => format!("{}.{tenth} {unit}", tenths / 10),
            };
        }
    }
    format!("{} KiB", bytes >> 10)
}
