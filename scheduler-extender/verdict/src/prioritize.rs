//! Which nodes are best for a pod: 0 to 10 for each.
//!
//! A node gets for every volume what its place is worth ([`crate::bands`]); volumes count by their size. A
//! volume tells its few places apart (a site, a zone, a rack, a copy's node), so that what all volumes say is
//! added up by place first: a node then costs four look-ups, however many volumes there are.

use lockstep_types::Nanos;

use crate::bands::{Bands, MOST, Milli, VolumeBands, WishBands};
use crate::cluster::Cluster;
use crate::storage::{NOWHERE, Place, Storage};
use crate::trust::{FULL, Trust};
use crate::wanted::{Source, Wanted, WantedVolume};

/// How much a volume counts. Times [`MOST`] it fits too: 2^44 times 10,000.
type Weight = i64;

/// The highest score.
pub const HIGHEST: u8 = 10;
/// A volume counts by its size in these, and at least once.
const UNIT: u64 = 1 << 20;

/// For each node, 0 to [`HIGHEST`]. `now` counts as [`Storage::heard`] does.
pub fn prioritize<'n>(
    cluster: &Cluster,
    now: Nanos,
    wanted: &Wanted,
    nodes: impl IntoIterator<Item = &'n str>,
) -> Vec<u8> {
    let scores = Scores::of(cluster, now, wanted);
    nodes.into_iter().map(|node| scores.score(node)).collect()
}

/// What a pod's volumes say, added up.
pub(crate) struct Scores<'a> {
    cluster: &'a Cluster,
    trust: Trust,
    weight: i128,
    sites: Vec<i128>,
    /// What a zone gets beyond its site, a rack beyond its zone, a node beyond its rack.
    zones: Vec<i128>,
    racks: Vec<i128>,
    members: Vec<i128>,
}

impl<'a> Scores<'a> {
    pub(crate) fn of(cluster: &'a Cluster, now: Nanos, wanted: &Wanted) -> Self {
        let storage = cluster.storage();
        let mut scores = Self {
            cluster,
            trust: Trust::at(now, storage.heard()),
            weight: 0,
            sites: vec![0; storage.sites().len()],
            zones: vec![0; storage.zones()],
            racks: vec![0; storage.racks()],
            members: vec![0; storage.places().len()],
        };
        let mut wishes = Vec::new();
        for volume in &wanted.volumes {
            match bands_of(storage, wanted, volume) {
                Some((Bands::Volume(bands), weight)) => scores.add_volume(storage, &bands, weight),
                Some((Bands::Wish(bands), weight)) => wishes.push((bands, weight)),
                None => {}
            }
        }
        scores.add_wishes(&wishes);
        scores
    }

    pub(crate) fn score(&self, node: &str) -> u8 {
        match self.cluster.member(node) {
            Some((member, place)) if place.serves => self.of_member(member, place),
            _ => 0,
        }
    }

    fn of_member(&self, member: u32, place: &Place) -> u8 {
        let at = |list: &[i128], index: u32| list.get(index as usize).copied().unwrap_or(0);
        let sum = at(&self.sites, place.site)
            + at(&self.zones, place.zone)
            + at(&self.racks, place.rack)
            + at(&self.members, member);
        rounded(sum, self.weight, self.trust)
    }

    /// Where a copy could be, every node is one of its own.
    fn add_wishes(&mut self, wishes: &[(WishBands<'_>, Weight)]) {
        self.weight += wishes
            .iter()
            .map(|(_, weight)| i128::from(*weight))
            .sum::<i128>();
        if wishes.is_empty() {
            return;
        }
        for (member, sum) in (0..).zip(&mut self.members) {
            for (bands, weight) in wishes {
                *sum += i128::from(weight * bands.standing(member).milli);
            }
        }
    }

    fn add_volume(&mut self, storage: &Storage, bands: &VolumeBands<'_>, weight: Weight) {
        self.weight += i128::from(weight);
        let times = |milli: Milli| i128::from(weight * milli);
        for (sum, standing) in self.sites.iter_mut().zip(&bands.sites) {
            *sum += times(standing.milli);
        }
        let (mut zones, mut racks) = (bands.zones.clone(), bands.racks.clone());
        for (member, standing) in &bands.copies {
            let place = storage.place(*member);
            let by_site = bands.sites[place.site as usize].milli;
            let mut by_zone = by_site;
            if bands.zones.contains(&place.zone) {
                by_zone = bands.of_zone(place.site).milli;
                if take(&mut zones, place.zone) {
                    self.zones[place.zone as usize] += times(by_zone - by_site);
                }
            }
            if take(&mut racks, place.rack) {
                let by_rack = bands.of_rack(place.site).milli;
                self.racks[place.rack as usize] += times(by_rack - by_zone);
            }
            self.members[*member as usize] += times(standing.milli - bands.by_place(place).milli);
        }
    }
}

/// What places are worth for one of a pod's volumes, and how much it counts; none if it does not count: nothing
/// is known of it, or it does not matter where its copies are.
pub(crate) fn bands_of<'a>(
    storage: &'a Storage,
    wanted: &Wanted,
    volume: &'a WantedVolume,
) -> Option<(Bands<'a>, Weight)> {
    let (bands, locality, bytes) = match &volume.source {
        Source::Bound(id) => {
            let stored = storage.volume(*id)?;
            let bands = Bands::of_volume(storage, stored);
            (bands, stored.locality, stored.bytes)
        }
        Source::Unbound { wish, bytes } => {
            let wish = wish.as_ref()?;
            let bands = Bands::of_wish(storage, wish, *bytes);
            (bands, wish.locality, *bytes)
        }
        Source::Missing | Source::NotYet => return None,
    };
    let weight = Weight::try_from((bytes / UNIT).max(1)).unwrap_or(Weight::MAX / MOST);
    wanted.prefers(locality).then_some((bands, weight))
}

fn rounded(sum: i128, weight: i128, trust: Trust) -> u8 {
    if weight == 0 {
        return 0;
    }
    let whole = weight * 1000 * i128::from(FULL);
    let score = (sum * i128::from(trust.per_mille) + whole / 2) / whole;
    u8::try_from(score.clamp(0, i128::from(HIGHEST))).unwrap_or(HIGHEST)
}

/// Takes a number out of a list; whether it was there.
fn take(list: &mut smallvec::SmallVec<[u32; 4]>, wanted: u32) -> bool {
    let found = list
        .iter()
        .position(|it| *it == wanted && wanted != NOWHERE);
    found.map(|at| list.swap_remove(at)).is_some()
}

const _: () = assert!(MOST == HIGHEST as Milli * 1000);
