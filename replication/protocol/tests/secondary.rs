//! The replica's side against a store that only remembers what it was asked.

use bytes::Bytes;
use lockstep_protocol::mutate::Broken;
use lockstep_protocol::{Grant, ReplicaStore, Secondary, Timings};
use lockstep_types::{
    BlockRange, Checksums, Cut, Epoch, ExtentIndex, Gap, Incarnation, LineageId, NodeId, Record,
    RecordKind, ReplicaId, ReplicaMeta, ResyncNumber, SECOND, Sequence, Stamp, VolumeId,
};
use lockstep_wire::{
    BeaconVolume, Header, ReplicaReply, ReplicaRequest, ReplyBody, RequestBody, TailEntry,
};

const ME: NodeId = NodeId::from_u128(1);
const A: NodeId = NodeId::from_u128(2);
const B: NodeId = NodeId::from_u128(3);
const VOLUME: VolumeId = VolumeId::from_u128(7);
const REPLICA: ReplicaId = ReplicaId::from_u128(8);
const LIFE: Incarnation = Incarnation(4);

#[derive(Default)]
struct Store {
    appended: Vec<Stamp>,
    /// Metadata written, by tag.
    metas: Vec<(u64, ReplicaMeta)>,
    voids: Vec<(u64, Sequence)>,
    floor: Stamp,
    released: u32,
    last_tag: u64,
}

impl Store {
    fn tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }
}

impl ReplicaStore for Store {
    fn append(&mut self, record: Record, _: Stamp, _: bool) {
        self.appended.push(record.stamp);
    }
    fn copy(&mut self, _: Stamp, _: RecordKind, _: BlockRange, _: Checksums, _: Bytes) -> u64 {
        self.tag()
    }
    fn put_meta(&mut self, meta: &ReplicaMeta) -> u64 {
        let tag = self.tag();
        self.metas.push((tag, meta.clone()));
        tag
    }
    fn void_above(&mut self, sequence: Sequence) -> u64 {
        let tag = self.tag();
        self.voids.push((tag, sequence));
        tag
    }
    fn read(&mut self, _: BlockRange) -> u64 {
        self.tag()
    }
    fn read_record(&mut self, _: Stamp) -> u64 {
        self.tag()
    }
    fn extent_sums(&mut self, _: ExtentIndex) -> u64 {
        self.tag()
    }
    fn tail(&self, above: Sequence) -> Vec<TailEntry> {
        let tail = self.appended.iter().filter(|s| s.sequence > above);
        tail.map(|stamp| TailEntry {
            stamp: *stamp,
            kind: RecordKind::Discard,
            range: BlockRange::new(0, 1),
            checksums: Checksums::none(),
        })
        .collect()
    }
    fn extents_newer(
        &self,
        _: Sequence,
        _: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
        (Vec::new(), None)
    }
    fn extents_present(
        &self,
        _: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
        (Vec::new(), None)
    }
    fn extent_newest(&self, _: ExtentIndex) -> Sequence {
        Sequence::ZERO
    }
    fn set_floor(&mut self, floor: Stamp) {
        self.floor = floor;
    }
    fn reserve(&mut self, extents: u32) -> u32 {
        extents
    }
    fn release_reservations(&mut self) {
        self.released += 1;
    }
}

struct Bench {
    secondary: Secondary,
    store: Store,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(Gap::None, Grant::never())
    }

    fn with(gap: Gap, grant: Grant) -> Self {
        let mut meta = ReplicaMeta::new(REPLICA, VOLUME, LineageId::from_u128(9), LIFE, 64);
        meta.gap = gap;
        Self {
            secondary: recovered(meta, grant),
            store: Store::default(),
            now: 100 * SECOND,
        }
    }

    /// It starts again with what it had written, and recovery finds this.
    fn start_again(&mut self, gap: Gap) {
        let (_, mut meta) = self.store.metas.last().expect("written").clone();
        meta.gap = gap;
        self.secondary = recovered(meta, Grant::at_start(self.now));
    }

    fn ask(&mut self, from: NodeId, epoch: u64, body: RequestBody) -> Vec<ReplyBody> {
        self.ask_life(from, epoch, LIFE, body)
    }

    fn ask_life(
        &mut self,
        from: NodeId,
        epoch: u64,
        incarnation: Incarnation,
        body: RequestBody,
    ) -> Vec<ReplyBody> {
        let header = Header {
            volume: VOLUME,
            replica: REPLICA,
            incarnation,
            epoch: Epoch(epoch),
        };
        let mut out = Vec::new();
        let request = ReplicaRequest { header, body };
        self.secondary
            .on_request(self.now, from, request, &mut self.store, &mut out);
        bodies(out)
    }

    fn done(&mut self, tag: u64) -> Vec<ReplyBody> {
        let mut out = Vec::new();
        self.secondary
            .on_done(self.now, tag, true, &mut self.store, &mut out);
        bodies(out)
    }

    fn durable(&mut self, epoch: u64, sequence: u64) -> Vec<ReplyBody> {
        let mut out = Vec::new();
        let stamp = Stamp::new(Epoch(epoch), Sequence(sequence));
        self.secondary
            .on_durable(self.now, [stamp], &mut self.store, &mut out);
        bodies(out)
    }

    fn meta_tag(&self) -> u64 {
        self.store.metas.last().expect("written").0
    }

    /// Sealed and opened under an epoch above `base`.
    fn open(&mut self, from: NodeId, epoch: u64, base: u64) {
        self.ask(from, epoch, RequestBody::Seal);
        let tag = self.meta_tag();
        assert!(matches!(self.done(tag)[..], [ReplyBody::Sealed(_)]));
        let base = Sequence(base);
        let opened = self.ask(from, epoch, RequestBody::Open { base, blocks: 64 });
        assert_eq!(opened, []);
        let tag = self.meta_tag();
        assert_eq!(self.done(tag), [ReplyBody::Opened { base }]);
    }
}

fn recovered(meta: ReplicaMeta, grant: Grant) -> Secondary {
    let (timings, broken) = (Timings::default(), Broken::default());
    Secondary::new(meta, Stamp::ZERO, grant, timings, broken)
}

fn bodies(out: Vec<(NodeId, ReplicaReply)>) -> Vec<ReplyBody> {
    out.into_iter().map(|(_, reply)| reply.body).collect()
}

fn append(epoch: u64, sequence: u64, roll: bool) -> RequestBody {
    let record = Record {
        stamp: Stamp::new(Epoch(epoch), Sequence(sequence)),
        kind: RecordKind::Discard,
        range: BlockRange::new(0, 1),
        checksums: Checksums::none(),
        payload: Bytes::new(),
    };
    RequestBody::Append {
        record,
        floor: Stamp::ZERO,
        roll,
        charged: false,
    }
}

fn acked(epoch: u64, sequence: u64) -> ReplyBody {
    let last = Stamp::new(Epoch(epoch), Sequence(sequence));
    ReplyBody::Ack { last }
}

#[test]
fn r3_a_promise_is_durable_before_it_is_answered() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(A, 1, RequestBody::Seal), []);
    let (tag, meta) = bench.store.metas[0].clone();
    assert_eq!(meta.promised, Epoch(1));
    assert!(matches!(bench.done(tag)[..], [ReplyBody::Sealed(_)]));
}

#[test]
fn r3_a_promise_that_was_overtaken_answers_nothing() {
    let mut bench = Bench::new();
    bench.ask(A, 1, RequestBody::Seal);
    bench.ask(B, 2, RequestBody::Seal);
    let (first, second) = (bench.store.metas[0].0, bench.store.metas[1].0);
    assert_eq!(bench.done(first), [], "epoch 2 is not on disk yet");
    assert!(matches!(bench.done(second)[..], [ReplyBody::Sealed(_)]));
}

#[test]
fn r3_nothing_below_the_promise_is_answered() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    bench.ask(B, 2, RequestBody::Seal);
    let promised = Epoch(2);
    let range = BlockRange::new(0, 1);
    let (id, from, stamp) = (5, 0, Stamp::ZERO);
    let resync = ResyncNumber(6);
    let cut = Cut {
        stamp,
        resync,
        shadow_from: Sequence::ZERO,
    };
    let than = Sequence::ZERO;
    let copy = RequestBody::Copy {
        id,
        resync: None,
        read_at: stamp,
        kind: RecordKind::Discard,
        range,
        checksums: Checksums::none(),
        payload: Bytes::new(),
    };
    let certify = RequestBody::Certify {
        id,
        resync,
        last: than,
        floor: stamp,
        blocks: 64,
        history: Vec::new(),
    };
    let asked = bench.store.last_tag;
    for body in [
        append(1, 1, false),
        copy,
        certify,
        RequestBody::Read { id, range },
        RequestBody::Seal,
        RequestBody::FetchRecord { id, stamp },
        RequestBody::Open {
            base: than,
            blocks: 64,
        },
        RequestBody::Reserve { id, extents: 1 },
        RequestBody::Release,
        RequestBody::JoinState { id },
        RequestBody::ExtentsNewer { id, than, from },
        RequestBody::ExtentsPresent { id, from },
        RequestBody::JoinCut { id, cut },
        RequestBody::ShadowStart {
            from: Sequence(1000),
        },
        RequestBody::ExtentSums { id, index: 0 },
        RequestBody::LostWrite { index: 0 },
    ] {
        let what = format!("{body:?}, not even before the new promise is durable");
        let refused = [ReplyBody::Refused { promised }];
        assert_eq!(bench.ask(A, 1, body), refused, "{what}");
    }
    assert_eq!(bench.store.appended, []);
    assert_eq!(
        bench.store.last_tag, asked,
        "the store was asked for nothing"
    );
    assert_eq!(bench.secondary.meta().promised, promised);
}

#[test]
fn r3_a_read_that_was_under_way_is_worthless_after_a_promise() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    let range = BlockRange::new(0, 1);
    bench.ask(A, 1, RequestBody::Read { id: 5, range });
    let tag = bench.store.last_tag;
    bench.ask(B, 2, RequestBody::Seal);
    let mut out = Vec::new();
    let data = lockstep_wire::ReadPieces {
        pieces: vec![(1, None)],
        checksums: Checksums::none(),
    };
    bench.secondary.on_read(tag, Ok(data), &mut out);
    let promised = Epoch(2);
    assert_eq!(bodies(out), [ReplyBody::Refused { promised }]);
}

#[test]
fn r4_another_life_is_no_member() {
    let mut bench = Bench::new();
    let said = bench.ask_life(A, 1, Incarnation(3), RequestBody::Seal);
    let incarnation = Some(LIFE);
    assert_eq!(said, [ReplyBody::NoSuchLife { incarnation }]);
    assert!(bench.store.metas.is_empty());
}

#[test]
fn r5_a_gap_is_not_accepted_and_acks_are_in_order() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    bench.ask(A, 1, append(1, 1, false));
    bench.ask(A, 1, append(1, 2, false));
    let expected = Sequence(3);
    assert_eq!(
        bench.ask(A, 1, append(1, 4, false)),
        [ReplyBody::OutOfOrder { expected }]
    );
    assert_eq!(bench.durable(1, 2), [], "1 is not durable yet");
    assert_eq!(bench.durable(1, 1), [acked(1, 2)]);
    // Sent again over a new link: known, and acknowledged, not stored twice.
    assert_eq!(bench.ask(A, 1, append(1, 2, false)), [acked(1, 2)]);
    assert_eq!(bench.store.appended.len(), 2);
}

#[test]
fn r10_a_seal_waits_for_what_was_accepted_before() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    bench.ask(A, 1, append(1, 1, false));
    bench.ask(B, 2, RequestBody::Seal);
    let tag = bench.meta_tag();
    assert_eq!(bench.done(tag), [], "1 is on its way");
    let said = bench.durable(1, 1);
    let [ReplyBody::Sealed(sealed)] = &said[..] else {
        panic!("no ack of the old epoch, only the seal: {said:?}");
    };
    assert_eq!(sealed.last, Stamp::new(Epoch(1), Sequence(1)));
    assert_eq!(sealed.tail.len(), 1);
}

#[test]
fn r11_a_rolled_record_takes_its_sequence_over() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    for sequence in 1..=3 {
        bench.ask(A, 1, append(1, sequence, false));
        bench.durable(1, sequence);
    }
    bench.ask(B, 2, RequestBody::Seal);
    let tag = bench.meta_tag();
    bench.done(tag);
    assert_eq!(bench.ask(B, 2, append(2, 2, true)), []);
    assert_eq!(
        bench.durable(2, 2),
        [acked(2, 2)],
        "3 counts again only under the new epoch"
    );
    bench.ask(B, 2, append(2, 3, true));
    assert_eq!(bench.durable(2, 3), [acked(2, 3)]);
    assert_eq!(bench.ask(B, 2, append(2, 2, true)), [acked(2, 3)]);
}

#[test]
fn r13_a_lease_that_was_granted_is_waited_for() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    let header = Header {
        volume: VOLUME,
        replica: REPLICA,
        incarnation: LIFE,
        epoch: Epoch(1),
    };
    let floor = Stamp::ZERO;
    let beacon = BeaconVolume { header, floor };
    let answer = bench
        .secondary
        .on_beacon(bench.now, A, ME, &beacon, &mut bench.store);
    assert!(answer.granted);
    bench.now += SECOND;
    bench.ask(B, 2, RequestBody::Seal);
    let tag = bench.meta_tag();
    let said = bench.done(tag);
    let [ReplyBody::Sealed(sealed)] = &said[..] else {
        panic!("sealed: {said:?}");
    };
    let all = Timings::default().clear_after();
    assert_eq!(sealed.clear_in, all - SECOND);
    let answer = bench
        .secondary
        .on_beacon(bench.now, A, ME, &beacon, &mut bench.store);
    assert!(!answer.granted, "the old epoch gets no lease any more");
}

#[test]
fn r13_a_restart_counts_as_a_grant_and_a_release_ends_one() {
    let mut bench = Bench::with(Gap::None, Grant::at_start(100 * SECOND));
    bench.open(A, 1, 0);
    bench.ask(A, 1, RequestBody::Release);
    bench.ask(B, 2, RequestBody::Seal);
    let tag = bench.meta_tag();
    let said = bench.done(tag);
    assert!(matches!(&said[..], [ReplyBody::Sealed(sealed)] if sealed.clear_in == 0));
}

#[test]
fn r15_the_cut_and_the_void_are_durable_before_the_answer() {
    for void_first in [false, true] {
        let mut bench = Bench::new();
        let cut = Cut {
            stamp: Stamp::ZERO,
            resync: ResyncNumber(1),
            shadow_from: Sequence::ZERO,
        };
        assert_eq!(bench.ask(A, 3, RequestBody::JoinCut { id: 9, cut }), []);
        assert_eq!(bench.store.released, 1, "what an older epoch reserved");
        let (stored, void) = (bench.meta_tag(), bench.store.voids[0].0);
        let (first, second) = match void_first {
            true => (void, stored),
            false => (stored, void),
        };
        assert_eq!(bench.done(first), []);
        assert_eq!(bench.done(second), [ReplyBody::CutDone { id: 9 }]);
    }
}

#[test]
fn r24_a_torn_gap_is_refuted_by_the_primary_that_goes_on() {
    let mut bench = Bench::with(Gap::Torn, Grant::never());
    bench.ask(A, 1, RequestBody::Seal);
    let tag = bench.meta_tag();
    let said = bench.done(tag);
    assert!(matches!(&said[..], [ReplyBody::Sealed(sealed)] if sealed.gap == Gap::Torn));
    // The epoch's opening means that every member was sealed: the gap is filled or refuted.
    let base = Sequence::ZERO;
    bench.ask(A, 1, RequestBody::Open { base, blocks: 64 });
    assert_eq!(bench.secondary.meta().gap, Gap::None);
}

#[test]
fn r24_who_lost_acknowledged_records_is_no_member_of_the_epoch_that_goes_on() {
    let mut bench = Bench::with(Gap::Corrupt, Grant::never());
    let range = BlockRange::new(0, 1);
    for body in [append(0, 1, false), RequestBody::Read { id: 5, range }] {
        assert_eq!(bench.ask(A, 0, body), [ReplyBody::Failed]);
    }
    assert!(bench.store.appended.is_empty());
    // It is asked what it has, to be resynced; and sealed, to be told apart.
    let said = bench.ask(A, 0, RequestBody::JoinState { id: 6 });
    assert!(matches!(
        &said[..],
        [ReplyBody::JoinStated {
            gap: Gap::Corrupt,
            ..
        }]
    ));
    bench.ask(A, 1, RequestBody::Seal);
    let tag = bench.meta_tag();
    let said = bench.done(tag);
    assert!(matches!(&said[..], [ReplyBody::Sealed(sealed)] if sealed.gap == Gap::Corrupt));
}

#[test]
fn r24_what_the_seal_did_not_tell_is_not_opened() {
    let mut bench = Bench::new();
    bench.ask(A, 1, RequestBody::Seal);
    let tag = bench.meta_tag();
    let said = bench.done(tag);
    assert!(matches!(&said[..], [ReplyBody::Sealed(sealed)] if sealed.gap == Gap::None));
    bench.start_again(Gap::Corrupt);
    let base = Sequence::ZERO;
    for body in [append(1, 1, true), RequestBody::Open { base, blocks: 64 }] {
        assert_eq!(bench.ask(A, 1, body), [ReplyBody::Failed]);
    }
    assert_eq!(bench.secondary.meta().gap, Gap::Corrupt);
    // The next SEAL is told, and what opens after it has filled what is missing.
    bench.open(A, 2, 0);
    assert_eq!(bench.secondary.meta().gap, Gap::None);
}

#[test]
fn a_failed_device_says_so_at_once_and_never_acknowledges() {
    let mut bench = Bench::new();
    bench.open(A, 1, 0);
    bench.ask(A, 1, append(1, 1, false));
    let mut out = Vec::new();
    bench.secondary.fail(&mut out);
    assert_eq!(bodies(out), [ReplyBody::Failed]);
    assert_eq!(bench.durable(1, 1), []);
    assert_eq!(bench.ask(A, 1, append(1, 2, false)), [ReplyBody::Failed]);
}
