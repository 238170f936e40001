//! What the owner of the store does before it acts at random: a sequence of records and floors that a
//! scenario writes down.

use super::{Event, Made, Owned, StoreWorld};
use lockstep_store::Store;
use lockstep_types::{BlockRange, EXTENT_BLOCKS, Nanos, RecordKind, Stamp};

/// One step; the first replica is the one that is spoken of.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Appends a record.
    Record(RecordKind, BlockRange),
    /// Raises the floor as far as it goes.
    Floor,
    /// Everything above the floor is made void.
    Void,
    /// The second replica writes until the ring is so full, in per cent, and its floor follows or not.
    FillRing { to: u32, floor: bool },
    /// Nothing for so long.
    Wait(Nanos),
}

/// Blocks of a record that fills the ring.
const LONG: u32 = 48;

impl StoreWorld {
    /// The next step of the script, once the store serves.
    pub(super) fn follow_script(&mut self) {
        let settled = |owned: &Owned| owned.created && owned.voiding.is_none();
        let ready = !self.recovering && self.store.is_some();
        let mut wait = self.plan.think;
        if ready && self.replicas.iter().all(settled) {
            match self.plan.script[0] {
                Step::Record(kind, range) => self.append_of(0, kind, range),
                Step::Floor => self.floor_follows(0),
                Step::Void => self.void(0, self.replicas[0].floor.sequence),
                Step::Wait(time) => wait = time,
                Step::FillRing { to, floor } => {
                    if self.fill_ring(to, floor) {
                        return self.queue.after(wait, Event::Act);
                    }
                    wait = 0;
                }
            }
            self.plan.script.pop_front();
        }
        self.queue.after(wait, Event::Act);
    }

    /// One record more of the second replica, unless the ring is so full, in per cent; gives whether it is
    /// still not.
    fn fill_ring(&mut self, to: u32, floor: bool) -> bool {
        let full = |world: &Self| {
            let fill = world.store.as_ref().map_or(0, Store::fill);
            fill * 100 > 65536 * to
        };
        if full(self) {
            return false;
        }
        if floor {
            self.floor_follows(1);
        }
        let extents = self.plan.blocks / EXTENT_BLOCKS;
        let extent = self.replicas[1].model.last().0 % extents;
        let range = BlockRange::new(extent * EXTENT_BLOCKS, LONG);
        self.append_of(1, RecordKind::Write, range);
        !full(self)
    }

    fn append_of(&mut self, i: usize, kind: RecordKind, range: BlockRange) {
        let owned = &self.replicas[i];
        let stamp = Stamp::new(owned.epoch, owned.model.last().next());
        let value = match kind {
            RecordKind::Write => self.values.next(),
            _ => 0,
        };
        let made = Made {
            stamp,
            kind,
            range,
            value,
        };
        self.append_made(i, made, true);
    }

    fn floor_follows(&mut self, i: usize) {
        let owned = &mut self.replicas[i];
        owned.floor = Stamp::new(owned.epoch, owned.model.durable);
        let (id, floor) = (owned.id, owned.floor);
        self.say(format_args!("replica {i}: floor {floor}"));
        self.with(|store, _| store.set_floor(id, floor));
    }
}
