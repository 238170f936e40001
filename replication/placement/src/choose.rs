//! The choice: greedy, one copy at a time, over a laminar family of fault domains.
//!
//! Every copy takes one domain at the level that no two copies may share, whichever node of it is
//! taken, so the number of copies that can be placed does not depend on the order of picks: a
//! greedy choice fails only if every choice does. Taking each time the least loaded site, then zone,
//! rack and node keeps the spread even at all levels at once.

use crate::refusal::{Area, Refusal, Shortage};
use crate::topology::{Domain, Fitness, Host, Topology};
use crate::{Grammar, MAX_COPIES};
use lockstep_types::{DeviceId, FaultDomain, NodeId};
use std::cmp::Reverse;

const LEVELS: [FaultDomain; 4] = [
    FaultDomain::Site,
    FaultDomain::Zone,
    FaultDomain::Rack,
    FaultDomain::Node,
];

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// How many copies where.
    pub copies: Grammar,
    /// The narrowest level that no two copies may share.
    pub fault_domain: FaultDomain,
    /// Extents a copy needs.
    pub extents: u64,
    /// Where the volume will be used, if that is known.
    pub local: Option<Local>,
}

/// The node on which a volume will be used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Local {
    /// The node.
    pub node: NodeId,
    /// Whether a copy must be there; otherwise it is only preferred.
    pub required: bool,
}

/// Where one copy goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// Its pool.
    pub device: DeviceId,
}

/// Where a copy is.
pub type Held = Choice;

/// Places all copies of a new volume. The same request on the same topology, in whatever order it
/// is listed, gives the same answer.
///
/// # Errors
/// [`Refusal`]; nothing is placed in part.
pub fn choose(request: &Request, topology: &Topology) -> Result<Vec<Choice>, Refusal> {
    let sites = topology.data_sites();
    request.copies.check(request.fault_domain, &sites)?;
    let mut draft = Draft::new(request, topology, &[], None)?;
    draft.check_local()?;
    match &request.copies {
        Grammar::Count(n) => draft.place(&Area::Anywhere, *n)?,
        Grammar::Sites(wanted) => {
            for (site, n) in wanted {
                draft.place(&Area::Site(site.clone()), *n)?;
            }
        }
        Grammar::EachSite(n) => {
            for site in &sites {
                draft.place(&Area::Site(site.clone()), *n)?;
            }
        }
    }
    Ok(draft.into_choices())
}

/// Places the next copy that the grammar asks for beside those that exist.
///
/// # Errors
/// [`Refusal::Satisfied`] if nothing is missing, otherwise why it cannot be placed.
pub fn add_one(
    existing: &[Held],
    request: &Request,
    topology: &Topology,
) -> Result<Choice, Refusal> {
    let sites = topology.data_sites();
    request.copies.check(request.fault_domain, &sites)?;
    let mut draft = Draft::new(request, topology, existing, None)?;
    let missing = |site: &str| {
        let wanted = request.copies.wanted_in(site).unwrap_or(0);
        wanted > draft.copies_in(site)
    };
    let area = match &request.copies {
        Grammar::Count(n) if existing.len() < *n as usize => Area::Anywhere,
        Grammar::Count(_) => return Err(Refusal::Satisfied),
        Grammar::Sites(_) | Grammar::EachSite(_) => {
            let site = sites
                .iter()
                .find(|site| missing(site))
                .ok_or(Refusal::Satisfied)?;
            Area::Site(site.clone())
        }
    };
    draft.place(&area, 1)?;
    Ok(draft.last())
}

/// Places a copy that takes the place of `leaving`: in its site if the grammar names sites,
/// elsewhere than on its pool, sharing no fault domain with the others.
///
/// # Errors
/// [`Refusal`].
pub fn replace(
    existing: &[Held],
    leaving: Held,
    request: &Request,
    topology: &Topology,
) -> Result<Choice, Refusal> {
    request
        .copies
        .check(request.fault_domain, &topology.data_sites())?;
    let host = topology
        .host(leaving.node)
        .ok_or(Refusal::UnknownNode { node: leaving.node })?;
    let others: Vec<_> = existing
        .iter()
        .copied()
        .filter(|held| *held != leaving)
        .collect();
    let mut draft = Draft::new(request, topology, &others, Some(leaving.device))?;
    let area = match request.copies {
        Grammar::Count(_) => Area::Anywhere,
        Grammar::Sites(_) | Grammar::EachSite(_) => Area::Site(host.site.clone()),
    };
    draft.place(&area, 1)?;
    Ok(draft.last())
}

/// A choice in the making.
struct Draft<'a> {
    request: &'a Request,
    topology: &'a Topology,
    /// A pool that is not to be taken.
    barred: Option<DeviceId>,
    /// Nodes of all copies: those that exist first, then those placed here.
    taken: Vec<&'a Host>,
    placed: Vec<Choice>,
}

impl<'a> Draft<'a> {
    fn new(
        request: &'a Request,
        topology: &'a Topology,
        existing: &[Held],
        barred: Option<DeviceId>,
    ) -> Result<Self, Refusal> {
        let host = |held: &Held| {
            topology
                .host(held.node)
                .ok_or(Refusal::UnknownNode { node: held.node })
        };
        let taken = existing.iter().map(host).collect::<Result<_, _>>()?;
        Ok(Self {
            request,
            topology,
            barred,
            taken,
            placed: Vec::new(),
        })
    }

    /// Refuses at once if a copy must be on the local node and cannot.
    fn check_local(&self) -> Result<(), Refusal> {
        let Some(Local {
            node,
            required: true,
        }) = self.request.local
        else {
            return Ok(());
        };
        let Some(host) = self.topology.host(node) else {
            return Err(Refusal::Local {
                node: node.to_string(),
                why: "it has not joined".into(),
            });
        };
        let why = if !host.holds_data() {
            "it is a witness and holds no data".into()
        } else if host.fitness == Fitness::Cordoned {
            "it is cordoned".into()
        } else if host.fitness == Fitness::Down {
            "it does not answer".into()
        } else if self.request.copies.wanted_in(&host.site) == Some(0) {
            format!(
                "'{}' asks for no copy in its site '{}'",
                self.request.copies, host.site
            )
        } else if self.best_pool(host).is_none() {
            format!(
                "none of its pools has {} extents and a place free",
                self.request.extents
            )
        } else {
            return Ok(());
        };
        Err(Refusal::Local {
            node: host.name.clone(),
            why,
        })
    }

    /// Places so many more copies in an area.
    fn place(&mut self, area: &Area, count: u32) -> Result<(), Refusal> {
        assert!(count <= MAX_COPIES, "the grammar was checked");
        for found in 0..count {
            let Some((host, choice)) = self.best(area) else {
                return Err(Refusal::TooFew(Box::new(self.shortage(area, count, found))));
            };
            self.taken.push(host);
            self.placed.push(choice);
        }
        Ok(())
    }

    /// The best place for one more copy: the least loaded domains from the widest down, the local
    /// node, the most free space, the smallest id.
    fn best(&self, area: &Area) -> Option<(&'a Host, Choice)> {
        let fitting = self
            .hosts_in(area)
            .filter(|host| host.fitness == Fitness::Usable);
        let apart = fitting.filter(|host| !self.shares(host));
        let candidates = apart.filter_map(|host| self.best_pool(host).map(|pool| (host, pool)));
        let best = candidates.min_by_key(|(host, (free, device))| {
            let load = LEVELS.map(|level| self.load(host.domain(level), level));
            let away = self.request.local.is_none_or(|local| local.node != host.id);
            (load, away, Reverse(*free), host.id, *device)
        });
        best.map(|(host, (_, device))| {
            (
                host,
                Choice {
                    node: host.id,
                    device,
                },
            )
        })
    }

    /// The pool of a node with the most room, if it is enough.
    fn best_pool(&self, host: &Host) -> Option<(u64, DeviceId)> {
        let fit = host.pools.iter().filter(|pool| {
            pool.has_place
                && pool.free_extents >= self.request.extents
                && Some(pool.device) != self.barred
        });
        let best = fit.min_by_key(|pool| (Reverse(pool.free_extents), pool.device));
        best.map(|pool| (pool.free_extents, pool.device))
    }

    fn hosts_in(&self, area: &Area) -> impl Iterator<Item = &'a Host> {
        let topology = self.topology;
        topology.hosts.iter().filter(move |host| {
            let inside = match area {
                Area::Anywhere => true,
                Area::Site(site) => host.site == *site,
            };
            inside && host.holds_data()
        })
    }

    /// Whether a copy is already in the node's domain at the level that no two may share.
    fn shares(&self, host: &Host) -> bool {
        let level = self.request.fault_domain;
        self.load(host.domain(level), level) > 0
    }

    fn load(&self, domain: Domain<'_>, level: FaultDomain) -> usize {
        self.taken
            .iter()
            .filter(|host| host.domain(level) == domain)
            .count()
    }

    fn copies_in(&self, site: &str) -> u32 {
        self.taken.iter().filter(|host| host.site == site).count() as u32
    }

    fn shortage(&self, area: &Area, needed: u32, found: u32) -> Shortage {
        let mut hosts: Vec<_> = self.hosts_in(area).collect();
        hosts.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let mut shortage = Shortage {
            area: area.clone(),
            level: self.request.fault_domain,
            needed,
            found,
            extents: self.request.extents,
            nodes: hosts.len() as u32,
            unfit: Vec::new(),
            full: Vec::new(),
            crowded: Vec::new(),
            shared: Vec::new(),
        };
        for host in hosts {
            let with_place = host.pools.iter().filter(|pool| pool.has_place);
            let most_free = with_place.map(|pool| pool.free_extents).max();
            if host.fitness != Fitness::Usable {
                shortage.unfit.push((host.name.clone(), host.fitness));
            } else if self.best_pool(host).is_none() {
                match most_free {
                    None if !host.pools.is_empty() => shortage.crowded.push(host.name.clone()),
                    free => shortage.full.push((host.name.clone(), free.unwrap_or(0))),
                }
            } else {
                shortage.shared.push(host.name.clone());
            }
        }
        shortage
    }

    fn last(&self) -> Choice {
        *self.placed.last().expect("place() placed one")
    }

    fn into_choices(self) -> Vec<Choice> {
        self.placed
    }
}
