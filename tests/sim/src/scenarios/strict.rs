//! Volumes under `rpo: strict` whose site loses its last certified copy: the epoch opens for repair only (R9),
//! until another copy of that site has been verified and takes the lost one's place.

use super::script::{Script, scripted_by};
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::plan::Plan;
use lockstep_types::{Nanos, SECOND, millis};

/// When it happens: the volume is open and written to by then.
const CUT: Nanos = 20 * SECOND;
/// When site a has one certified copy left, and loses it.
const ALONE: Nanos = CUT + 6 * SECOND;

/// So much of a journal decays that a floor covers some of it, and no checkpoint does.
const ROTTEN: Nanos = millis(120);

/// Two copies in a, one in b, under `strict`; a2's process is killed, and it leaves the set.
fn strict(config: &Config, seconds: u64, script: impl FnOnce(&mut World)) -> Outcome {
    let plan = |plan: &mut Plan| {
        plan.volumes[0].strict = true;
        plan.duration = seconds * SECOND;
    };
    scripted_by(config, [2, 1], "a=2,b=1", plan, |world| {
        world.at(CUT, |w| w.kill_process("a2"));
        world.at(ALONE - millis(1), |w| w.expect_in_sync(&["a1", "b1"]));
        script(world);
    })
}

/// (1) a1, the last certified copy of its site, is lost for good; b is promoted. (2) a2 is back, and not
/// certified. Without R9's rule for `strict`: a1 leaves and writes stand in b alone, or nothing goes on without
/// a1 at all. No write is answered before a2 has been resynced and exchanged for a1 in one step.
pub fn exchanged_for_the_lost(config: &Config) -> Outcome {
    strict(config, 80, |world| {
        world.at(ALONE, |w| {
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(ALONE + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.at_certification_of("a2", |w| {
                w.expect_no_acks_since(ALONE + millis(100));
                w.expect_in_sync(&["a2", "b1"]);
            });
            w.start_again("a2");
        });
        world.at(ALONE + 40 * SECOND, |w| {
            w.expect_in_sync(&["a2", "b1"]);
            w.expect_acks(ALONE + 35 * SECOND, millis(1500));
        });
    })
}

/// (1) Both certified machines lose power, and what a1 wrote last decays. (2) All are back: a1 lacks what b's floor
/// covers, and may not leave. (3) b opens for repair only, and a2, whose device takes its time, is resynced to
/// take a1's place. Without R9's memory of who is incomplete: a1, which answers, is sealed again and again, each
/// time in a new epoch, and the resync that would end it never ends.
pub fn incomplete_is_not_trusted(config: &Config) -> Outcome {
    strict(config, 100, |world| {
        world.at(ALONE - ROTTEN, |w| w.dies_with_rotten_tail("a1", ROTTEN));
        world.at(ALONE, |w| {
            w.kill_machine("b1");
            w.publish_at("b1");
        });
        world.at(ALONE + 2 * SECOND, |w| {
            for node in ["a1", "b1", "a2"] {
                w.start_again(node);
            }
            w.slow("a2", 300);
            w.at_certification_of("a2", |w| {
                w.coverage.hit("script: exchanged for an incomplete copy");
                w.slow("a2", 1);
            });
        });
        world.at(ALONE + 60 * SECOND, |w| {
            w.expect_acks(ALONE + 55 * SECOND, millis(1500));
        });
    })
}

/// The same as the first, while nobody writes; then (3) everybody who is left loses power, and is back. Without
/// R15's first floor: a2 was certified in an epoch in which no floor moved, has no record of its own, and says
/// that it is empty; it may not leave, and nobody can take its place.
pub fn exchanged_in_silence(config: &Config) -> Outcome {
    strict(config, 100, |world| {
        world.at(ALONE, |w| {
            w.hush(true);
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(ALONE + 4 * SECOND, |w| {
            w.at_certification_of("a2", |w| {
                w.kill_machine("a2");
                w.kill_machine("b1");
                let soon = w.now() + SECOND;
                w.at(soon, |w| {
                    w.start_again("a2");
                    w.start_again("b1");
                });
            });
            w.start_again("a2");
        });
        world.at(ALONE + 50 * SECOND, |w| w.hush(false));
        world.at(ALONE + 60 * SECOND, |w| {
            w.expect_in_sync(&["a2", "b1"]);
            w.expect_acks(ALONE + 55 * SECOND, millis(1500));
        });
    })
}
