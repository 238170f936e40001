//! Named scenarios of the protocol for rules that another rule covers almost everywhere: the one sequence
//! in which each stands alone, told in each one's head.

use super::script::{Script, VOLUME, scripted_by, two_sites_by};
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::client::Habits;
use crate::world::plan::{FaultKind, Plan};
use lockstep_types::{Nanos, SECOND, millis};

/// When it happens: the volume is open and written to by then.
const CUT: Nanos = 20 * SECOND;

/// Clients that write all over a volume, seldom the same block twice, and read back what they find.
fn wide(plan: &mut Plan) {
    plan.habits = Some(Habits {
        reads: 40,
        zeroes: 2,
        hot: 64,
        hot_share: 20,
        whole: 0,
        depth: 12,
    });
    plan.volumes[0].blocks = 24 * 64;
}

/// A few appends are spoiled on their way and dropped where they arrive; what follows them leaves a gap.
/// Without R5: the replica takes it, acknowledges what it never had, and is promoted with it.
pub fn spoiled_appends(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| {
        wide(plan);
        plan.duration = 80 * SECOND;
    };
    two_sites_by(config, roomy, |world| {
        world.at(CUT, |w| w.spoil_appends("b1", 6));
        world.at(CUT + 2 * SECOND, |w| {
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(CUT + 25 * SECOND, |w| w.start_again("a1"));
        world.at(CUT + 55 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// A replica whose device lags far behind rejoins under a steady stream of writes, again and again.
/// Without R5: it is certified before it has what was answered without it.
pub fn lagging_joiner(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(5);
        plan.busy = CUT - 5 * SECOND..CUT + 54 * SECOND;
        plan.duration = 75 * SECOND;
        plan.habits = Some(Habits {
            reads: 5,
            zeroes: 2,
            hot: 64,
            hot_share: 20,
            whole: 0,
            depth: 16,
        });
    };
    two_sites_by(config, busy, |world| {
        for at in [0, 18, 36] {
            world.at(CUT + at * SECOND, |w| w.kill_process("b1"));
            world.at(CUT + (at + 4) * SECOND, |w| {
                w.start_again("b1");
                w.slow("b1", 100);
            });
            world.at(CUT + (at + 14) * SECOND, |w| w.slow("b1", 1));
        }
        world.at(CUT + 70 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// A copy that was resynced under writes is all that is left the moment it is certified. Without R16: old
/// content was laid over newer, and is read.
pub fn joined_and_alone(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(4);
        plan.busy = CUT - 5 * SECOND..CUT + 20 * SECOND;
        plan.duration = 70 * SECOND;
        plan.habits = Some(Habits {
            reads: 40,
            zeroes: 2,
            hot: 64,
            hot_share: 20,
            whole: 0,
            depth: 24,
        });
    };
    two_sites_by(config, busy, |world| {
        world.at(CUT, |w| w.kill_process("b1"));
        world.at(CUT + 6 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.start_again("b1");
            // What is copied is on its way for a while, and is written to meanwhile.
            w.slow("a1", 100);
            w.at_certification_of("b1", |w| {
                w.kill_machine("a1");
                w.publish_at("b1");
            });
        });
        world.at(CUT + 16 * SECOND, |w| w.slow("a1", 1));
        world.at(CUT + 40 * SECOND, |w| w.start_again("a1"));
    })
}

/// A machine loses power and its device is exchanged for a blank one while the other copy's machine is off
/// too, and the volume is attached there. Without R4: the blank copy passes for the one before it, and is
/// promoted. It must wait for the other.
pub fn blank_device_alone(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 110 * SECOND;
    two_sites_by(config, roomy, |world| {
        world.at(CUT, |w| {
            w.kill_machine("a1");
            w.kill_machine("b1");
            w.publish_at("b1");
        });
        world.at(CUT + millis(200), |w| w.start_blank("b1"));
        world.at(CUT + 50 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_no_acks_since(CUT + millis(200));
            w.start_again("a1");
        });
        world.at(CUT + 85 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// The primary's own device does not answer any more, and right after that the link to the other copy is
/// cut; then its machine is lost. Without the look at those who would stay: the sound copy is shut out in
/// favour of the dying one, and nobody may serve.
pub fn shut_out_by_the_dying(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(20);
        plan.duration = 70 * SECOND;
        // A read that waits for the device would keep the application from writing.
        plan.habits = Some(Habits {
            reads: 0,
            zeroes: 2,
            hot: 64,
            hot_share: 20,
            whole: 0,
            depth: 12,
        });
    };
    two_sites_by(config, busy, |world| {
        world.at(CUT, |w| w.slow("a1", 1_000_000));
        world.at(CUT + millis(400), |w| w.cut("a1", "b1"));
        world.at(CUT + 6 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.kill_machine("a1");
            w.heal_all();
            w.publish_at("b1");
        });
        world.at(CUT + 20 * SECOND, |w| {
            w.expect_in_sync(&["b1"]);
            w.expect_acks(CUT + 14 * SECOND, 5 * SECOND);
            w.slow("a1", 1);
        });
        world.at(CUT + 22 * SECOND, |w| w.start_blank("a1"));
        world.at(CUT + 50 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// Both machines lose power, and the last batches in the journal of one decay. Without R11's highest floor:
/// what the other no longer has to show for it is asked of the one that lost it, and the volume waits for
/// a record that nobody has in his journal. The one that is behind the floor must leave instead.
pub fn behind_the_floor(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 70 * SECOND;
    two_sites_by(config, roomy, |world| {
        world.at(CUT - millis(300), |w| {
            w.dies_with_rotten_tail("b1", millis(300));
        });
        world.at(CUT, |w| w.kill_machine("a1"));
        world.at(CUT + 2 * SECOND, |w| {
            w.start_again("a1");
            w.start_again("b1");
        });
        world.at(CUT + 45 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_acks(CUT + 40 * SECOND, millis(1500));
        });
    })
}

/// A member loses power while the tail is rolled to it: the first record is durable there, and the others
/// are not. Without R11's late floor: it has been told that all of them are, and is believed.
pub fn dies_while_rolled_to(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        wide(plan);
        plan.think = millis(6);
        plan.busy = CUT - 3 * SECOND..CUT + 12 * SECOND;
        plan.duration = 70 * SECOND;
    };
    scripted_by(config, [2, 1], "a=2,b=1", busy, |world| {
        // What comes last reaches b1 alone.
        world.at(CUT - millis(120), |w| {
            w.clog("a1", "a2", CUT + 30 * SECOND);
            w.slow("a2", 10);
        });
        world.at(CUT, |w| {
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(CUT + millis(500), |w| w.dies_acknowledging("a2"));
        world.at(CUT + 9 * SECOND, |w| {
            w.slow("a2", 1);
            w.kill_machine("b1");
            w.publish_at("a2");
        });
        world.at(CUT + 30 * SECOND, |w| {
            w.start_again("a1");
            w.start_again("b1");
        });
    })
}

/// The promise of an older epoch is asked for late: the SEAL of the first of two promotions is held up on
/// its way to a2 until the second has had its answer. Without R3: a2's promise goes back, and the node that
/// lost may write to it again.
pub fn late_seals(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| {
        plan.net.give_up = 30 * SECOND;
        plan.duration = 80 * SECOND;
    };
    scripted_by(config, [2, 1], "a=2,b=1", roomy, |world| {
        for at in [0, 18, 36] {
            let begin = CUT + at * SECOND;
            world.at(begin, move |w| {
                w.clog("b1", "a2", begin + millis(4500));
                w.publish_at("b1");
            });
            world.at(begin + millis(1600), |w| w.publish_at("a1"));
        }
        world.at(CUT + 70 * SECOND, |w| w.expect_in_sync(&["a1", "a2", "b1"]));
    })
}

/// The primary is stopped by a signal for longer than any silence may last, and goes on. Without R22: it
/// takes its own pause for the others' silence, and shuts them out.
pub fn stopped_primary(config: &Config) -> Outcome {
    let calm = |plan: &mut Plan| {
        plan.think = millis(200);
        plan.duration = 60 * SECOND;
    };
    two_sites_by(config, calm, |world| {
        for at in [0, 15] {
            world.at(CUT + at * SECOND, |w| {
                w.stop_for("a1", 5 * SECOND);
                w.expect_no_change_for(8 * SECOND);
            });
        }
    })
}

/// A primary that is cut off goes on writing to its own copy, and comes back. Without the histories of R15:
/// what it has alone is taken for what all have, and stays.
pub fn comes_back_with_its_own_tail(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| {
        wide(plan);
        plan.think = millis(20);
        plan.duration = 50 * SECOND;
    };
    two_sites_by(config, roomy, |world| {
        world.at(CUT, |w| w.isolate("a1"));
        world.at(CUT + SECOND, |w| {
            w.hush(true);
            w.publish_at("b1");
        });
        world.at(CUT + 9 * SECOND, |w| w.hush(false));
        world.at(CUT + 10 * SECOND, |w| {
            w.expect_in_sync(&["b1"]);
            w.heal_all();
            // What it has alone is not to be written over before the copies are compared.
            w.at_certification_of("a1", |w| w.hush(true));
        });
    })
}

/// The same, while nobody writes. Without R15's void: its own tail stays newer than anything that could be
/// copied over it, and it never comes back.
pub fn comes_back_in_silence(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| {
        wide(plan);
        plan.duration = 60 * SECOND;
    };
    two_sites_by(config, roomy, |world: &mut World| {
        world.at(CUT, |w| w.isolate("a1"));
        world.at(CUT + SECOND, |w| {
            w.hush(true);
            w.publish_at("b1");
        });
        world.at(CUT + 10 * SECOND, |w| {
            w.expect_in_sync(&["b1"]);
            w.heal_all();
        });
        world.at(CUT + 28 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.hush(false);
        });
    })
}

/// The primary's writes do not reach the other copy any more, and its application reads what it writes;
/// then its machine loses power. Without R14: what was read is gone.
pub fn read_before_its_end(config: &Config) -> Outcome {
    let hot = |plan: &mut Plan| {
        plan.think = millis(5);
        plan.busy = CUT - 3 * SECOND..CUT + 3 * SECOND;
        plan.duration = 60 * SECOND;
        plan.habits = Some(Habits {
            reads: 50,
            zeroes: 0,
            hot: 8,
            hot_share: 90,
            whole: 0,
            depth: 12,
        });
    };
    two_sites_by(config, hot, |world| {
        world.at(CUT, |w| w.clog("a1", "b1", CUT + 20 * SECOND));
        world.at(CUT + millis(300), |w| {
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(CUT + 25 * SECOND, |w| w.start_again("a1"));
    })
}

/// The copy that a primary without one reads from dies, and the reads are asked of the other, which has
/// been sent writes meanwhile that are durable nowhere. Without R14's second look: their content is given
/// out, and lost when the power goes.
pub fn read_again_elsewhere(config: &Config) -> Outcome {
    let slow = |plan: &mut Plan| {
        plan.think = millis(3);
        plan.busy = CUT - 3 * SECOND..CUT + 5 * SECOND;
        plan.duration = 80 * SECOND;
        plan.habits = Some(Habits {
            reads: 50,
            zeroes: 0,
            hot: 64,
            hot_share: 0,
            whole: 0,
            depth: 64,
        });
    };
    scripted_by(config, [2, 2], "a=1,b=1", slow, |world| {
        world.at(10 * SECOND, |w| w.publish_without_copy("a"));
        world.at(CUT, |w| {
            // Where both are as far away, the one whose copy has the lower id is asked.
            let copies = w.in_sync_names(VOLUME);
            let [source, other] = &copies[..] else {
                return w.fail("expected", "two copies are certified");
            };
            let (source, other) = (source.clone(), other.clone());
            w.slow(&source, 2000);
            w.slow(&other, 300);
            w.at(CUT + millis(400), move |w| w.kill_process(&source));
            w.at(CUT + millis(408), move |w| {
                let holder = w.holder();
                w.kill_machine(&holder);
                w.kill_machine(&other);
                w.publish_at(&other);
                w.at(CUT + 2 * SECOND, move |w| {
                    w.slow(&other, 1);
                    w.start_again(&other);
                });
            });
        });
        world.at(CUT + 45 * SECOND, |w| {
            for node in ["a1", "a2", "b1", "b2"] {
                w.start_again(node);
            }
        });
    })
}

/// The pool of one copy is too small for what is written. Without R7: a write is sequenced that the copy has
/// no place for, and the copy leaves, although it could have been told.
pub fn full_on_one(config: &Config) -> Outcome {
    let filling = |plan: &mut Plan| {
        wide(plan);
        plan.odd = 1 << FaultKind::FullOnOne as u32;
        plan.small = 1;
        plan.pool_bytes = 24 << 20;
        plan.volumes[0].blocks = 44 * 64;
        plan.think = millis(8);
        plan.duration = 70 * SECOND;
    };
    two_sites_by(config, filling, |world| {
        for at in [0, 10, 20, 30, 40] {
            world.at(CUT + at * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
        }
    })
}
