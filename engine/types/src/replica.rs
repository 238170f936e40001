//! The durable state of one replica beside its data. The protocol decides it, the store keeps it.

use crate::{Epoch, Incarnation, LineageId, ReplicaId, ResyncNumber, Sequence, Stamp, VolumeId};

/// Starts of epochs a replica remembers at most; older ones are forgotten from the front, and a
/// replica that shares none with its peer is compared whole (R15).
pub const MAX_HISTORY: usize = 128;

/// Where an epoch started: sequences above `base` belong to it, up to the base of the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The last sequence when it opened.
    pub base: Sequence,
}

/// What recovery lost or may have lost (R24).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Gap {
    /// Nothing.
    #[default]
    None,
    /// A batch beyond the mark was torn and dropped: gapped until every other committed member has
    /// filled or refuted its records.
    Torn,
    /// Its device failed in an earlier life: nothing is known to be missing, and nothing is trusted.
    /// Beside a member that is whole it is none, and it returns compared from its first extent
    /// (docs/decisions/0014); alone it stands like a torn one (R21).
    Suspect,
    /// A batch that had been flushed is bad: records are missing, and only a member without a gap
    /// may stand for the set.
    Corrupt,
}

impl Gap {
    /// Whether a replica with this gap is no member beside one that is whole: what it lacks may lie
    /// anywhere, so a resync compares all of it.
    pub fn excludes(self) -> bool {
        self >= Self::Suspect
    }
}

/// The point up to which a rejoining replica agrees with the in-sync ones (R15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cut {
    /// The last common stamp. [`Stamp::ZERO`] compares everything.
    pub stamp: Stamp,
    /// The resync that may copy into this replica (R16).
    pub resync: ResyncNumber,
    /// The first sequence that was shadowed to the replica; what lies between the cut and it comes
    /// by copies.
    pub shadow_from: Sequence,
}

/// What one replica durably knows. At most one 4 KiB slot on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaMeta {
    /// The replica.
    pub replica: ReplicaId,
    /// Its volume.
    pub volume: VolumeId,
    /// Seeds the checksums.
    pub lineage: LineageId,
    /// This life of the data (R4).
    pub incarnation: Incarnation,
    /// Length in blocks, as of the last Resize applied.
    pub blocks: u64,
    /// The highest epoch promised (R3): nothing below it is answered.
    pub promised: Epoch,
    /// The epoch last opened here.
    pub opened: Epoch,
    /// Starts of the epochs opened here, oldest first; at most [`MAX_HISTORY`].
    pub history: Vec<EpochStart>,
    /// The highest floor known (R11); kept at least as high in the journal.
    pub floor: Stamp,
    /// Set while the replica is being resynced and until it is certified.
    pub cut: Option<Cut>,
    /// Recovery lost or may have lost records of this replica (R24).
    pub gap: Gap,
    /// Overwritten by a forced promotion: sealed and read-only until discarded by name.
    pub sealed_off: bool,
}

impl ReplicaMeta {
    /// A new, empty replica.
    pub fn new(
        replica: ReplicaId,
        volume: VolumeId,
        lineage: LineageId,
        incarnation: Incarnation,
        blocks: u64,
    ) -> Self {
        Self {
            replica,
            volume,
            lineage,
            incarnation,
            blocks,
            promised: Epoch::ZERO,
            opened: Epoch::ZERO,
            history: Vec::new(),
            floor: Stamp::ZERO,
            cut: None,
            gap: Gap::None,
            sealed_off: false,
        }
    }

    /// Records that an epoch opened above `base`.
    pub fn push_history(&mut self, start: EpochStart) {
        extend_history(&mut self.history, start);
    }
}

/// Adds the start of an epoch to a history, which forgets the oldest when it would be longer than
/// [`MAX_HISTORY`].
///
/// # Panics
/// If the epoch is no newer than the last one, or begins below it.
pub fn extend_history(history: &mut Vec<EpochStart>, start: EpochStart) {
    if let Some(last) = history.last() {
        assert!(
            last.epoch < start.epoch && last.base <= start.base,
            "history only grows"
        );
    }
    history.push(start);
    if history.len() > MAX_HISTORY {
        history.remove(0);
    }
}

/// The last sequence up to which two histories agree: within the newest epoch that both opened at the
/// same base, up to the end of it that comes first.
pub fn last_common(
    ours: &[EpochStart],
    our_last: Sequence,
    theirs: &[EpochStart],
    their_last: Sequence,
) -> Option<Stamp> {
    let end = |history: &[EpochStart], at: usize, last| {
        history.get(at + 1).map_or(last, |next| next.base)
    };
    for (at, start) in theirs.iter().enumerate().rev() {
        if let Some(own) = ours.iter().position(|o| o == start) {
            let sequence = end(theirs, at, their_last).min(end(ours, own, our_last));
            return Some(Stamp::new(start.epoch, sequence));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(starts: &[(u64, u64)]) -> Vec<EpochStart> {
        starts
            .iter()
            .map(|(e, b)| EpochStart {
                epoch: Epoch(*e),
                base: Sequence(*b),
            })
            .collect()
    }

    #[test]
    fn a_history_forgets_its_oldest_epochs() {
        let mut known = Vec::new();
        for epoch in 1..=200 {
            let base = Sequence(epoch / 2);
            let epoch = Epoch(epoch);
            extend_history(&mut known, EpochStart { epoch, base });
        }
        assert_eq!(known.len(), MAX_HISTORY);
        assert_eq!(known[0].epoch, Epoch(200 - MAX_HISTORY as u64 + 1));
    }

    #[test]
    fn the_common_end_is_the_earlier_one() {
        let ours = history(&[(1, 0), (3, 108)]);
        // It had 110 of epoch 1; the union of the others ended at 108.
        let common = last_common(&ours, Sequence(200), &history(&[(1, 0)]), Sequence(110));
        assert_eq!(common, Some(Stamp::new(Epoch(1), Sequence(108))));
        // It had only 105.
        let common = last_common(&ours, Sequence(200), &history(&[(1, 0)]), Sequence(105));
        assert_eq!(common, Some(Stamp::new(Epoch(1), Sequence(105))));
    }

    #[test]
    fn an_epoch_opened_elsewhere_is_not_common() {
        let ours = history(&[(1, 0), (3, 50)]);
        let common = last_common(
            &ours,
            Sequence(70),
            &history(&[(1, 0), (2, 60)]),
            Sequence(90),
        );
        assert_eq!(common, Some(Stamp::new(Epoch(1), Sequence(50))));
        assert_eq!(
            last_common(&ours, Sequence(70), &history(&[(9, 4)]), Sequence(9)),
            None
        );
        assert_eq!(last_common(&ours, Sequence(70), &[], Sequence(0)), None);
    }
}
