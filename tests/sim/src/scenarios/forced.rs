//! Named scenarios of forced recovery: a person overrides what the rules do not allow.

use super::script::{Script, two_sites_by};
use crate::run::{Config, Outcome};
use crate::world::plan::Plan;
use lockstep_types::{Nanos, SECOND, millis};

/// When it happens: the volume is open and written to by then.
const CUT: Nanos = 20 * SECOND;

/// (1) b hears nobody; a, the primary, goes on with the witness, and its writes stand in a alone. (2) Somebody
/// takes a and the witness for lost and rebuilds the control plane from b's log, in which b is certified; b is
/// asked to open the volume. Without the distrust of a rebuilt record: it opens, without what a answered.
/// (3) All hear each other again: the old logs are barred and set aside, their nodes learn, and the device in a
/// is fenced. (4) The volume is opened by force with the newest copy, a's, and b is resynced: nothing is
/// lost, and its pod goes on in b.
pub fn rebuilt_from_a_stale_log(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(10);
        plan.duration = 130 * SECOND;
    };
    two_sites_by(config, busy, |world| {
        world.at(CUT, |w| w.isolate("b1"));
        world.at(CUT + 10 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 8 * SECOND, SECOND);
            w.rebuild_from("b1");
        });
        world.at(CUT + 12 * SECOND, |w| {
            w.expect_distrusted();
            w.try_attach("b1");
        });
        world.at(CUT + 20 * SECOND, |w| {
            // The old side knows nothing of it and lives.
            w.expect_acks(CUT + 18 * SECOND, SECOND);
            w.expect_distrusted();
            w.heal_all();
        });
        world.at(CUT + 30 * SECOND, |w| {
            w.expect_distrusted();
            w.expect_no_acks_since(CUT + 25 * SECOND);
            w.force_open();
        });
        world.at(CUT + 45 * SECOND, |w| w.publish_at("b1"));
        world.at(CUT + 90 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_acks(CUT + 85 * SECOND, SECOND);
        });
    })
}
