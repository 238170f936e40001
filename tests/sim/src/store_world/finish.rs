//! The end of a store's life in a seed: what was appended becomes durable, the power goes once more, and
//! all of it is read back.

use super::{Event, Owned, StoreWorld};
use lockstep_types::{BlockRange, EXTENT_BLOCKS, Nanos, SECOND};

impl StoreWorld {
    /// What was appended becomes durable; then one last power cut, and a look at everything.
    pub(super) fn finish(&mut self) {
        let lagging = |world: &Self| {
            let lags = |owned: &Owned| owned.created && owned.model.durable < owned.model.last();
            world.store.is_some() && !world.recovering && world.replicas.iter().any(lags)
        };
        self.run_for(60 * SECOND, lagging);
        // A record that cannot be read holds the tail until its owner repairs it; this one never does.
        let unrepaired = self.coverage.get("store: corruption reported") > 0;
        let due = self.plan.fits_its_window() && !self.failed_device && !unrepaired;
        if due && lagging(self) && self.failure.is_none() {
            // S6: a sequenced write never fails, and never waits for space.
            return self.fail("V11", "an appended record was never durable");
        }
        self.plan.cut_at = None; // what comes now was lived through already
        let lived = self.disk_steps;
        self.look_at_everything();
        self.disk_steps = lived;
    }

    fn look_at_everything(&mut self) {
        self.crash(false);
        self.start();
        self.run_for(60 * SECOND, |world| {
            let unsettled =
                |owned: &Owned| owned.voiding.is_some() || !owned.model.rolling.is_empty();
            world.recovering || world.replicas.iter().any(unsettled)
        });
        if self.recovering && self.failure.is_none() && !self.failed_device {
            return self.fail("V11", "recovery did not end within 60 s");
        }
        if self.failed_device {
            return; // a replica that says it lost something is resynced before anybody reads it
        }
        self.read_all();
        self.run_for(60 * SECOND, |world| !world.reading.is_empty());
        if !self.reading.is_empty() && self.failure.is_none() && !self.failed_device {
            self.fail(
                "V11",
                format!("{} reads were never answered", self.reading.len()),
            );
        }
    }

    fn run_for(&mut self, time: Nanos, so: fn(&Self) -> bool) {
        let until = self.queue.now() + time;
        while self.failure.is_none() && so(self) && !self.failed_device {
            match self.queue.next_at() {
                Some(at) if at <= until => {}
                _ => return,
            }
            match self.queue.pop().expect("there is one") {
                Event::Disk { life, id } => self.on_disk(life, id),
                Event::Timer { life } if life == self.life => {
                    self.timer = None;
                    let now = self.queue.now();
                    self.with(|store, out| store.timer(now, out));
                }
                Event::Start => self.start(),
                _ => {}
            }
        }
    }

    fn read_all(&mut self) {
        for replica in 0..self.replicas.len() {
            if self.replicas[replica].created {
                for extent in 0..self.plan.blocks / EXTENT_BLOCKS {
                    self.read(replica, BlockRange::of_extent(extent as u32));
                }
            }
        }
    }
}
