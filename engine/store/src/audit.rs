//! Whether the state of a store contradicts itself: what tests and the simulator ask after every step.
//! Its cost grows with the pool.

use crate::index::{Forward, Place};
use crate::store::{Phase, Store};
use std::collections::BTreeMap;

impl Store {
    /// Checks what must hold between two calls.
    ///
    /// # Errors
    /// In words, what does not.
    pub fn audit(&self) -> Result<(), String> {
        if self.phase != Phase::Ready {
            return Ok(());
        }
        self.audit_extents()?;
        self.audit_batches()?;
        if self.index.unmapped() != self.index.count_unmapped() {
            return Err(format!(
                "{} extents are owed and {} counted",
                self.index.count_unmapped(),
                self.index.unmapped()
            ));
        }
        let reserved: u32 = self.slots.values().map(|s| s.reserved).sum();
        if reserved != self.extents.reserved() {
            let kept = self.extents.reserved();
            return Err(format!("{reserved} extents are reserved and {kept} kept"));
        }
        Ok(())
    }

    /// What it is at, in a few lines: for whoever looks for why nothing moves.
    pub fn outline(&self) -> String {
        let journal = &self.journal;
        let slots = self.slots.values().map(|s| {
            let (floor, durable, table) = (s.floor, s.durable_floor, s.table_floor);
            let (held, forwarding, voids) = (s.held.len(), s.forwarding, s.voids.len());
            format!(
                "  slot {}: floor {floor}, durable {durable} in batch {}, in the table {table}; \
                 {held} held, {forwarding} forwarding, {voids} voids, deleting {}",
                s.number, s.floor_batch, s.deleting
            )
        });
        let front = journal.batches.get(journal.dead_front());
        let front = front
            .iter()
            .flat_map(|b| &b.entries)
            .filter_map(|id| self.index.get(*id));
        let front = front.map(|e| {
            let place = e.place;
            let (stamp, kind, range) = (e.stamp, e.kind, e.range);
            let (copy, batch, attached, bad) = (e.copy, e.batch, e.attached, e.bad_until);
            format!(
                "  at the tail: {stamp} of slot {}: {kind:?} {range:?}, copy {copy}, in batch \
                 {batch:?}, attached {attached}, at {place:?}, forward {:?}, bad {bad}",
                e.slot, e.forward
            )
        });
        let all = self.index.iter().map(|(id, e)| {
            let (stamp, place, batch) = (e.stamp, e.place, e.batch);
            format!(
                "  {id}: {stamp} {place:?} {batch:?} {:?} hidden {} payload {}",
                e.forward,
                e.hidden,
                e.payload.is_some()
            )
        });
        let slots: Vec<String> = slots.chain(front).chain(all).collect();
        let (free, mapped) = self.extents.counts();
        format!(
            "ring {}..{} of {}, {} batches from {}, {} dead; {} pending, {} to forward, in flight {}; \
             {} records; round {}, due {}; checkpoint {}; deltas {}..{} of {}; floors due {}, \
             mark first {}; extents {free} free, {mapped} mapped, {} taken, {} reserved, {} owed; \
             {} operations\n{}",
            journal.tail,
            journal.head,
            self.geometry.ring.length,
            journal.batches.len(),
            journal.tail_number(),
            journal.dead_front(),
            journal.pending.len(),
            journal.forwards.len(),
            journal.in_flight,
            self.index.len(),
            self.round.is_some(),
            self.destage_due,
            self.checkpoint.is_some(),
            self.anchor.written.delta_tail,
            self.delta_head,
            self.geometry.delta_pages(),
            self.floors_due,
            self.mark_first,
            self.extents.taken().count(),
            self.extents.reserved(),
            self.index.unmapped(),
            self.ops.len(),
            slots.join("\n")
        )
    }

    /// Every extent is free, mapped, or taken for a reason.
    fn audit_extents(&self) -> Result<(), String> {
        let mut reasons: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        let mut because = |extent, why| reasons.entry(extent).or_default().push(why);
        for (_, entry) in self.index.iter() {
            if let Place::Extent(extent) = entry.place {
                because(extent, "a direct write");
            }
        }
        for slot in self.slots.values() {
            let writing = slot.writing.iter().flat_map(|w| &w.ghosts);
            for extent in writing.chain(&slot.ghosts).filter_map(|g| g.extent) {
                if self.extents.is_taken(extent) {
                    because(extent, "what is void");
                }
            }
        }
        for quarantined in &self.quarantined {
            because(quarantined.extent, "the quarantine");
        }
        for extent in self.round.iter().flat_map(|r| r.fresh_targets()) {
            because(extent, "a round");
        }
        for extent in self.extents.taken() {
            match reasons.remove(&extent).as_deref() {
                None => return Err(format!("extent {extent} is taken for nothing")),
                Some([_]) => {}
                Some(many) => return Err(format!("extent {extent} is taken for {many:?}")),
            }
        }
        if let Some((extent, why)) = reasons.pop_first() {
            let owner = self.extents.get(extent).owner;
            return Err(format!(
                "extent {extent} of {owner} is not taken, for {why:?}"
            ));
        }
        let (free, mapped) = self.extents.counts();
        let taken = self.extents.taken().count() as u32;
        if free + mapped + taken != self.extents.total() {
            return Err(format!(
                "{free} extents are free, {mapped} mapped, {taken} taken, of {}",
                self.extents.total()
            ));
        }
        Ok(())
    }

    /// Every batch knows how many records need it.
    fn audit_batches(&self) -> Result<(), String> {
        let mut live: BTreeMap<u64, u32> = BTreeMap::new();
        let mut count = |batch: Option<u64>| {
            if let Some(batch) = batch {
                *live.entry(batch).or_default() += 1;
            }
        };
        for (_, entry) in self.index.iter() {
            count(entry.batch);
            if let Forward::InFlight { batch, .. } = entry.forward {
                count(Some(batch));
            }
        }
        for slot in self.slots.values() {
            let writing = slot.writing.iter().flat_map(|w| &w.ghosts);
            writing.chain(&slot.ghosts).for_each(|g| count(g.batch));
        }
        for batch in &self.journal.batches {
            let counted = live.remove(&batch.number).unwrap_or(0);
            if counted != batch.live {
                let (number, live) = (batch.number, batch.live);
                return Err(format!(
                    "batch {number} is needed {counted} times, and counts {live}"
                ));
            }
        }
        match live.pop_first() {
            Some((batch, _)) => Err(format!("batch {batch} is needed and gone")),
            None => Ok(()),
        }
    }
}
