//! The clean end: primaries finish what is in flight and give their leases back, then the stores write
//! their marks.

use crate::io::Output;
use crate::node::Node;
use lockstep_types::{Nanos, VolumeId, seconds};

/// How long primaries may take to finish.
const FINISH: Nanos = seconds(5);
/// How long it takes altogether.
const ALTOGETHER: Nanos = seconds(15);

/// How far the end is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Stopping {
    since: Nanos,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Primaries,
    Stores,
    Done,
}

impl Node {
    pub(crate) fn begin_stop(&mut self, _out: &mut Vec<Output>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping {
            since: self.now,
            step: Step::Primaries,
        });
        for running in self.volumes.values_mut().filter_map(|v| v.running.as_mut()) {
            running.primary.stop();
        }
    }

    /// Goes on with the end; whether something was done.
    pub(crate) fn advance_stop(&mut self, out: &mut Vec<Output>) -> bool {
        let Some(Stopping { since, step }) = self.stopping else {
            return false;
        };
        let now = self.now;
        let next = match step {
            Step::Primaries => {
                let finished = self.primaries_finish(out) || now >= since + FINISH;
                finished.then(|| {
                    for pool in self.pools.values_mut() {
                        pool.store.shutdown(now, &mut pool.outputs);
                    }
                    Step::Stores
                })
            }
            Step::Stores => {
                let quiet = self.pools.values().all(|pool| pool.store.is_quiet());
                (quiet || now >= since + ALTOGETHER).then(|| {
                    out.push(Output::Stopped);
                    Step::Done
                })
            }
            Step::Done => None,
        };
        if let Some(step) = next {
            self.stopping = Some(Stopping { since, step });
        }
        next.is_some() && next != Some(Step::Done)
    }

    fn primaries_finish(&mut self, out: &mut Vec<Output>) -> bool {
        let running = self.volumes.iter().filter(|(_, v)| v.running.is_some());
        let mut all = true;
        for volume in running.map(|(id, _)| *id).collect::<Vec<VolumeId>>() {
            self.with_primary(volume, out, |primary, _, _, pushed| {
                all &= primary.finish_stop(pushed);
            });
        }
        all
    }
}
