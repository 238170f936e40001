//! A verdict in words: each node, its score, and why.

use lockstep_types::Nanos;

use crate::bands::{Band, Bands, Milli, Standing};
use crate::cluster::Cluster;
use crate::filter::Rules;
use crate::prioritize::{Scores, bands_of};
use crate::reason::Reason;
use crate::storage::{LinkState, Place, Storage};
use crate::trust::{FULL, Trust};
use crate::wanted::{Source, Wanted, WantedVolume};

/// How one node does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeVerdict {
    /// Its name in Kubernetes.
    pub node: String,
    /// Why it goes; none if it stays.
    pub refused: Option<Reason>,
    /// Its score, 0 to 10; also of a node that goes.
    pub score: u8,
    /// For each of the pod's volumes.
    pub volumes: Vec<VolumeVerdict>,
}

/// What a node gets for one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeVerdict {
    /// The claim's name.
    pub claim: String,
    /// Thousandths of a point, before trust; 0 if the volume does not count.
    pub milli: Milli,
    /// Why, in one sentence part.
    pub why: String,
}

/// All nodes, the best first; those that go come last, by name.
pub fn explain<'n>(
    cluster: &Cluster,
    now: Nanos,
    wanted: &Wanted,
    nodes: impl IntoIterator<Item = &'n str>,
) -> Vec<NodeVerdict> {
    let storage = cluster.storage();
    let (rules, scores) = (
        Rules::of(cluster, now, wanted),
        Scores::of(cluster, now, wanted),
    );
    let volumes: Vec<_> = wanted
        .volumes
        .iter()
        .map(|it| (it, bands_of(storage, wanted, it)))
        .collect();
    let one = |node: &str| NodeVerdict {
        node: node.to_owned(),
        refused: rules.refuse(node),
        score: scores.score(node),
        volumes: volumes
            .iter()
            .map(|(volume, bands)| {
                let bands = bands.as_ref().map(|(bands, _)| bands);
                of_volume(cluster, node, volume, bands)
            })
            .collect(),
    };
    let mut verdicts: Vec<NodeVerdict> = nodes.into_iter().map(one).collect();
    verdicts.sort_by(|a, b| {
        let order = |it: &NodeVerdict| (it.refused.is_some(), u8::MAX - it.score);
        (order(a), &a.node).cmp(&(order(b), &b.node))
    });
    verdicts
}

/// What is to be known about all nodes: claims that do not count yet, news that is old.
pub fn notes(cluster: &Cluster, now: Nanos, wanted: &Wanted) -> Vec<String> {
    let mut notes = Vec::new();
    let heard = cluster.storage().heard();
    let trust = Trust::at(now, heard);
    match heard {
        None => notes.push(
            "nothing has been heard from Lockstep yet: every node stays, and none is better".into(),
        ),
        Some(at) if trust.per_mille < FULL => notes.push(format!(
            "Lockstep was last heard {} s ago: scores count {} % of what they would",
            now.saturating_sub(at) / 1_000_000_000,
            trust.per_mille / 10
        )),
        Some(_) => {}
    }
    if wanted.volumes.is_empty() {
        notes.push(
            "the pod has no volume of Lockstep's: every node stays, and none is better".into(),
        );
    }
    for volume in &wanted.volumes {
        let claim = &volume.claim;
        match &volume.source {
            Source::NotYet => {
                notes.push(format!("claim {claim} is not known yet and does not count"))
            }
            Source::Missing => notes.push(format!(
                "claim {claim} is bound to a volume that Kubernetes or Lockstep does not know"
            )),
            Source::Unbound { wish: None, .. } => notes.push(format!(
                "claim {claim}: the parameters of its StorageClass are not valid"
            )),
            Source::Unbound { .. } => notes.push(format!(
                "claim {claim} has no volume yet: nodes are judged by where its copies could be"
            )),
            Source::Bound(_) => {}
        }
        if !volume.users.is_empty() {
            let users = volume.users.join(", ");
            notes.push(format!("claim {claim} is used by another pod on {users}"));
        }
    }
    notes
}

fn of_volume(
    cluster: &Cluster,
    node: &str,
    volume: &WantedVolume,
    bands: Option<&Bands<'_>>,
) -> VolumeVerdict {
    let storage = cluster.storage();
    let verdict = |milli, why| VolumeVerdict {
        claim: volume.claim.clone(),
        milli,
        why,
    };
    let Some((member, place)) = cluster.member(node) else {
        return verdict(0, "no Lockstep node".into());
    };
    match bands {
        None => verdict(0, "does not count".into()),
        Some(bands) => {
            let standing = bands.standing(member);
            let unbound = matches!(volume.source, Source::Unbound { .. });
            let why = if unbound {
                of_wish(storage, place, standing)
            } else {
                of_copy(storage, volume, member, place, standing)
            };
            verdict(standing.milli, why)
        }
    }
}

fn of_copy(
    storage: &Storage,
    volume: &WantedVolume,
    member: u32,
    place: &Place,
    standing: Standing,
) -> String {
    let stored = match &volume.source {
        Source::Bound(id) => storage.volume(*id),
        _ => None,
    };
    let copy = stored.and_then(|it| it.copies.iter().find(|copy| copy.member == member));
    let site = site_words(storage, place);
    match (standing.band, copy) {
        (Band::Copy, Some(copy)) if copy.leaving => {
            "certified copy here, which is leaving".to_owned()
        }
        (Band::Copy, Some(copy)) if copy.rank == 0 => {
            format!("certified copy here, the first to have the volume; {site}")
        }
        (Band::Copy, _) => format!("certified copy here; {site}"),
        (Band::OtherCopy, Some(copy)) if copy.verified > 0 => {
            format!("copy here, {} % resynced", copy.verified / 10)
        }
        (Band::OtherCopy, _) => "copy here that cannot serve".to_owned(),
        (Band::Rack, _) => format!("certified copy in the same rack; {site}"),
        (Band::Zone, _) => format!("certified copy in the same zone; {site}"),
        (Band::Site, _) => format!("certified copy in the same site; {site}"),
        (Band::Away, _) => away(storage, stored, place),
        (Band::Nothing, _) => "no certified copy can be reached".to_owned(),
    }
}

fn of_wish(storage: &Storage, place: &Place, standing: Standing) -> String {
    let site = site_words(storage, place);
    match standing.band {
        Band::Copy => format!("a copy fits here; {site}"),
        Band::Rack => format!("a copy fits in the same rack; {site}"),
        Band::Zone => format!("a copy fits in the same zone; {site}"),
        Band::Site => format!("a copy fits in the same site; {site}"),
        Band::Away => "copies fit in another site only".to_owned(),
        Band::OtherCopy | Band::Nothing => "no copy fits anywhere".to_owned(),
    }
}

fn site_words(storage: &Storage, place: &Place) -> String {
    let site = storage.site(place.site);
    format!(
        "site {}: {} of {} nodes answer",
        site.name, site.answering, site.data
    )
}

fn away(storage: &Storage, stored: Option<&crate::storage::Stored>, place: &Place) -> String {
    let copies = stored.into_iter().flat_map(|it| it.copies.iter());
    let sites = copies
        .filter(|copy| copy.serves)
        .map(|copy| storage.place(copy.member).site);
    let times = sites.filter_map(|site| match storage.link(site, place.site) {
        Some(LinkState::RoundTrip(time)) => Some(time),
        Some(LinkState::Cut) | None => None,
    });
    match times.min() {
        Some(time) => format!(
            "certified copies in another site, {}.{} ms away",
            time / 1_000_000,
            time / 100_000 % 10
        ),
        None => "certified copies in another site".to_owned(),
    }
}
