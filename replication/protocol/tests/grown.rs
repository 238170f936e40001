//! R8: a volume grows by a record under its epoch, also twice in a row.

use lockstep_protocol::mutate::Broken;
use lockstep_protocol::{Primary, PrimaryOut, ReplicaView, Role, Timings, View};
use lockstep_types::{
    AttachmentId, Epoch, ExtentIndex, Gap, Incarnation, LineageId, Nanos, NodeId, RecordKind,
    ReplicaId, SECOND, Sequence, Stamp, VolumeId, millis,
};
use lockstep_wire::{BeaconAnswer, ReplicaReply, ReplicaRequest, ReplyBody, RequestBody, Sealed};
use std::collections::{BTreeMap, BTreeSet};

const LIFE: Incarnation = Incarnation(1);
const ATTACHMENT: AttachmentId = AttachmentId::from_u128(5);
const ME: NodeId = NodeId::from_u128(1);
const OTHER: NodeId = NodeId::from_u128(2);
/// The only copy, on the other node.
const COPY: ReplicaId = ReplicaId::from_u128(8);

struct Bench {
    primary: Primary,
    view: View,
    now: Nanos,
    sent: Vec<ReplicaRequest>,
    /// Records that the copy has been sent and has not acknowledged.
    appended: Vec<ReplicaRequest>,
}

impl Bench {
    /// An open volume of 64 blocks.
    fn open() -> Self {
        let of = ReplicaView {
            node: OTHER,
            site: "b".into(),
            incarnation: LIFE,
            ready: true,
            leaving: false,
        };
        let view = View {
            volume: VolumeId::from_u128(7),
            lineage: LineageId::from_u128(9),
            blocks: 64,
            epoch: Epoch::ZERO,
            version: 1,
            primary: None,
            caretaker: false,
            attachment: Some((ATTACHMENT, ME)),
            in_sync: BTreeMap::from([(COPY, LIFE)]),
            replicas: BTreeMap::from([(COPY, of)]),
            kept: BTreeSet::new(),
            distrusted: false,
        };
        let now = 100 * SECOND;
        let (timings, broken) = (Timings::default(), Broken::default());
        let role = Role::Attached(ATTACHMENT);
        let primary = Primary::new(ME, role, view.clone(), now, now, timings, broken);
        let mut bench = Self {
            primary,
            view,
            now,
            sent: Vec::new(),
            appended: Vec::new(),
        };
        bench.drive(|p, now, out| p.on_link(now, OTHER, true, out));
        bench.pass();
        bench.view.epoch = Epoch::new(0, 1);
        bench.view.primary = Some(ME);
        bench.tell();
        bench.acknowledge();
        assert!(bench.primary.is_open(), "{:?}", bench.primary);
        bench
    }

    /// The record is committed as it is.
    fn tell(&mut self) {
        self.view.version += 1;
        let view = self.view.clone();
        self.drive(|p, now, out| p.on_view(now, view, out));
        self.pass();
    }

    /// Everything that was appended is acknowledged, and what follows from it.
    fn acknowledge(&mut self) {
        while !self.appended.is_empty() {
            for append in std::mem::take(&mut self.appended) {
                let RequestBody::Append { record, .. } = &append.body else {
                    unreachable!("only those are kept");
                };
                let body = ReplyBody::Ack { last: record.stamp };
                self.reply(&append, body);
            }
            self.pass();
        }
    }

    fn drive(&mut self, act: impl FnOnce(&mut Primary, Nanos, &mut Vec<PrimaryOut>)) {
        let mut out = Vec::new();
        act(&mut self.primary, self.now, &mut out);
        for one in out {
            if let PrimaryOut::Send { request, .. } = one {
                self.sent.push(request);
            }
        }
    }

    fn reply(&mut self, to: &ReplicaRequest, body: ReplyBody) {
        let header = to.header;
        let reply = ReplicaReply { header, body };
        self.drive(|p, now, out| p.on_reply(now, OTHER, reply, &|_: ExtentIndex| true, out));
    }

    /// A second of time, beacons and answers; records are only kept.
    fn pass(&mut self) {
        for _ in 0..20 {
            self.now += millis(50);
            let beacons: Vec<_> = self.primary.beacons_for(OTHER).collect();
            for volume in beacons {
                let answer = BeaconAnswer {
                    header: volume.header,
                    granted: true,
                    promised: volume.header.epoch,
                    last: Stamp::new(volume.header.epoch, Sequence(u64::MAX)),
                };
                self.drive(|p, now, out| p.on_beacon_answer(now, now, &answer, &|_| true, out));
            }
            self.drive(|p, now, out| p.on_timer(now, &|_| true, out));
            for request in std::mem::take(&mut self.sent) {
                self.answer(request);
            }
        }
    }

    fn answer(&mut self, request: ReplicaRequest) {
        let body = match &request.body {
            RequestBody::Probe { id } => ReplyBody::Probed {
                id: *id,
                promised: Epoch::ZERO,
                gap: Gap::None,
                joining: false,
            },
            RequestBody::Seal => ReplyBody::Sealed(Sealed {
                gap: Gap::None,
                floor: Stamp::ZERO,
                last: Stamp::ZERO,
                history: Vec::new(),
                blocks: 64,
                tail: Vec::new(),
                clear_in: 0,
                joining: false,
            }),
            RequestBody::Open { base, .. } => ReplyBody::Opened { base: *base },
            RequestBody::Reserve { id, extents } => ReplyBody::Reserved {
                id: *id,
                extents: *extents,
            },
            RequestBody::Append { .. } => return self.appended.push(request),
            other => panic!("nobody asks for {other:?}"),
        };
        self.reply(&request, body);
    }

    /// Sizes of the records that were sent and not acknowledged.
    fn growing(&self) -> Vec<u64> {
        let sizes = self.appended.iter().filter_map(|it| match &it.body {
            RequestBody::Append { record, .. } if record.kind == RecordKind::Resize => {
                Some(record.range.start)
            }
            _ => None,
        });
        sizes.collect()
    }
}

/// World seed 2622244: the second size was committed while the record of the first was on its way, and nobody
/// looked again when that was durable.
#[test]
fn r8_a_size_committed_while_the_one_before_is_on_its_way_is_reached() {
    let mut bench = Bench::open();
    bench.view.blocks = 128;
    bench.tell();
    assert_eq!(bench.growing(), [128]);
    bench.view.blocks = 192;
    bench.tell();
    assert_eq!(bench.growing(), [128], "one after the other");
    bench.acknowledge();
    assert_eq!(bench.primary.blocks(), 192);
}
