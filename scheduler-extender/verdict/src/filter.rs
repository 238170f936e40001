//! Which nodes a pod cannot run on.
//!
//! What holds for all nodes, for a site, for a copy's node, is found once a pod; a node is then a handful of
//! look-ups, however many volumes the pod has.

use std::collections::BTreeMap;

use lockstep_placement::{Request, choose};
use lockstep_types::{EXTENT, Nanos, VolumeId};

use crate::cluster::Cluster;
use crate::reason::Reason;
use crate::storage::{LinkState, Place, Storage, Stored};
use crate::trust::Trust;
use crate::wanted::{Source, Wanted, WantedVolume, Wish};

/// For each node, why it goes; none if it stays. `now` counts as [`Storage::heard`] does.
pub fn filter<'n>(
    cluster: &Cluster,
    now: Nanos,
    wanted: &Wanted,
    nodes: impl IntoIterator<Item = &'n str>,
) -> Vec<Option<Reason>> {
    let rules = Rules::of(cluster, now, wanted);
    nodes.into_iter().map(|node| rules.refuse(node)).collect()
}

/// What a pod's volumes ask of a node.
pub(crate) struct Rules<'a> {
    cluster: &'a Cluster,
    trust: Trust,
    /// There is nothing of ours: every node stays.
    free: bool,
    /// No node stays.
    everywhere: Option<Reason>,
    /// Live nodes on which volumes are in use that can be used on one node only.
    in_use_on: Vec<&'a str>,
    /// By site: whether too little can be reached from there.
    out_of_reach: Vec<bool>,
    /// Volumes that must have a copy on the node, and by node how many of them do.
    required: usize,
    held: Vec<usize>,
    /// What the largest copy takes that must be made on the node, in extents; 0 if there is none.
    room: u64,
    /// By site: whether a class that requires a local copy wants none there.
    unwanted: Vec<bool>,
    /// The node that all volumes are attached to.
    attached: Option<u32>,
}

impl<'a> Rules<'a> {
    pub(crate) fn of(cluster: &'a Cluster, now: Nanos, wanted: &'a Wanted) -> Self {
        let storage = cluster.storage();
        let mut rules = Self {
            cluster,
            trust: Trust::at(now, storage.heard()),
            free: wanted.volumes.is_empty(),
            everywhere: None,
            in_use_on: Vec::new(),
            out_of_reach: vec![false; storage.sites().len()],
            required: 0,
            held: Vec::new(),
            room: 0,
            unwanted: vec![false; storage.sites().len()],
            attached: attached_to(storage, wanted),
        };
        let mut wishes = BTreeMap::new();
        for volume in &wanted.volumes {
            rules.add_users(volume);
            match &volume.source {
                Source::Bound(id) => rules.add_volume(storage, *id, wanted),
                Source::Missing => rules.refuse_everywhere(Reason::UnknownVolume),
                Source::Unbound { wish, bytes } => match wish {
                    None => rules.refuse_everywhere(Reason::BadClass),
                    Some(wish) => {
                        let extents = extents(*bytes);
                        rules.add_wish(storage, wish, extents, wanted);
                        let sizes: &mut Vec<u64> = wishes
                            .entry(wish.class.as_str())
                            .or_insert_with(|| (wish, Vec::new()))
                            .1
                            .as_mut();
                        sizes.push(extents);
                    }
                },
                Source::NotYet => {}
            }
        }
        if rules.trust.refuses {
            let largest = wishes
                .values()
                .filter_map(|(wish, sizes)| Some((wish, *sizes.iter().max()?)));
            let mut largest = largest;
            // What fits takes every smaller one too: the largest of a class decides.
            if largest.any(|(wish, extents)| !can_be_placed(storage, wish, extents)) {
                rules.refuse_everywhere(Reason::NoPlace);
            }
        }
        rules
    }

    /// Why a node goes; the gravest reason there is.
    pub(crate) fn refuse(&self, node: &str) -> Option<Reason> {
        if self.free {
            return None;
        }
        let member = self.cluster.member(node);
        let refusals = [
            self.trust.refuses.then(|| self.by_daemon(member)).flatten(),
            self.everywhere,
            self.by_use(node),
            member.and_then(|(_, place)| self.by_reach(place)),
            self.by_copy(member),
            member.and_then(|(_, place)| self.by_room(place)),
        ];
        refusals.into_iter().flatten().min()
    }

    fn by_daemon(&self, member: Option<(u32, &Place)>) -> Option<Reason> {
        match member {
            Some((_, place)) if !place.serves => Some(Reason::NoDaemon),
            None => Some(Reason::NoDaemon),
            Some((at, place)) if place.cordoned && self.attached != Some(at) => {
                Some(Reason::Cordoned)
            }
            Some(_) => None,
        }
    }

    fn by_use(&self, node: &str) -> Option<Reason> {
        let elsewhere = self.in_use_on.iter().any(|used| *used != node);
        elsewhere.then_some(Reason::InUse)
    }

    fn by_reach(&self, place: &Place) -> Option<Reason> {
        self.out_of_reach[place.site as usize].then_some(Reason::OutOfReach)
    }

    fn by_copy(&self, member: Option<(u32, &Place)>) -> Option<Reason> {
        let held = member.and_then(|(at, _)| self.held.get(at as usize));
        (held.copied().unwrap_or(0) < self.required).then_some(Reason::NoCopyHere)
    }

    fn by_room(&self, place: &Place) -> Option<Reason> {
        let short = self.trust.refuses && self.room > place.room;
        let unwanted = self.unwanted[place.site as usize];
        (short || unwanted).then_some(Reason::NoPlaceHere)
    }

    fn refuse_everywhere(&mut self, reason: Reason) {
        // What Lockstep does not know is a reason only while it is heard.
        if reason == Reason::UnknownVolume && !self.trust.refuses {
            return;
        }
        self.everywhere = Some(self.everywhere.map_or(reason, |other| other.min(reason)));
    }

    fn add_users(&mut self, volume: &'a WantedVolume) {
        for node in &volume.users {
            let known = self.in_use_on.contains(&node.as_str());
            if !known && self.cluster.is_live(node) {
                self.in_use_on.push(node);
            }
        }
    }

    fn add_volume(&mut self, storage: &Storage, id: VolumeId, wanted: &Wanted) {
        let Some(volume) = storage.volume(id) else {
            self.refuse_everywhere(Reason::UnknownVolume);
            return;
        };
        if self.trust.refuses {
            for (site, out) in (0..).zip(&mut self.out_of_reach) {
                *out = *out || !serves_from(storage, volume, site);
            }
        }
        // Copies move rarely; and what attaches the volume would refuse another node for good.
        if wanted.requires(volume.locality) && self.trust.per_mille > 0 {
            self.required += 1;
            self.held.resize(storage.places().len(), 0);
            for copy in volume.copies.iter().filter(|copy| !copy.leaving) {
                self.held[copy.member as usize] += 1;
            }
        }
    }

    fn add_wish(&mut self, storage: &Storage, wish: &Wish, extents: u64, wanted: &Wanted) {
        if !wanted.requires(wish.locality) {
            return;
        }
        self.room = self.room.max(extents);
        for (site, unwanted) in storage.sites().iter().zip(&mut self.unwanted) {
            *unwanted = *unwanted || wish.copies.wanted_in(&site.name) == Some(0);
        }
    }
}

/// Extents of a copy of so many bytes, at least one.
pub(crate) fn extents(bytes: u64) -> u64 {
    bytes.div_ceil(EXTENT as u64).max(1)
}

fn can_be_placed(storage: &Storage, wish: &Wish, extents: u64) -> bool {
    let request = Request {
        copies: wish.copies.clone(),
        fault_domain: wish.fault_domain,
        extents,
        // Where a copy is preferred does not change whether all can be placed.
        local: None,
    };
    choose(&request, storage.topology()).is_ok()
}

/// Whether enough certified copies can be reached from a site.
fn serves_from(storage: &Storage, volume: &Stored, from: u32) -> bool {
    let mut reached: Vec<u32> = Vec::with_capacity(volume.copies.len());
    for copy in volume.copies.iter().filter(|copy| copy.serves) {
        let site = storage.place(copy.member).site;
        let cut = site != from && storage.link(site, from) == Some(LinkState::Cut);
        if !cut && !reached.contains(&site) {
            reached.push(site);
        }
    }
    reached.len() >= volume.sites_needed
}

/// The node that every volume is attached to.
fn attached_to(storage: &Storage, wanted: &Wanted) -> Option<u32> {
    let mut all = None;
    for volume in &wanted.volumes {
        let Source::Bound(id) = volume.source else {
            return None;
        };
        let at = storage.volume(id)?.attached?;
        if all.is_some_and(|other| other != at) {
            return None;
        }
        all = Some(at);
    }
    all
}
