//! What Lockstep said at one time, arranged for judging: names become numbers, and what many nodes share
//! (a site, a zone, a rack) is found once.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_placement::{Fitness, Grammar, Host, Space, Topology, spreads_over};
use lockstep_types::{Locality, Nanos, NodeId, NodeRole, VolumeId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// A zone or rack that a node does not name: it is near nobody there.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Extents beyond which more room makes no difference: a thousand times as much can be counted.
const MOST_ROOM: u64 = u64::MAX / 1000;
/// A copy in full, in thousandths.
pub const WHOLE: u16 = 1000;

/// What was heard. The order of its lists is of no consequence.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// When, as [`crate::trust::Trust::at`] counts; none if nothing was heard yet.
    pub at: Option<Nanos>,
    /// The nodes.
    pub members: Vec<Member>,
    /// The volumes.
    pub volumes: Vec<Volume>,
    /// What is known of the ways between sites. A way that is not named is open and not measured.
    pub links: Vec<Link>,
}

/// A node of Lockstep.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its name; unique.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its zone inside the site; empty if it has none.
    pub zone: String,
    /// Its rack inside the zone; empty if it has none.
    pub rack: String,
    /// Witnesses serve no volumes.
    pub role: NodeRole,
    /// Whether its daemon is heard from.
    pub answering: bool,
    /// Whether an operator keeps new things away.
    pub cordoned: bool,
    /// Volumes attached there.
    pub attachments: u32,
    /// Its pools.
    pub pools: Vec<Space>,
}

/// A volume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its id: what a PersistentVolume calls its handle.
    pub id: VolumeId,
    /// Its size in bytes.
    pub bytes: u64,
    /// How hard pods are kept near its copies.
    pub locality: Locality,
    /// Whether writes wait rather than stand in fewer sites than promised.
    pub strict: bool,
    /// How many copies were asked for, and where, if that is understood.
    pub wanted: Option<Grammar>,
    /// The site that is to have it when nobody has.
    pub preferred_site: String,
    /// The node of its primary; empty if there is none.
    pub primary: String,
    /// The node that it is attached to; empty if there is none.
    pub attached: String,
    /// Its copies.
    pub copies: Vec<Copy>,
}

/// A copy of a volume.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The name of its node.
    pub node: String,
    /// In the in-sync set.
    pub certified: bool,
    /// Can serve now.
    pub able: bool,
    /// Is being removed.
    pub leaving: bool,
    /// Was overwritten by a forced promotion: it holds nothing that counts.
    pub sealed_off: bool,
    /// By how many thousandths its resync has been verified; 0 if it is not being resynced.
    pub verified: u16,
}

/// The way between two sites, in either direction.
#[derive(Clone, Debug)]
pub struct Link {
    /// One site and the other.
    pub sites: (String, String),
    /// How it is.
    pub state: LinkState,
}

/// How the way between two sites is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Nothing comes through.
    Cut,
    /// A measured round trip.
    RoundTrip(Nanos),
}

/// What was heard, arranged. Never changes.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    heard: Option<Nanos>,
    /// Nodes as placement sees them, by name; `places` has the same order.
    topology: Topology,
    places: Vec<Place>,
    by_name: FxHashMap<String, u32>,
    sites: Vec<Site>,
    /// The most that is free on one node of a zone, of a rack, in extents.
    zone_room: Vec<u64>,
    rack_room: Vec<u64>,
    links: BTreeMap<(u32, u32), LinkState>,
    volumes: BTreeMap<VolumeId, Stored>,
}

/// Where a node is and what it can do.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub site: u32,
    pub zone: u32,
    pub rack: u32,
    /// A data node that answers.
    pub serves: bool,
    pub cordoned: bool,
    /// Free extents of the pool with the most, if the node may be given a copy; otherwise 0.
    pub room: u64,
    pub attachments: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Site {
    pub name: String,
    pub data: u32,
    pub answering: u32,
    /// How many thousandths of its data nodes answer.
    pub health: i64,
    /// The most that is free on one of its nodes, in extents.
    pub room: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub bytes: u64,
    pub locality: Locality,
    /// Sites in which certified copies must be reached for it to serve: 1 or 2.
    pub sites_needed: usize,
    pub attached: Option<u32>,
    /// By node; one a node.
    pub copies: SmallVec<[StoredCopy; 4]>,
}

#[derive(Clone, Debug)]
pub(crate) struct StoredCopy {
    pub member: u32,
    /// Certified, able, and on a node that answers.
    pub serves: bool,
    pub leaving: bool,
    pub verified: u16,
    /// Place in the order of those that would take the volume over, from 0.
    pub rank: u32,
}

impl Storage {
    /// Arranges what was heard. Of nodes or volumes of the same name or id, one counts; copies on nodes that
    /// are not listed do not.
    pub fn new(heard: Heard) -> Self {
        let mut members = heard.members;
        members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        members.dedup_by(|b, a| a.name == b.name);
        let mut storage = Self {
            heard: heard.at,
            ..Self::default()
        };
        storage.arrange_places(members);
        for link in heard.links {
            let site = |name: &str| storage.site_named(name);
            if let (Some(a), Some(b)) = (site(&link.sites.0), site(&link.sites.1)) {
                storage.links.insert((a.min(b), a.max(b)), link.state);
            }
        }
        let data_sites = storage.topology.data_sites().len();
        let mut volumes = heard.volumes;
        volumes.sort_by_key(|volume| volume.id);
        for volume in volumes {
            let stored = storage.stored(&volume, data_sites);
            storage.volumes.insert(volume.id, stored);
        }
        storage
    }

    /// When it was heard; none if nothing was.
    pub fn heard(&self) -> Option<Nanos> {
        self.heard
    }

    /// Nodes and volumes, for people.
    pub fn counts(&self) -> (usize, usize) {
        (self.places.len(), self.volumes.len())
    }

    /// Whether a volume of that id was heard of.
    pub fn knows(&self, id: VolumeId) -> bool {
        self.volumes.contains_key(&id)
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    pub(crate) fn zones(&self) -> usize {
        self.zone_room.len()
    }

    pub(crate) fn racks(&self) -> usize {
        self.rack_room.len()
    }

    pub(crate) fn zone_room(&self, zone: u32) -> u64 {
        self.zone_room.get(zone as usize).copied().unwrap_or(0)
    }

    pub(crate) fn rack_room(&self, rack: u32) -> u64 {
        self.rack_room.get(rack as usize).copied().unwrap_or(0)
    }

    pub(crate) fn place(&self, member: u32) -> &Place {
        &self.places[member as usize]
    }

    pub(crate) fn site(&self, site: u32) -> &Site {
        &self.sites[site as usize]
    }

    pub(crate) fn member(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn volume(&self, id: VolumeId) -> Option<&Stored> {
        self.volumes.get(&id)
    }

    /// The way between two sites; none if it is open and not measured.
    pub(crate) fn link(&self, a: u32, b: u32) -> Option<LinkState> {
        self.links.get(&(a.min(b), a.max(b))).copied()
    }

    /// How many thousandths of a site's data nodes answer.
    pub(crate) fn health(&self, site: u32) -> i64 {
        self.site(site).health
    }

    fn arrange_places(&mut self, members: Vec<Member>) {
        let mut sites: BTreeSet<&str> = BTreeSet::new();
        let mut zones: BTreeSet<(&str, &str)> = BTreeSet::new();
        let mut racks: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
        for it in &members {
            sites.insert(&it.site);
            zones.insert((&it.site, &it.zone));
            racks.insert((&it.site, &it.zone, &it.rack));
        }
        let sites: Vec<_> = sites.into_iter().collect();
        let zones: Vec<_> = zones.into_iter().filter(|it| !it.1.is_empty()).collect();
        let racks: Vec<_> = racks.into_iter().filter(|it| !it.2.is_empty()).collect();
        self.sites = sites.iter().map(|name| Site::called(name)).collect();
        self.zone_room = vec![0; zones.len()];
        self.rack_room = vec![0; racks.len()];
        let place = |it: &Member| Place {
            site: number(&sites, &it.site.as_str()),
            zone: number(&zones, &(it.site.as_str(), it.zone.as_str())),
            rack: number(
                &racks,
                &(it.site.as_str(), it.zone.as_str(), it.rack.as_str()),
            ),
            serves: it.role == NodeRole::Data && it.answering,
            cordoned: it.cordoned,
            room: room(it),
            attachments: it.attachments,
        };
        let places: Vec<Place> = members.iter().map(place).collect();
        for (place, member) in places.iter().zip(&members) {
            let site = &mut self.sites[place.site as usize];
            site.data += u32::from(member.role == NodeRole::Data);
            site.answering += u32::from(place.serves);
            site.room = site.room.max(place.room);
            let larger = |room: Option<&mut u64>| {
                if let Some(room) = room {
                    *room = place.room.max(*room);
                }
            };
            larger(self.zone_room.get_mut(place.zone as usize));
            larger(self.rack_room.get_mut(place.rack as usize));
        }
        for site in &mut self.sites {
            site.health = i64::from(site.answering) * 1000 / i64::from(site.data.max(1));
        }
        let numbered = members.iter().zip(0..);
        self.by_name = numbered.map(|(it, at)| (it.name.clone(), at)).collect();
        self.places = places;
        self.topology.hosts = members.into_iter().map(host).collect();
    }

    fn stored(&self, volume: &Volume, data_sites: usize) -> Stored {
        let mut copies: SmallVec<[StoredCopy; 4]> = SmallVec::new();
        for copy in volume.copies.iter().filter(|copy| !copy.sealed_off) {
            let Some(member) = self.member(&copy.node) else {
                continue;
            };
            copies.push(StoredCopy {
                member,
                serves: copy.certified && copy.able && self.place(member).serves,
                leaving: copy.leaving,
                verified: copy.verified.min(WHOLE),
                rank: 0,
            });
        }
        // While a copy moves within a node, the better one of the two counts.
        copies.sort_by_key(|it| (it.member, !it.serves, it.leaving, u16::MAX - it.verified));
        copies.dedup_by_key(|it| it.member);
        self.rank(volume, &mut copies);
        let held: BTreeSet<u32> = copies.iter().map(|it| self.place(it.member).site).collect();
        let spread = volume
            .wanted
            .as_ref()
            .is_some_and(|wanted| spreads_over(wanted, data_sites, held.len()));
        Stored {
            bytes: volume.bytes,
            locality: volume.locality,
            sites_needed: if volume.strict && spread { 2 } else { 1 },
            attached: self.member(&volume.attached),
            copies,
        }
    }

    /// Who would take the volume over: who has it, then the preferred site, then where most nodes answer, then
    /// the node with the fewest volumes attached.
    fn rank(&self, volume: &Volume, copies: &mut [StoredCopy]) {
        let primary = self.member(&volume.primary);
        let mut order: SmallVec<[usize; 4]> = (0..copies.len()).collect();
        order.sort_by_key(|at| {
            let copy = &copies[*at];
            let place = self.place(copy.member);
            (
                !copy.serves,
                copy.leaving,
                primary != Some(copy.member),
                self.site(place.site).name != volume.preferred_site,
                1000 - self.health(place.site),
                place.attachments,
                copy.member,
            )
        });
        for (rank, at) in (0..).zip(order) {
            copies[at].rank = rank;
        }
    }

    fn site_named(&self, name: &str) -> Option<u32> {
        let found = self
            .sites
            .binary_search_by(|site| site.name.as_str().cmp(name));
        found.ok().and_then(|at| u32::try_from(at).ok())
    }
}

impl Site {
    fn called(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

/// Where something stands in a sorted list, [`NOWHERE`] if it does not.
fn number<T: Ord>(sorted: &[T], wanted: &T) -> u32 {
    let found = sorted.binary_search(wanted).ok();
    found
        .and_then(|at| u32::try_from(at).ok())
        .unwrap_or(NOWHERE)
}

fn fitness(member: &Member) -> Fitness {
    match (member.cordoned, member.answering) {
        (true, _) => Fitness::Cordoned,
        (false, true) => Fitness::Usable,
        (false, false) => Fitness::Down,
    }
}

fn room(member: &Member) -> u64 {
    if member.role != NodeRole::Data || fitness(member) != Fitness::Usable {
        return 0;
    }
    let with_place = member.pools.iter().filter(|pool| pool.has_place);
    let most = with_place.map(|pool| pool.free_extents).max();
    most.unwrap_or(0).min(MOST_ROOM)
}

fn host(member: Member) -> Host {
    Host {
        id: member.id,
        fitness: fitness(&member),
        name: member.name,
        site: member.site,
        zone: member.zone,
        rack: member.rack,
        role: member.role,
        pools: member.pools,
    }
}
