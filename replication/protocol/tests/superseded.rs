//! A primary whose epoch another one ended, while answers to its own are still on their way (R9, R12).

use lockstep_protocol::mutate::Broken;
use lockstep_protocol::{Primary, PrimaryOut, ReplicaView, Role, Timings, View};
use lockstep_types::{
    AttachmentId, Epoch, Gap, Incarnation, LineageId, NodeId, ReplicaId, SECOND, Sequence, Stamp,
    VolumeId, millis,
};
use lockstep_wire::{BeaconAnswer, Header, ReplicaReply, ReplicaRequest, ReplyBody, RequestBody};
use std::collections::{BTreeMap, BTreeSet};

const LIFE: Incarnation = Incarnation(1);
const ATTACHMENT: AttachmentId = AttachmentId::from_u128(5);

fn me() -> NodeId {
    NodeId::from_u128(1)
}

fn other() -> NodeId {
    NodeId::from_u128(2)
}

/// One copy, on the other node.
fn copy() -> ReplicaId {
    ReplicaId::from_u128(8)
}

fn view() -> View {
    let of = ReplicaView {
        node: other(),
        site: "b".into(),
        incarnation: LIFE,
        ready: true,
        leaving: false,
    };
    View {
        volume: VolumeId::from_u128(7),
        lineage: LineageId::from_u128(9),
        blocks: 64,
        epoch: Epoch::ZERO,
        version: 1,
        primary: None,
        caretaker: false,
        attachment: Some((ATTACHMENT, me())),
        in_sync: BTreeMap::from([(copy(), LIFE)]),
        replicas: BTreeMap::from([(copy(), of)]),
        kept: BTreeSet::new(),
        distrusted: false,
    }
}

fn requests(out: Vec<PrimaryOut>) -> Vec<ReplicaRequest> {
    let sent = out.into_iter().filter_map(|one| match one {
        PrimaryOut::Send { request, .. } => Some(request),
        _ => None,
    });
    sent.collect()
}

fn probes(sent: &[ReplicaRequest]) -> Vec<(Header, u64)> {
    let probes = sent.iter().filter_map(|request| match request.body {
        RequestBody::Probe { id } => Some((request.header, id)),
        _ => None,
    });
    probes.collect()
}

/// A caretaker took the volume while this node was silent, and gave it back. What the other node said meanwhile to
/// this one's epoch arrives after the record that ended it: the volume must be opened again all the same.
#[test]
fn a_late_answer_to_the_epoch_before_does_not_keep_it_from_the_next() {
    let mut now = 100 * SECOND;
    let role = Role::Attached(ATTACHMENT);
    let (timings, broken) = (Timings::default(), Broken::default());
    let mut primary = Primary::new(me(), role, view(), now, now, timings, broken);
    let mut out = Vec::new();
    primary.on_link(now, other(), true, &mut out);
    primary.on_timer(now, &|_| true, &mut out);
    let asked = probes(&requests(std::mem::take(&mut out)));
    let (header, id) = *asked.first().expect("it asks who is there");
    let body = ReplyBody::Probed {
        id,
        promised: Epoch::ZERO,
        gap: Gap::None,
        joining: false,
    };
    primary.on_reply(
        now,
        other(),
        ReplicaReply { header, body },
        &|_| true,
        &mut out,
    );
    let mut record = View {
        epoch: Epoch::new(0, 1),
        version: 2,
        primary: Some(me()),
        ..view()
    };
    primary.on_view(now, record.clone(), &mut out);
    let sent = requests(std::mem::take(&mut out));
    let seal = sent.iter().find(|r| r.body == RequestBody::Seal);
    let header = seal.expect("it seals under its epoch").header;

    record.epoch = Epoch::new(0, 2);
    record.version = 3;
    record.primary = Some(other());
    record.caretaker = true;
    primary.on_view(now, record.clone(), &mut out);
    record.version = 4;
    record.primary = None;
    record.caretaker = false;
    primary.on_view(now, record, &mut out);
    let late = BeaconAnswer {
        header,
        granted: false,
        promised: Epoch::new(0, 2),
        last: Stamp::new(Epoch::new(0, 1), Sequence(1)),
    };
    primary.on_beacon_answer(now, now, &late, &|_| true, &mut out);
    out.clear();
    for _ in 0..20 {
        now += millis(50);
        primary.on_timer(now, &|_| true, &mut out);
    }
    assert!(
        !probes(&requests(out)).is_empty(),
        "it asks again, to open the next epoch"
    );
}
