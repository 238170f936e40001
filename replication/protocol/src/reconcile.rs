//! The union of the tails of sealed members (R11).
//!
//! Every acknowledged write is durable on every in-sync member, so members differ only above the
//! floor, and there each record of any sealed member may have been acknowledged or not. All of them
//! are rolled forward: acknowledging an unacknowledged write late is allowed, losing one is not.

use crate::mutate::{Broken, Mutation};
use lockstep_types::{Gap, ReplicaId, Sequence, Stamp};
use lockstep_wire::{Sealed, TailEntry};
use std::collections::BTreeMap;

/// What must be rolled forward in the new epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Union {
    /// The highest floor: at or below it all members agree.
    pub floor: Stamp,
    /// The last sequence of the union: the base of the new epoch.
    pub last: Sequence,
    /// Records above the floor in sequence order, each with the replicas that hold this very record.
    pub records: Vec<(TailEntry, Vec<ReplicaId>)>,
    /// Sealed members that are behind the floor they helped to raise, or of which nothing is certain
    /// (R24): they lost data (R4), or may have, and leave.
    pub lost: Vec<ReplicaId>,
}

/// Why there is no union yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum UnionError {
    /// Nobody without a gap has been sealed.
    OnlyGapped,
    /// This sequence is on no sealed member although later ones are.
    Hole(Sequence),
}

/// Whether a sealed member may stand for the set. A torn tail is refuted once every committed
/// member has been sealed: what no other holds was durable on nobody (R24; docs/decisions/0004).
pub fn stands(sealed: &Sealed, all_sealed: bool, broken: Broken) -> bool {
    match sealed.gap {
        Gap::None => true,
        Gap::Torn | Gap::Suspect => all_sealed,
        Gap::Corrupt => broken.is(Mutation::R21SuspectServes),
    }
}

/// The union of the tails of the sealed members. `all_sealed`: every member of the committed set is
/// among them.
///
/// # Errors
/// If the volume must wait for a member that fills or refutes what is missing.
pub fn union_of_tails(
    sealed: &BTreeMap<ReplicaId, Sealed>,
    all_sealed: bool,
    broken: Broken,
) -> Result<Union, UnionError> {
    let floors = sealed.values().map(|s| s.floor);
    let floor = if broken.is(Mutation::R11LowestFloor) {
        floors.min()
    } else {
        floors.max()
    }
    .unwrap_or_default();
    let standing: Vec<&Sealed> = sealed
        .values()
        .filter(|s| stands(s, all_sealed, broken))
        .collect();
    if standing.is_empty() {
        return Err(UnionError::OnlyGapped);
    }
    let is_lost = |s: &Sealed| {
        let corrupt = s.gap == Gap::Corrupt && !broken.is(Mutation::R21SuspectServes);
        s.last.sequence < floor.sequence || corrupt || s.joining
    };
    // A suspect leaves only where somebody whole stays.
    let somebody_whole = standing.iter().any(|s| !s.gap.excludes() && !is_lost(s));
    let lost: Vec<ReplicaId> = sealed
        .iter()
        .filter(|(_, s)| is_lost(s) || s.gap == Gap::Suspect && somebody_whole)
        .map(|(id, _)| *id)
        .collect();
    let mut by_sequence: BTreeMap<Sequence, (TailEntry, Vec<ReplicaId>)> = BTreeMap::new();
    for (id, member) in sealed.iter().filter(|(id, _)| !lost.contains(id)) {
        for entry in member
            .tail
            .iter()
            .filter(|e| e.stamp.sequence > floor.sequence)
        {
            merge(&mut by_sequence, *id, entry);
        }
    }
    let mut expected = floor.sequence.next();
    for sequence in by_sequence.keys() {
        if *sequence != expected {
            return Err(UnionError::Hole(expected));
        }
        expected = expected.next();
    }
    let last = by_sequence
        .keys()
        .next_back()
        .copied()
        .unwrap_or(floor.sequence);
    Ok(Union {
        floor,
        last,
        records: by_sequence.into_values().collect(),
        lost,
    })
}

/// One record per sequence, that of the highest epoch (R11).
fn merge(
    by_sequence: &mut BTreeMap<Sequence, (TailEntry, Vec<ReplicaId>)>,
    id: ReplicaId,
    entry: &TailEntry,
) {
    match by_sequence.get_mut(&entry.stamp.sequence) {
        None => {
            by_sequence.insert(entry.stamp.sequence, (entry.clone(), vec![id]));
        }
        Some((held, holders)) => {
            if held.stamp == entry.stamp {
                // One primary an epoch, one record a sequence: the same stamp is the same record.
                assert_eq!(held, entry, "two records of stamp {} differ", entry.stamp);
                holders.push(id);
            } else if entry.stamp.epoch > held.stamp.epoch {
                *held = entry.clone();
                *holders = vec![id];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_types::{BlockRange, Checksums, Epoch, RecordKind};

    fn entry(epoch: u64, sequence: u64, block: u64) -> TailEntry {
        TailEntry {
            stamp: Stamp::new(Epoch(epoch), Sequence(sequence)),
            kind: RecordKind::Discard,
            range: BlockRange::new(block, 1),
            checksums: Checksums::none(),
        }
    }

    fn sealed(gap: Gap, floor: u64, tail: Vec<TailEntry>) -> Sealed {
        let last = tail
            .last()
            .map_or(Stamp::new(Epoch(1), Sequence(floor)), |e| e.stamp);
        Sealed {
            gap,
            floor: Stamp::new(Epoch(1), Sequence(floor)),
            last,
            history: Vec::new(),
            blocks: 64,
            tail,
            clear_in: 0,
            joining: false,
        }
    }

    fn members(list: Vec<Sealed>) -> BTreeMap<ReplicaId, Sealed> {
        list.into_iter()
            .enumerate()
            .map(|(i, s)| (ReplicaId::from_u128(i as u128 + 1), s))
            .collect()
    }

    #[test]
    fn a_record_of_any_member_is_rolled_forward() {
        let set = members(vec![
            sealed(Gap::None, 4, vec![entry(1, 5, 0)]),
            sealed(
                Gap::None,
                3,
                vec![entry(1, 4, 9), entry(1, 5, 0), entry(1, 6, 1)],
            ),
        ]);
        let union = union_of_tails(&set, true, Broken::default()).expect("no hole");
        assert_eq!(
            (union.floor.sequence, union.last),
            (Sequence(4), Sequence(6))
        );
        let sequences: Vec<u64> = union
            .records
            .iter()
            .map(|(e, _)| e.stamp.sequence.0)
            .collect();
        assert_eq!(sequences, [5, 6]);
        assert_eq!(union.records[0].1.len(), 2);
        assert!(union.lost.is_empty());
    }

    #[test]
    fn the_highest_epoch_wins_a_sequence() {
        let set = members(vec![
            sealed(Gap::None, 4, vec![entry(1, 5, 0)]),
            sealed(Gap::None, 4, vec![entry(2, 5, 7)]),
        ]);
        let union = union_of_tails(&set, true, Broken::default()).expect("no hole");
        assert_eq!(union.records[0].0.range.start, 7);
        assert_eq!(union.records[0].1, [ReplicaId::from_u128(2)]);
    }

    #[test]
    fn a_torn_tail_stands_only_when_all_are_sealed() {
        let set = members(vec![sealed(Gap::Torn, 4, vec![])]);
        assert_eq!(
            union_of_tails(&set, false, Broken::default()),
            Err(UnionError::OnlyGapped)
        );
        assert!(union_of_tails(&set, true, Broken::default()).is_ok());
        let set = members(vec![sealed(Gap::Corrupt, 4, vec![])]);
        assert_eq!(
            union_of_tails(&set, true, Broken::default()),
            Err(UnionError::OnlyGapped)
        );
    }

    #[test]
    fn a_member_behind_the_floor_lost_data() {
        let set = members(vec![
            sealed(Gap::None, 9, vec![]),
            sealed(Gap::None, 7, vec![]),
        ]);
        let union = union_of_tails(&set, true, Broken::default()).expect("no hole");
        assert_eq!(union.lost, [ReplicaId::from_u128(2)]);
    }
}
