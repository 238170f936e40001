//! Small clusters to judge over: nodes are called as in Kubernetes, volumes have sizes in GiB.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::Arc;

use lockstep_placement::{Grammar, Space};
use lockstep_types::{DeviceId, FaultDomain, Locality, NodeId, NodeRole, VolumeId, seconds};
use lockstep_verdict::cluster::{Cluster, Machine};
use lockstep_verdict::filter::filter;
use lockstep_verdict::prioritize::prioritize;
use lockstep_verdict::reason::Reason;
use lockstep_verdict::storage::{Copy, Heard, Member, Storage, Volume};
use lockstep_verdict::wanted::{Source, Wanted, WantedVolume, Wish};

pub const GIB: u64 = 1 << 30;
/// When everything here was heard.
pub const HEARD: u64 = seconds(1000);

/// A data node with one pool of 100 GiB, at `site`, `site/zone` or `site/zone/rack`.
pub fn member(name: &str, at: &str) -> Member {
    let mut parts = at.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let id = name.bytes().fold(7_u128, |id, b| {
        id.wrapping_mul(257).wrapping_add(u128::from(b))
    });
    Member {
        id: NodeId::from_u128(id),
        name: name.to_owned(),
        site: next(),
        zone: next(),
        rack: next(),
        role: NodeRole::Data,
        answering: true,
        cordoned: false,
        attachments: 0,
        pools: vec![Space {
            device: DeviceId::from_u128(id),
            name: "p0".to_owned(),
            free_extents: 100 * GIB / (256 << 10),
            has_place: true,
        }],
    }
}

pub fn certified(node: &str) -> Copy {
    Copy {
        node: node.to_owned(),
        certified: true,
        able: true,
        leaving: false,
        sealed_off: false,
        verified: 0,
    }
}

/// A copy that is being resynced.
pub fn resyncing(node: &str, verified: u16) -> Copy {
    Copy {
        certified: false,
        able: false,
        verified,
        ..certified(node)
    }
}

pub fn volume(id: u128, gib: u64, copies: Vec<Copy>) -> Volume {
    Volume {
        id: VolumeId::from_u128(id),
        bytes: gib * GIB,
        locality: Locality::Prefer,
        strict: false,
        wanted: Some(Grammar::Count(2)),
        preferred_site: String::new(),
        primary: String::new(),
        attached: String::new(),
        copies,
    }
}

/// A claim that is bound to the volume.
pub fn bound(id: u128) -> WantedVolume {
    WantedVolume {
        claim: format!("claim-{id}"),
        source: Source::Bound(VolumeId::from_u128(id)),
        users: Vec::new(),
    }
}

pub fn wish(copies: &str, fault_domain: FaultDomain, locality: Locality) -> Wish {
    Wish {
        class: format!("{copies} {fault_domain:?} {locality:?}"),
        copies: copies.parse().expect("a grammar"),
        fault_domain,
        locality,
    }
}

/// A claim without a volume.
pub fn unbound(wish: Wish, gib: u64) -> WantedVolume {
    WantedVolume {
        claim: format!("new-{gib}"),
        source: Source::Unbound {
            wish: Some(Arc::new(wish)),
            bytes: gib * GIB,
        },
        users: Vec::new(),
    }
}

pub fn pod(volumes: Vec<WantedVolume>) -> Wanted {
    Wanted {
        locality: None,
        volumes,
    }
}

/// What was heard, its nodes called the same in Kubernetes, all of them ready.
#[derive(Debug)]
pub struct World {
    pub heard: Heard,
    pub machines: Vec<Machine>,
    pub now: u64,
}

impl World {
    pub fn new(members: Vec<Member>, volumes: Vec<Volume>) -> Self {
        let machine = |it: &Member| Machine {
            name: it.name.clone(),
            member: it.name.clone(),
            ready: true,
        };
        Self {
            machines: members.iter().map(machine).collect(),
            heard: Heard {
                at: Some(HEARD),
                members,
                volumes,
                links: Vec::new(),
            },
            now: HEARD,
        }
    }

    /// Two sites of two racks of two nodes: a-r1-1, a-r1-2, a-r2-1, … in zones za and zb.
    pub fn metro(volumes: Vec<Volume>) -> Self {
        let mut members = Vec::new();
        for site in ["a", "b"] {
            for rack in ["r1", "r2"] {
                for node in ["1", "2"] {
                    let at = format!("{site}/z{site}/{rack}");
                    members.push(member(&format!("{site}-{rack}-{node}"), &at));
                }
            }
        }
        Self::new(members, volumes)
    }

    pub fn member(&mut self, name: &str) -> &mut Member {
        let found = self.heard.members.iter_mut().find(|it| it.name == name);
        found.expect("a node of that name")
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(Arc::new(Storage::new(self.heard.clone())), &self.machines)
    }

    pub fn names(&self) -> Vec<&str> {
        self.machines.iter().map(|it| it.name.as_str()).collect()
    }

    pub fn score(&self, wanted: &Wanted, node: &str) -> u8 {
        prioritize(&self.cluster(), self.now, wanted, [node])[0]
    }

    pub fn refusal(&self, wanted: &Wanted, node: &str) -> Option<Reason> {
        filter(&self.cluster(), self.now, wanted, [node])[0]
    }

    /// The nodes that stay.
    pub fn stay(&self, wanted: &Wanted) -> Vec<&str> {
        let verdicts = filter(&self.cluster(), self.now, wanted, self.names());
        let both = self.names().into_iter().zip(verdicts);
        both.filter(|(_, refused)| refused.is_none())
            .map(|(name, _)| name)
            .collect()
    }
}
