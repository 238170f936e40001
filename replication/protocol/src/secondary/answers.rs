//! What the store answers, told to whom it concerns. An epoch promised meanwhile makes every answer
//! worthless (R3).

use super::{Asked, Pending, ReplicaStore, Replies, Secondary};
use lockstep_types::{Nanos, Record, Sequence};
use lockstep_wire::{ExtentContent, ReadPieces, ReplicaError, ReplyBody};

impl Secondary {
    /// A metadata change, void or cut ended.
    pub fn on_done(
        &mut self,
        now: Nanos,
        tag: u64,
        ok: bool,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        let Some(pending) = self.pending.remove(&tag) else {
            return;
        };
        if !ok {
            return self.fail(out);
        }
        match pending {
            Pending::Sealed(epoch) => {
                // A promise that was overtaken by a higher one answers nothing (R3).
                if let Some(seal) = self.seal.as_mut().filter(|s| s.header.epoch == epoch) {
                    seal.promised = true;
                }
                self.finish_seal(now, store, out);
            }
            Pending::Opened { to, header, base } => {
                self.reply_current(to, header, ReplyBody::Opened { base }, out);
            }
            // If the void is still on its way, the answer waits for it.
            Pending::CutStored { asked, void } => match self.pending.get_mut(&void) {
                Some(pending) => *pending = Pending::CutStored { asked, void: tag },
                None => self.answer(asked, ReplyBody::CutDone { id: asked.id }, out),
            },
            Pending::Certified(asked) => {
                self.answer(asked, ReplyBody::Certified { id: asked.id }, out);
            }
            _ => {}
        }
    }

    /// A read ended. An epoch promised meanwhile makes the answer worthless (R3).
    pub fn on_read(
        &mut self,
        tag: u64,
        result: Result<ReadPieces, ReplicaError>,
        out: &mut Replies,
    ) {
        if let Some(Pending::Read(asked)) = self.pending.remove(&tag) {
            let id = asked.id;
            self.answer(asked, ReplyBody::ReadDone { id, result }, out);
        }
    }

    /// A record of the journal was read.
    pub fn on_record(&mut self, tag: u64, record: Option<Record>, out: &mut Replies) {
        if let Some(Pending::Record(asked)) = self.pending.remove(&tag) {
            let id = asked.id;
            self.answer(asked, ReplyBody::FetchedRecord { id, record }, out);
        }
    }

    /// A copy is durable, or refused by the store.
    pub fn on_copied(&mut self, tag: u64, result: Result<(), ReplicaError>, out: &mut Replies) {
        if let Some(Pending::Copy(asked)) = self.pending.remove(&tag) {
            let id = asked.id;
            self.answer(asked, ReplyBody::CopyDone { id, result }, out);
        }
    }

    /// Checksums of an extent were read, and the newest sequence that touched it.
    pub fn on_sums(
        &mut self,
        tag: u64,
        newest: Sequence,
        result: Result<ExtentContent, ReplicaError>,
        out: &mut Replies,
    ) {
        if let Some(Pending::Sums(asked)) = self.pending.remove(&tag) {
            let id = asked.id;
            self.answer(asked, ReplyBody::ExtentSummed { id, newest, result }, out);
        }
    }

    fn answer(&self, asked: Asked, body: ReplyBody, out: &mut Replies) {
        self.reply_current(asked.to, asked.header, body, out);
    }
}
