//! Named scenarios of the protocol for rules that almost any world shows, each the shortest sequence of
//! events that goes wrong without its rule, told in its head.

use super::script::{Script, TORN, VOLUME, dies_decayed, journals, scripted_by, two_sites_by};
use crate::run::{Config, Outcome};
use crate::world::client::Habits;
use crate::world::plan::Plan;
use crate::world::{Trigger, World};
use lockstep_types::{Nanos, SECOND, millis};

/// When it happens: the volume is open and written to by then.
const CUT: Nanos = 20 * SECOND;

fn lasting(seconds: u64) -> impl FnOnce(&mut Plan) {
    move |plan| plan.duration = seconds * SECOND
}

/// (1) a, the primary, is cut off from b and from the witness. (2) It holds b for dead, and its removal can
/// not commit. (3) b is promoted. Without R1's order: a waits for itself alone from the second step on, and
/// what it answers until its application is gone is on no certified copy.
pub fn removal_not_committed(config: &Config) -> Outcome {
    two_sites_by(config, lasting(60), |world| {
        world.at(CUT, |w| w.isolate("a1"));
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_no_acks_since(CUT + 4 * SECOND);
            w.publish_at("b1");
        });
        world.at(CUT + 28 * SECOND, |w| {
            w.expect_in_sync(&["b1"]);
            w.heal_all();
        });
    })
}

/// (1) b rejoins under writes, and b's voter leads. (2) Its certification commits, and in the same moment a, the
/// primary, is cut off and cannot hear so. (3) a answers what it can. Without R1: a did not wait for b before it
/// proposed it, or waits no longer because no answer came, and what it answers is not on certified b.
pub fn certified_unheard(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(5);
        plan.busy = CUT - 8 * SECOND..CUT + 15 * SECOND;
        plan.duration = 75 * SECOND;
    };
    two_sites_by(config, busy, |world| {
        world.at(CUT - 5 * SECOND, |w| w.kill_process("b1"));
        world.at(CUT, |w| {
            w.expect_in_sync(&["a1"]);
            w.start_again("b1");
            w.at_certification_of("b1", |w| {
                w.isolate("a1");
                let later = w.now() + 12 * SECOND;
                w.at(later, |w| w.heal_all());
            });
        });
        // It has caught up with the log by then, and is not certified yet.
        world.at(CUT + millis(300), |w| w.lead("b1"));
        world.at(CUT + 50 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// (1) What a, the primary, sends does not reach b any more; its own copy goes on. (2) a loses power. (3) b is
/// promoted. Without R2: a answered what was durable on its own copy alone, and it is gone.
pub fn durable_on_one(config: &Config) -> Outcome {
    two_sites_by(config, lasting(60), |world| {
        world.at(CUT, |w| w.clog("a1", "b1", CUT + 20 * SECOND));
        world.at(CUT + millis(400), |w| {
            w.expect_no_acks_since(CUT + millis(50));
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(CUT + 25 * SECOND, |w| w.start_again("a1"));
    })
}

/// (1) Two writes of one block are sequenced at once, and b's device takes its time. (2) The first is answered,
/// and the block is read from a's copy, which has the second already. (3) a loses power with b's copy of the
/// second on its way. Without R6: the end of the first gave the block free, and what was read is gone.
pub fn two_writes_of_a_block(config: &Config) -> Outcome {
    let hot = |plan: &mut Plan| {
        plan.think = millis(3);
        plan.busy = CUT - 3 * SECOND..CUT + 4 * SECOND;
        plan.duration = 45 * SECOND;
        plan.habits = Some(Habits {
            reads: 50,
            zeroes: 0,
            hot: 4,
            hot_share: 95,
            whole: 0,
            depth: 24,
        });
    };
    two_sites_by(config, hot, |world| {
        world.at(CUT, |w| w.slow("b1", 100));
        world.at(CUT + millis(600), |w| {
            w.kill_machine("a1");
            w.kill_machine("b1");
            w.publish_at("b1");
        });
        world.at(CUT + 2 * SECOND, |w| {
            w.slow("b1", 1);
            w.start_again("b1");
        });
        world.at(CUT + 10 * SECOND, |w| w.start_again("a1"));
    })
}

/// (1) Both machines lose power, and the payload of the last batch in b's journal is torn, which nothing says
/// that it had been flushed. (2) b is back alone, and the volume is attached there. Without R9's wait for the
/// other's SEAL: b takes its own word for what there was, opens, and what a has beside it, acknowledged, is lost.
pub fn torn_and_alone(config: &Config) -> Outcome {
    two_sites_by(config, lasting(80), |world| {
        // What is written last is answered, too, and no later batch has marked it.
        world.at(CUT - millis(60), |w| w.hush(true));
        world.at(CUT, |w| {
            w.kill_machine("a1");
            w.kill_machine("b1");
            w.tear_last_batch("b1");
            w.hush(false);
            w.publish_at("b1");
        });
        world.at(CUT + 2 * SECOND, |w| w.start_again("b1"));
        world.at(CUT + 40 * SECOND, |w| {
            if w.coverage.get(TORN) > 0 {
                w.expect_in_sync(&["a1", "b1"]);
                w.expect_no_acks_since(CUT);
            }
            w.start_again("a1");
        });
        world.at(CUT + 70 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// (1) b rejoins while nobody writes, and is certified. (2) In the same moment both machines lose power, and the last
/// batch of b's journal, which holds what was copied to it, decays. (3) Both are back, and the volume is read in b.
/// Without a mark before the certified state (R24): the batch counts as torn, the other's tail refutes it, and b
/// serves what it had before the copies.
pub fn certified_and_torn(config: &Config) -> Outcome {
    two_sites_by(config, lasting(70), |world| {
        world.at(CUT - 4 * SECOND, |w| w.kill_process("b1"));
        world.at(CUT, |w| w.hush(true));
        world.at(CUT + 2 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.start_again("b1");
            w.at_certification_of("b1", |w| {
                w.kill_machine("a1");
                w.kill_machine("b1");
                w.tear_last_batch("b1");
                w.publish_at("b1");
                let soon = w.now() + millis(500);
                w.at(soon, |w| {
                    w.start_again("a1");
                    w.start_again("b1");
                    w.hush(false);
                });
            });
        });
        world.at(CUT + 50 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// (1) b's daemon dies, and a, the primary, goes on for a moment; then its own dies. (2) Both are back, and the last
/// record rots in a's journal after that was read. (3) The volume is attached in b. Without a look at who lacks
/// the record (R11): it is to be rolled forward, nobody can read it, and the volume waits for ever for what was
/// answered to nobody.
pub fn nobody_can_read_it(config: &Config) -> Outcome {
    two_sites_by(config, lasting(60), |world| {
        world.at(CUT, |w| w.kill_process("b1"));
        world.at(CUT + millis(250), |w| {
            w.kill_process("a1");
            w.publish_at("b1");
        });
        world.at(CUT + millis(300), |w| {
            w.start_again("a1");
            w.start_again("b1");
        });
        world.at(CUT + millis(320), |w| w.rot_last_payload("a1"));
        world.at(CUT + 12 * SECOND, |w| {
            w.expect_acks(CUT + 11 * SECOND, 4 * SECOND)
        });
        world.at(CUT + 40 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// (1) The volume moves, and every daemon is killed before anything else is committed: logs hold the promotion,
/// and perhaps not yet that it was committed. (2) All are back, and the primary wants its role on the record of
/// before. Without R9's question to a certified member, which has promised more than that record says: it asks
/// for an epoch, is told of its own earlier promotion, takes it for the answer, and opens that epoch again.
pub fn wants_its_role_on_an_old_record(config: &Config) -> Outcome {
    two_sites_by(config, lasting(80), |world| {
        for (at, to) in [(0, "b1"), (15, "a1"), (30, "b1")] {
            let nodes = ["a1", "b1", "w"];
            world.at(CUT + at * SECOND, move |w| w.publish_at(to));
            world.at(CUT + (at + 6) * SECOND, move |w| {
                nodes.iter().for_each(|node| w.kill_process(node));
            });
            world.at(CUT + (at + 6) * SECOND + millis(200), move |w| {
                nodes.iter().for_each(|node| w.start_again(node));
            });
        }
        world.at(CUT + 60 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// (1) Both machines lose power, and b its raft log with it. (2) b is back and recovers its pool; no record names
/// its copy, for it knows none. (3) The volume is attached to b. Without R18: the copy was deleted because its
/// record was missing, and a's, which stays away, was the only other.
pub fn copy_without_a_record(config: &Config) -> Outcome {
    scripted_by(
        config,
        [2, 2],
        "a=1,b=1",
        lasting(80),
        |world: &mut World| {
            world.at(CUT, |w| {
                let mut copies = w.in_sync_names(VOLUME);
                copies.sort();
                let [a, b] = &copies[..] else {
                    return w.fail("expected", "two copies are certified");
                };
                let (a, b) = (a.clone(), b.clone());
                w.kill_machine(&a);
                w.kill_machine(&b);
                w.loses_log(&b);
                w.publish_at(&b);
                w.at(CUT + SECOND, {
                    let b = b.clone();
                    move |w| w.start_again(&b)
                });
                w.at(CUT + 50 * SECOND, move |w| {
                    w.expect_in_sync(&[&b]);
                    w.expect_acks(CUT + 45 * SECOND, millis(1500));
                    w.start_again(&a);
                });
            });
        },
    )
}

/// (1) The witness is cut off, and a and b commit that the volume grows. (2) Both lose power, and b its raft log
/// with it. (3) b and the witness are back, a is not. Without R20: b, empty, votes under its old id, the two
/// are a majority that has never heard of what was committed, and commit something else in its place.
pub fn voter_without_its_log(config: &Config) -> Outcome {
    two_sites_by(config, lasting(80), |world| {
        world.at(CUT, |w| w.isolate("w"));
        for late in 0..4 {
            world.at(CUT + SECOND + late * millis(200), |w| w.grow(VOLUME, 64));
        }
        world.at(CUT + 4 * SECOND, |w| {
            w.kill_machine("a1");
            w.kill_machine("b1");
            w.loses_log("b1");
        });
        world.at(CUT + 5 * SECOND, |w| {
            w.heal_all();
            w.start_again("b1");
        });
        world.at(CUT + 20 * SECOND, |w| w.start_again("a1"));
        world.at(CUT + 60 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// (1) A node of b without a copy is primary and reads from b's copy. (2) Its machine loses power, and batches in
/// the middle of its journal decay, below the mark; it is back before anybody shut it out. (3) It is read. Without
/// R24: it goes on as the member that it was, and gives what stood there before the acknowledged writes it lost.
pub fn lost_the_middle(config: &Config) -> Outcome {
    scripted_by(config, [2, 2], "a=1,b=1", reads_much, |world| {
        world.at(10 * SECOND, |w| w.publish_without_copy("b"));
        world.at(CUT, |w| {
            let copies = w.in_sync_names(VOLUME);
            let Some(b) = copies.into_iter().find(|name| name.starts_with('b')) else {
                return w.fail("expected", "a copy in b is certified");
            };
            w.dies_with_rotten_middle(&b, millis(100), millis(200));
            w.at(CUT + millis(230), move |w| w.start_again(&b));
        });
        world.at(CUT + 25 * SECOND, |w| w.expect_in_sync_count(2));
    })
}

/// (1) The primary's process is killed and starts again, and b's copy answers the SEAL of the next epoch. (2) Its
/// machine loses power before it hears more, and batches in the middle of its journal decay, below the mark; it is
/// back at once. (3) It is told to open. Without R24: what its answer did not say nobody fills, and it is taken for
/// whole.
pub fn lost_while_opening(config: &Config) -> Outcome {
    scripted_by(config, [2, 2], "a=1,b=1", reads_much, |world| {
        world.at(10 * SECOND, |w| w.publish_without_copy("a"));
        world.at(CUT, |w| {
            let copies = w.in_sync_names(VOLUME);
            let Some(b) = copies.into_iter().find(|name| name.starts_with('b')) else {
                return w.fail("expected", "a copy in b is certified");
            };
            let node = w.named(&b);
            let before = journals(w, node);
            w.at(CUT + millis(100), move |w| {
                let written = journals(w, node);
                let dies = move |w: &mut World| {
                    dies_decayed(w, node, &before, &written);
                    let soon = w.now() + millis(20);
                    w.at(soon, move |w| w.start_again(&b));
                };
                w.set_trap(node, Trigger::Sealed, 1, Box::new(dies));
            });
            w.at(CUT + millis(150), |w| {
                let primary = w.holder();
                w.kill_process(&primary);
                w.at(CUT + millis(160), move |w| w.start_again(&primary));
            });
        });
        world.at(CUT + 25 * SECOND, |w| w.expect_in_sync_count(2));
    })
}

/// Much is written and read before and after it happens, most of it again and again.
fn reads_much(plan: &mut Plan) {
    plan.think = millis(4);
    plan.busy = CUT - 5 * SECOND..CUT + 3 * SECOND;
    plan.duration = 45 * SECOND;
    plan.habits = Some(Habits {
        reads: 60,
        zeroes: 0,
        hot: 24,
        hot_share: 60,
        whole: 0,
        depth: 16,
    });
}
