//! Being resynced: from the first question to the certified state (R15, R16).

use super::{Asked, Pending, ReplicaStore, Replies, Secondary};
use crate::mutate::Mutation;
use lockstep_types::{Cut, EpochStart, Gap, NodeId, ResyncNumber, Sequence, Stamp};
use lockstep_wire::{Header, ReplicaError, ReplyBody, RequestBody};

impl Secondary {
    pub(super) fn on_join_request(
        &mut self,
        from: NodeId,
        header: Header,
        body: RequestBody,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        let asked = |id| Asked {
            to: from,
            header,
            id,
        };
        match body {
            RequestBody::JoinState { id } => {
                let state = self.join_state(id);
                self.reply(from, header, state, out);
            }
            RequestBody::ExtentsNewer {
                id,
                than,
                from: start,
            } => {
                let (extents, next) = store.extents_newer(than, start);
                self.reply(from, header, ReplyBody::Extents { id, extents, next }, out);
            }
            RequestBody::ExtentsPresent { id, from: start } => {
                let (extents, next) = store.extents_present(start);
                self.reply(from, header, ReplyBody::Extents { id, extents, next }, out);
            }
            RequestBody::JoinCut { id, cut } => self.on_cut(asked(id), cut, store),
            RequestBody::ShadowStart { from: first } => {
                let before = Stamp::new(header.epoch, Sequence(first.0 - 1));
                self.last = before;
                self.durable = before;
                self.ahead.clear();
            }
            body @ RequestBody::Copy { .. } => self.on_copy(from, header, body, store, out),
            RequestBody::Certify {
                id,
                resync,
                last,
                floor,
                blocks,
                history,
            } => {
                if !self.may_certify(resync, last) {
                    let expected = self.durable.sequence.next();
                    return self.reply(from, header, ReplyBody::OutOfOrder { expected }, out); // R5
                }
                self.certify(asked(id), floor, blocks, history, store);
            }
            other => unreachable!("handled by on_request: {other:?}"),
        }
    }

    fn join_state(&self, id: u64) -> ReplyBody {
        ReplyBody::JoinStated {
            id,
            history: self.meta.history.clone(),
            last: self.durable,
            floor: self.meta.floor,
            cut: self.meta.cut,
            gap: self.meta.gap,
            blocks: self.meta.blocks,
        }
    }

    /// The cut is durable, and what lies above it void, before the first shadow (R15).
    fn on_cut(&mut self, asked: Asked, cut: Cut, store: &mut impl ReplicaStore) {
        self.meta.promised = asked.header.epoch;
        store.release_reservations(); // R7: an older epoch's
        self.meta.cut = Some(cut);
        self.primary = Some((asked.to, asked.header));
        let stored = store.put_meta(&self.meta);
        let void = if self.broken.is(Mutation::R15TailNotVoided) {
            0
        } else {
            let void = store.void_above(cut.stamp.sequence);
            self.pending.insert(void, Pending::Untold);
            void
        };
        self.pending
            .insert(stored, Pending::CutStored { asked, void });
    }

    fn on_copy(
        &mut self,
        from: NodeId,
        header: Header,
        body: RequestBody,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        let RequestBody::Copy {
            id,
            resync,
            read_at,
            kind,
            range,
            checksums,
            payload,
        } = body
        else {
            unreachable!("dispatched by its kind");
        };
        let newer = store.extent_newest(range.extent()) > read_at.sequence;
        let refused = if resync != self.meta.cut.map(|cut| cut.resync) {
            Some(ReplicaError::OtherResync)
        } else if newer && !self.broken.is(Mutation::R16StaleCopyAccepted) {
            Some(ReplicaError::Stale) // R16: written since; the primary reads again
        } else {
            None
        };
        if let Some(error) = refused {
            let result = Err(error);
            return self.reply(from, header, ReplyBody::CopyDone { id, result }, out);
        }
        let tag = store.copy(read_at, kind, range, checksums, payload);
        let asked = Asked {
            to: from,
            header,
            id,
        };
        self.pending.insert(tag, Pending::Copy(asked));
    }

    /// Everything up to `last` is here, by this resync and no other.
    fn may_certify(&self, resync: ResyncNumber, last: Sequence) -> bool {
        let current = self.meta.cut.map(|cut| cut.resync) == Some(resync);
        let caught_up = self.durable.sequence >= last;
        current && (caught_up || self.broken.is(Mutation::R5CertifiedBehind))
    }

    fn certify(
        &mut self,
        asked: Asked,
        floor: Stamp,
        blocks: u64,
        history: Vec<EpochStart>,
        store: &mut impl ReplicaStore,
    ) {
        self.meta.cut = None;
        self.meta.gap = Gap::None;
        self.meta.history = history;
        self.meta.opened = asked.header.epoch;
        self.meta.blocks = self.meta.blocks.max(blocks);
        self.meta.floor = self.meta.floor.max(self.bounded(floor));
        let tag = store.put_meta(&self.meta);
        self.pending.insert(tag, Pending::Certified(asked));
    }
}
