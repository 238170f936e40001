//! Which acknowledged writes stood in one site only: the control state keeps the intervals, the
//! primary tells the stamps at their ends.

use crate::io::Output;
use crate::node::Node;
use crate::proposals::Asker;
use lockstep_control::policy::exposed_site;
use lockstep_control::{Bound, Command};
use lockstep_types::{Stamp, VolumeId};

impl Node {
    /// The record of a volume that is open here changed, or it has just opened. Called before the
    /// change takes effect in the primary, so that no write it lets through is left out.
    pub(crate) fn note_exposure(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let now = self.now;
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(running) = state.running.as_ref().filter(|r| r.primary.is_open()) else {
            return;
        };
        let exposed = exposed_site(&state.record, &self.members).is_some();
        if exposed == state.exposed {
            return;
        }
        state.exposed = exposed;
        let status = running.primary.status(now);
        let (bound, sequence) = match exposed {
            true => (Bound::Begin, status.completed.next()),
            false => (Bound::End, status.completed),
        };
        let stamp = Stamp::new(status.epoch, sequence);
        let command = Command::NoteSequence {
            volume,
            bound,
            stamp,
        };
        self.propose(Asker::Ledger, command, out);
    }
}
