//! What the tests of the store share: a device, dice, and a bench to drive a store on it.

#![allow(dead_code)]

pub mod disk;
pub mod driver;
pub mod model;
pub mod rng;

use bytes::Bytes;
use disk::{Cut, Disk};
use lockstep_store::mutate::Broken;
use lockstep_store::{
    AppendContext, DiskOp, Event, FormatOptions, Geometry, NewPool, OpenOptions, Output, Outputs,
    ReadData, Recovery, Store, StoreError, Tag, pool_writes,
};
use lockstep_types::{
    BLOCK, BlockRange, ClusterId, DeviceId, Epoch, Incarnation, LineageId, NodeId, Record,
    RecordKind, ReplicaId, ReplicaMeta, Sequence, Stamp, VolumeId, checksum_blocks, millis,
};
use rng::Rng;

/// A store on its device, with all it said so far.
#[derive(Clone)]
pub struct Bench {
    pub disk: Disk,
    pub store: Store,
    pub options: OpenOptions,
    pub geometry: Geometry,
    pub rng: Rng,
    pub now: u64,
    pub events: Vec<Event>,
    next_tag: Tag,
}

/// The usual tiny pool.
pub fn tiny() -> FormatOptions {
    FormatOptions {
        device_bytes: 12 << 20,
        ring_bytes: 512 << 10,
        delta_bytes: 8 * BLOCK as u64,
        max_replicas: 4,
        window_bytes: 32 << 10,
    }
}

impl Bench {
    /// Formats a pool and opens it.
    pub fn new(format: &FormatOptions, seed: u64) -> Self {
        Self::with(format, seed, |_| {})
    }

    pub fn with(format: &FormatOptions, seed: u64, change: impl FnOnce(&mut OpenOptions)) -> Self {
        let mut disk = Disk::new(format.device_bytes);
        let pool = NewPool {
            cluster: ClusterId::from_u128(1),
            node: NodeId::from_u128(2),
            device: DeviceId::from_u128(3),
            key: [7; 16],
            incarnation: Incarnation(1),
        };
        let (zeroes, writes) = pool_writes(&pool, format).expect("the pool can be laid out");
        for area in zeroes {
            disk.poke(area.offset, &vec![0; area.length as usize]);
        }
        for (offset, bytes) in writes {
            disk.poke(offset, &bytes);
        }
        let mut options = OpenOptions::new(format.device_bytes);
        options.recent_bytes = 0;
        options.cached_pages = 2;
        change(&mut options);
        let mut bench = Self {
            disk,
            store: Store::open(options.clone()),
            options,
            geometry: Geometry::compute(format).expect("the pool can be laid out"),
            rng: Rng::new(seed),
            now: millis(1),
            events: Vec::new(),
            next_tag: 1,
        };
        bench.start();
        bench
    }

    fn start(&mut self) -> Recovery {
        self.events.clear();
        self.call(|store, now, out| store.start(now, out));
        while !self.store.is_ready() {
            assert!(self.step(), "recovery is stuck");
            if let Some(why) = self.store.refused() {
                panic!("the pool is refused: {why}");
            }
        }
        self.take(|e| match e {
            Event::Recovered(recovery) => Some(recovery.clone()),
            _ => None,
        })
        .expect("recovery ends with its report")
    }

    /// Opens the pool as it lies on the device; the reason if it is refused.
    pub fn reopen_or_refused(&mut self) -> Result<Recovery, String> {
        self.events.clear();
        self.store = Store::open(self.options.clone());
        self.call(|store, now, out| store.start(now, out));
        while !self.store.is_ready() {
            if let Some(why) = self.store.refused() {
                return Err(why.to_owned());
            }
            assert!(self.step(), "recovery is stuck");
        }
        let recovered = self.take(|e| match e {
            Event::Recovered(recovery) => Some(recovery.clone()),
            _ => None,
        });
        Ok(recovered.expect("recovery ends with its report"))
    }

    /// A clean end of the process: everything in flight is answered, then the pool is opened again.
    pub fn restart(&mut self) -> Recovery {
        self.call(|store, now, out| store.shutdown(now, out));
        self.settle();
        self.reopen_or_refused().expect("the pool opens")
    }

    /// The power goes, and the pool is opened again.
    pub fn crash(&mut self, cut: Cut) -> Recovery {
        self.disk.power_cut(&mut self.rng, cut);
        self.reopen_or_refused()
            .expect("the pool opens after a crash")
    }

    pub fn set_broken(&mut self, broken: Broken) {
        self.options.broken = broken;
    }

    pub fn call<T>(&mut self, ask: impl FnOnce(&mut Store, u64, &mut Outputs) -> T) -> T {
        let mut out = Outputs::new();
        let answer = ask(&mut self.store, self.now, &mut out);
        self.route(out);
        answer
    }

    fn route(&mut self, out: Outputs) {
        for output in out {
            match output {
                Output::Disk(op) => self.disk.submit(op, &self.geometry),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// Answers one operation of the device; false if there is none.
    pub fn step(&mut self) -> bool {
        match self.disk.answer_any(&mut self.rng) {
            Some((token, result)) => {
                self.now += 50_000;
                self.call(|store, now, out| store.disk_done(now, token, result, out));
                true
            }
            None => false,
        }
    }

    /// Answers the first operation that is wanted.
    pub fn step_where(&mut self, wanted: impl Fn(&DiskOp) -> bool) -> bool {
        match self.disk.answer_where(&mut self.rng, wanted) {
            Some((token, result)) => {
                self.now += 50_000;
                self.call(|store, now, out| store.disk_done(now, token, result, out));
                true
            }
            None => false,
        }
    }

    /// Answers whatever is in flight until nothing is.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the store never comes to rest: {}", self.store.outline());
    }

    /// Lets so much time pass, with the store's timers.
    pub fn idle(&mut self, time: u64) {
        let until = self.now + time;
        while self.now < until {
            self.settle();
            self.now += millis(50);
            self.call(|store, now, out| store.timer(now, out));
        }
        self.settle();
    }

    pub fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    /// Removes and gives the first event for which there is an answer.
    pub fn take<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let (at, found) = self
            .events
            .iter()
            .enumerate()
            .find_map(|(at, event)| wanted(event).map(|found| (at, found)))?;
        self.events.remove(at);
        Some(found)
    }

    pub fn done(&mut self, tag: Tag) -> Option<Result<(), StoreError>> {
        self.take(|e| match e {
            Event::Done { tag: t, result } if *t == tag => Some(result.clone()),
            _ => None,
        })
    }

    pub fn create(&mut self, number: u64) -> ReplicaId {
        let meta = meta(number);
        let tag = self.tag();
        self.call(|store, now, out| store.create_replica(now, meta.clone(), tag, out));
        self.settle();
        assert_eq!(self.done(tag), Some(Ok(())));
        meta.replica
    }

    pub fn append(&mut self, replica: ReplicaId, record: Record, floor: Stamp) {
        self.call(|store, now, out| {
            let context = AppendContext {
                floor,
                charged: false,
                now,
            };
            store.append(replica, record, context, out);
        });
    }

    /// Removes and counts the acknowledgements of a record.
    pub fn take_durable(&mut self, replica: ReplicaId, stamp: Stamp) -> bool {
        self.take(|e| (*e == Event::Durable { replica, stamp }).then_some(()))
            .is_some()
    }

    pub fn read(&mut self, replica: ReplicaId, range: BlockRange) -> Result<Vec<u8>, StoreError> {
        let tag = self.tag();
        self.call(|store, now, out| store.read(now, tag, replica, range, out));
        self.settle();
        self.read_result(tag)
            .expect("a read is answered")
            .map(|data| flatten(&data))
    }

    pub fn read_result(&mut self, tag: Tag) -> Option<Result<ReadData, StoreError>> {
        self.take(|e| match e {
            Event::Read { tag: t, result } if *t == tag => Some(result.clone()),
            _ => None,
        })
    }
}

pub fn meta(number: u64) -> ReplicaMeta {
    ReplicaMeta::new(
        ReplicaId::from_u128(u128::from(number) + 100),
        VolumeId::from_u128(u128::from(number) + 200),
        LineageId::from_u128(u128::from(number) + 300),
        Incarnation(1),
        1 << 14,
    )
}

pub fn stamp(epoch: u64, sequence: u64) -> Stamp {
    Stamp::new(Epoch(epoch), Sequence(sequence))
}

/// Content that tells where and when it was written.
pub fn content(salt: u64, range: BlockRange) -> Bytes {
    let mut bytes = Vec::with_capacity(range.bytes());
    for block in range.start..range.end() {
        let word = Rng::new(salt ^ block.rotate_left(40)).next();
        for at in 0..BLOCK as u64 / 8 {
            bytes.extend_from_slice(&(word ^ at << 17).to_le_bytes());
        }
    }
    bytes.into()
}

pub fn write(stamp: Stamp, range: BlockRange, salt: u64) -> Record {
    let payload = content(salt, range);
    Record {
        stamp,
        kind: RecordKind::Write,
        range,
        checksums: checksum_blocks(&payload),
        payload,
    }
}

pub fn without_payload(stamp: Stamp, kind: RecordKind, range: BlockRange) -> Record {
    Record {
        stamp,
        kind,
        range,
        checksums: Default::default(),
        payload: Bytes::new(),
    }
}

pub fn flatten(data: &ReadData) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (blocks, piece) in &data.pieces {
        match piece {
            Some(piece) => bytes.extend_from_slice(piece),
            None => bytes.resize(bytes.len() + *blocks as usize * BLOCK, 0),
        }
    }
    bytes
}

/// Nothing that was not flushed survives.
pub const DROP: Cut = Cut {
    kept: 0,
    dropped: 100,
};
/// Everything survives.
pub const KEEP: Cut = Cut {
    kept: 100,
    dropped: 0,
};
/// A bit of everything.
pub const MIXED: Cut = Cut {
    kept: 40,
    dropped: 30,
};
