//! Deltas of the map and the checksums: what a round of destaging logs for an extent, and what each delta
//! changes in memory.

use crate::extents::Mapped;
use crate::format::{Delta, seeded};
use crate::geometry::EXTENTS_PER_MAP_PAGE;
use crate::store::{Phase, Store};
use crate::work::{Block, Work};
use lockstep_types::{EXTENT_BLOCKS, Sequence};

impl Store {
    /// What the metadata must say once a round's data is in its place.
    pub(crate) fn deltas_of(&self, work: &Work) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let slot = &self.slots[&work.slot];
        let (owner, lineage) = (slot.owner(), slot.meta.lineage);
        let (index, sequence) = (work.index, work.newest);
        let Some(extent) = work.target else {
            return deltas;
        };
        let base = u64::from(index) * EXTENT_BLOCKS;
        let written = |block: u8, sum: u32| {
            let stored = seeded(lineage, base + u64::from(block), sum);
            Delta::BlockWritten {
                extent,
                block,
                stored,
                sequence,
            }
        };
        let mut valid = self.extents.get(extent).valid;
        if work.fresh || work.direct.is_some() {
            let direct = work.direct.as_ref().map(|d| d.birth);
            let birth = direct.unwrap_or_else(|| self.oldest_winner(work));
            deltas.push(Delta::Mapped {
                extent,
                owner,
                index,
                birth,
                sequence,
            });
            valid = 0;
        }
        if let Some(direct) = &work.direct {
            let over = work.blocks.iter().fold(0u64, |bits, b| bits | 1 << b.block);
            let sums = direct.sums.as_slice().iter().enumerate();
            let below = sums.filter(|(block, _)| over & 1 << block == 0);
            deltas.extend(below.map(|(block, sum)| written(block as u8, *sum)));
            valid = u64::MAX;
        }
        for Block { block, sum, .. } in &work.blocks {
            deltas.push(written(*block, *sum));
            valid |= 1 << block;
        }
        let bitmap = valid & !work.cleared;
        if bitmap == 0 {
            deltas.push(Delta::Freed { extent });
        } else if work.cleared != 0 {
            // Also if nothing is there to be cleared: the extent is as new as the discard (R16).
            deltas.push(Delta::Valid {
                extent,
                bitmap,
                sequence,
            });
        }
        let replaced = self.extents.find(owner, index);
        let replaced = replaced.filter(|old| *old != extent);
        deltas.extend(replaced.map(|extent| Delta::Freed { extent }));
        deltas
    }

    /// The oldest record that wins a block of a fresh extent: no older one is written into it later.
    fn oldest_winner(&self, work: &Work) -> Sequence {
        let winners = work.blocks.iter();
        let stamps = winners.filter_map(|b| self.index.get(b.entry));
        let oldest = stamps.map(|e| e.stamp.sequence).min();
        oldest.unwrap_or(work.newest)
    }

    /// What a delta changes in memory; recovery replays the log through the same function.
    pub(crate) fn apply_delta(&mut self, delta: &Delta) {
        match *delta {
            Delta::BlockWritten {
                extent,
                block,
                stored,
                sequence,
            } => {
                self.sums.set(extent, block, stored);
                self.change_valid(extent, sequence, |valid| valid | 1 << block);
            }
            Delta::Mapped {
                extent,
                owner,
                index,
                birth,
                sequence,
            } => {
                let entry = Mapped {
                    owner,
                    index,
                    valid: 0,
                    newest: sequence,
                    birth,
                };
                self.quarantined.retain(|q| q.extent != extent);
                let replaced = self.extents.map(extent, entry);
                self.mark_map_dirty(extent);
                if let Some(old) = replaced {
                    self.unmap(old);
                }
            }
            Delta::Freed { extent } => self.unmap(extent),
            Delta::Valid {
                extent,
                bitmap,
                sequence,
            } => self.change_valid(extent, sequence, |_| bitmap),
        }
    }

    fn change_valid(&mut self, extent: u32, newest: Sequence, valid: impl Fn(u64) -> u64) {
        let mut entry = *self.extents.get(extent);
        if entry.owner != 0 {
            entry.valid = valid(entry.valid);
            entry.newest = entry.newest.max(newest);
            self.extents.map(extent, entry);
        }
        self.mark_map_dirty(extent);
    }

    /// Takes an extent out of the map. While recovering it is free at once: what names it comes later.
    fn unmap(&mut self, extent: u32) {
        self.mark_map_dirty(extent);
        if !self.extents.unmap(extent) {
            return;
        }
        match self.phase {
            Phase::Recovering(_) => self.extents.give_back(extent),
            _ => self.quarantine(extent, 0, self.delta_durable),
        }
    }

    pub(crate) fn mark_map_dirty(&mut self, extent: u32) {
        self.map_dirty.insert(extent / EXTENTS_PER_MAP_PAGE);
    }
}
