//! The ring: batches one after the other, one in flight, each durable before it is answered (S1).
//!
//! Positions count bytes since format and never wrap; the place on the device is the position modulo
//! the ring. A batch never crosses the end of the ring: the rest of the lap is left over.

use crate::format::HeaderHash;
use crate::geometry::Area;
use crate::index::EntryId;
use lockstep_types::Stamp;
use std::collections::VecDeque;

/// Payload bytes of one batch at most.
const MAX_PAYLOAD: u64 = 256 * 1024;

/// A batch that is in the ring.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BatchInfo {
    /// Its number.
    pub number: u64,
    /// Its position.
    pub position: u64,
    /// Its length.
    pub bytes: u64,
    /// The hash it carries of the header before.
    pub previous: HeaderHash,
    /// Its records, dead ones too.
    pub entries: Vec<EntryId>,
    /// How many of them are still needed here: live records, and dead ones until what took their
    /// place is durable.
    pub live: u32,
    /// Durable.
    pub durable: bool,
}

/// The ring's state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Journal {
    ring: Area,
    /// The position after the last batch given out.
    pub head: u64,
    /// The position from which on nothing may be overwritten: that of the anchor on disk.
    pub tail: u64,
    /// The number of the next batch.
    pub next_number: u64,
    /// The hash of the last header given out.
    pub previous: HeaderHash,
    /// The highest batch known durable: the mark (R24).
    pub durable: u64,
    /// The highest mark that is on disk: a batch above it that decays is taken for one that was torn.
    pub marked: u64,
    /// Bytes of all windows of the replicas here: pinned records are bounded by them.
    pub windows: u64,
    /// About how many bytes the records need that are in the ring.
    pub needed: u64,
    /// Batches that the tail passes only together: up to the second one lie records that were copied
    /// forward past newer ones of their replica, which were in the first and went to their place
    /// instead. Met without those at recovery, they would count again.
    pub together: Vec<(u64, u64)>,
    /// Whether a batch is in flight.
    pub in_flight: bool,
    /// The floors that it says, by slot.
    pub floors_in_flight: Vec<(u32, Stamp)>,
    /// New records in order, dead ones too.
    pub pending: VecDeque<EntryId>,
    /// Records to be copied forward, in order, dead ones too. Newer records of their replicas are held
    /// back meanwhile, so that the order of a replica's records in the ring stays that of their
    /// sequences.
    pub forwards: VecDeque<EntryId>,
    /// Batches from the tail on.
    pub batches: VecDeque<BatchInfo>,
}

impl Journal {
    /// An empty ring that starts at a position.
    pub fn new(ring: Area, position: u64, next_number: u64, previous: HeaderHash) -> Self {
        Self {
            ring,
            head: position,
            tail: position,
            next_number,
            previous,
            durable: next_number - 1,
            marked: next_number - 1,
            windows: 0,
            needed: 0,
            together: Vec::new(),
            in_flight: false,
            floors_in_flight: Vec::new(),
            pending: VecDeque::new(),
            forwards: VecDeque::new(),
            batches: VecDeque::new(),
        }
    }

    /// The device offset of a position.
    pub fn offset(&self, position: u64) -> u64 {
        self.ring.offset + position % self.ring.length
    }

    /// The lap of a position.
    pub fn lap(&self, position: u64) -> u64 {
        position / self.ring.length
    }

    /// Payload of one batch at most, in bytes.
    pub fn max_payload(&self) -> u64 {
        MAX_PAYLOAD.min(self.ring.length / 8)
    }

    /// Where a batch of so many bytes would begin.
    pub fn place(&self, bytes: u64) -> u64 {
        let left = self.ring.length - self.head % self.ring.length;
        if bytes <= left {
            self.head
        } else {
            self.head + left
        }
    }

    /// Whether a batch of so many bytes fits. New records leave room for every replica's window to be
    /// copied forward (S5), and these a little to floors, without which the tail could not move.
    pub fn fits(&self, bytes: u64, room: Room) -> bool {
        let empty = self.batches.is_empty();
        let kept_free = match room {
            _ if empty => 0,
            Room::Records => self.kept_for_copies(bytes),
            Room::Ahead => self.kept_for_front(),
            Room::Forwards => self.ring.length / 32,
            Room::Floors => 0,
        };
        self.place(bytes) + bytes - self.tail <= self.ring.length - kept_free
    }

    /// What new records of so many bytes leave free for copies: the windows or, if that is less, what is
    /// there to copy with them; but room for any batch, and no more than three quarters of the ring.
    fn kept_for_copies(&self, bytes: u64) -> u64 {
        let ring = self.ring.length;
        let most = self.windows.min(self.needed + bytes);
        let least = self.kept_for_front().max(ring / 8);
        (most + most / 8 + ring / 16).clamp(least, ring / 4 * 3)
    }

    /// Room for any batch at the tail to be copied forward with its header, after what it leaves over of a lap.
    fn kept_for_front(&self) -> u64 {
        self.ring.length / 16 + 2 * self.max_payload()
    }

    /// Leaves the rest of the lap out, so that an empty ring takes any batch that is not longer than it.
    pub fn skip_lap(&mut self) {
        assert!(
            self.batches.is_empty(),
            "only an empty ring is moved without a batch"
        );
        self.head = self.head.next_multiple_of(self.ring.length);
    }

    /// How full the ring is, in 1/65536.
    pub fn fill(&self) -> u32 {
        if self.ring.length == 0 {
            return 0; // the superblock has not been read yet
        }
        ((self.head - self.tail) * 65536 / self.ring.length) as u32
    }

    /// The number of the oldest batch still needed.
    pub fn tail_number(&self) -> u64 {
        self.batches.front().map_or(self.next_number, |b| b.number)
    }

    /// A record of a batch is no longer needed there.
    pub fn forget(&mut self, batch: u64) {
        if let Some(info) = self.batch_mut(batch) {
            assert!(info.live > 0, "a record is forgotten once");
            info.live -= 1;
        }
    }

    /// A batch by number.
    pub fn batch_mut(&mut self, number: u64) -> Option<&mut BatchInfo> {
        // Numbers rise, but not always by one: recovery may have met a gap (R24).
        let at = self.batches.partition_point(|b| b.number < number);
        self.batches.get_mut(at).filter(|b| b.number == number)
    }

    /// How many batches at the tail nobody needs any more.
    pub fn dead_front(&self) -> usize {
        let dead = |b: &&BatchInfo| b.live == 0 && b.durable;
        self.batches.iter().take_while(dead).count()
    }

    /// The first batch that is needed.
    pub fn front(&self) -> Option<&BatchInfo> {
        self.batches.get(self.dead_front())
    }

    /// The position after so many batches from the tail on.
    pub fn position_after(&self, count: usize) -> u64 {
        match (count, self.batches.get(count)) {
            (0, _) if !self.batches.is_empty() => self.tail,
            (_, Some(next)) => next.position,
            (_, None) => self.head,
        }
    }
}

/// Who asks for room in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// New records.
    Records,
    /// Records that are copied forward and free nothing by that, as others still need their batch or one before
    /// it: they leave room for those that do.
    Ahead,
    /// Records that are copied forward and free their batch.
    Forwards,
    /// Floors alone.
    Floors,
}
