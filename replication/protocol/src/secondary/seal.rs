//! Promises and the opening of epochs: what was accepted before a promise is part of its answer, and
//! rolled records take their sequences over (R9–R11).

use super::{Pending, PendingSeal, ReplicaStore, Replies, Secondary};
use crate::mutate::Mutation;
use lockstep_types::{EpochStart, Gap, Nanos, NodeId, Sequence, Stamp};
use lockstep_wire::{Header, ReplyBody, Sealed};

impl Secondary {
    pub(super) fn on_seal(
        &mut self,
        now: Nanos,
        from: NodeId,
        header: Header,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        // From here on appends of older epochs are refused; those accepted before become durable
        // first and are part of the answer (R10).
        let again = header.epoch == self.meta.promised && self.seal.is_none();
        self.meta.promised = header.epoch;
        self.told_gap = Gap::None;
        store.release_reservations();
        self.primary = Some((from, header));
        self.seal = Some(PendingSeal {
            to: from,
            header,
            promised: again,
        });
        if !again {
            let tag = store.put_meta(&self.meta);
            self.pending.insert(tag, Pending::Sealed(header.epoch));
            if self.broken.is(Mutation::R3PromiseNotPersisted) {
                self.seal = Some(PendingSeal {
                    to: from,
                    header,
                    promised: true,
                });
            }
        }
        self.finish_seal(now, store, out);
    }

    /// Answers a SEAL once the promise and every append accepted before it are durable (R10).
    pub(super) fn finish_seal(
        &mut self,
        now: Nanos,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        let Some(seal) = &self.seal else { return };
        let drained = self.durable.sequence == self.last.sequence
            || self.broken.is(Mutation::R10SealDoesNotWait);
        if !seal.promised || !drained {
            return;
        }
        let PendingSeal { to, header, .. } = self.seal.take().expect("looked at above");
        self.told_gap = self.meta.gap;
        let sealed = Sealed {
            gap: self.meta.gap,
            floor: self.meta.floor,
            last: self.durable,
            history: self.meta.history.clone(),
            blocks: self.meta.blocks,
            tail: store.tail(self.meta.floor.sequence),
            clear_in: self.grant.clear_in(now, &self.timings),
            joining: self.meta.cut.is_some(),
        };
        self.reply(to, header, ReplyBody::Sealed(sealed), out);
    }

    /// A rolled record takes its sequence over: what was durable from it on counts again only under
    /// the new epoch.
    pub(super) fn roll_back_to(&mut self, sequence: Sequence) {
        let before = Sequence(sequence.0 - 1);
        if self.durable.sequence >= sequence {
            self.durable = Stamp::new(self.durable.epoch, before);
        }
        self.ahead.clear();
    }

    pub(super) fn on_open(
        &mut self,
        from: NodeId,
        header: Header,
        base: Sequence,
        blocks: u64,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        if self.durable.sequence != base || self.last.sequence != base {
            let expected = self.durable.sequence.next();
            return self.reply(from, header, ReplyBody::OutOfOrder { expected }, out);
        }
        if self.meta.opened < header.epoch {
            self.meta.push_history(EpochStart {
                epoch: header.epoch,
                base,
            });
            self.meta.opened = header.epoch;
            self.meta.blocks = self.meta.blocks.max(blocks);
            self.meta.gap = Gap::None; // filled or refuted by the reconcile (R24)
        }
        let first = Stamp::new(header.epoch, base);
        // No floor yet: of an epoch that is open for repair only none is told, for who is absent from it lacks
        // what was rolled (docs/decisions/0008).
        self.last = first;
        self.durable = first;
        let tag = store.put_meta(&self.meta);
        self.pending.insert(
            tag,
            Pending::Opened {
                to: from,
                header,
                base,
            },
        );
    }
}
