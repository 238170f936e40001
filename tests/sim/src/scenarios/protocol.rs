//! Named scenarios of the protocol beyond the partition table: the shortest sequences that go wrong
//! without a rule, told in each one's head.

use super::script::{Script, VOLUME, scripted_by, two_sites_by};
use crate::rng::Rng;
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::client::{Habits, Kind};
use crate::world::plan::{FaultKind, Plan};
use lockstep_types::{Nanos, SECOND, millis};

/// When it happens: the volume is open and written to by then.
const CUT: Nanos = 20 * SECOND;

/// A discard while a replica is away. Without S10 and tombstones: b comes back with the block, the
/// resync compares what is newer on a only, and after a is lost the discarded block is alive again.
pub fn discard_while_away(config: &Config) -> Outcome {
    let discards = |plan: &mut Plan| {
        plan.habits = Some(Habits {
            reads: 20,
            zeroes: 40,
            hot: 24,
            hot_share: 90,
            whole: 2,
            depth: 4,
        });
        plan.duration = 80 * SECOND;
    };
    two_sites_by(config, discards, |world| {
        world.at(CUT, |w| w.kill_process("b1"));
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.start_again("b1");
        });
        world.at(CUT + 30 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(CUT + 55 * SECOND, |w| w.expect_in_sync(&["b1"]));
    })
}

/// A site and a node of the other at the same instant: two voters of five are left, so the volume
/// suspends, and no side decides by itself.
pub fn site_and_node_at_once(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 60 * SECOND;
    scripted_by(config, [2, 2], "a=2,b=1", roomy, |world| {
        world.at(CUT, |w| {
            w.kill_machine("b1");
            w.kill_machine("b2");
            w.kill_machine("a2");
        });
        world.at(CUT + 20 * SECOND, |w| {
            w.expect_in_sync_count(3);
            w.expect_no_acks_since(CUT + millis(200));
            w.start_again("b1");
            w.start_again("b2");
            w.start_again("a2");
        });
    })
}

/// The last voter pair of a site is gone for 60 s and leaves, {A1, A2, W}; then one more of the three
/// dies: two are left, and I/O continues. Without the joint change two of five would be no majority.
pub fn voter_pair_gone_then_one_more(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 160 * SECOND;
    scripted_by(config, [2, 2], "a=2,b=1", roomy, |world| {
        world.at(CUT, |w| {
            w.kill_machine("b1");
            w.kill_machine("b2");
        });
        world.at(CUT + 75 * SECOND, |w| {
            w.expect_in_sync(&["a1", "a2"]);
            w.kill_machine("a2");
        });
        world.at(CUT + 95 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 85 * SECOND, millis(1500));
        });
    })
}

/// A silent cut, which no socket tells: writes stall for at most three seconds.
pub fn silent_cut(config: &Config) -> Outcome {
    two_sites_by(
        config,
        |_| {},
        |world| {
            world.at(CUT, |w| w.isolate("b1"));
            world.at(CUT + 8 * SECOND, |w| {
                w.expect_in_sync(&["a1"]);
                w.expect_acks(CUT - SECOND, 3 * SECOND);
            });
        },
    )
}

/// No voter is heard while a replica rejoins. Without R19: the certification that is proposed and not
/// answered holds up every write.
pub fn control_plane_stands_still(config: &Config) -> Outcome {
    two_sites_by(
        config,
        |_| {},
        |world| {
            world.at(CUT, |w| w.kill_process("b1"));
            world.at(CUT + 6 * SECOND, |w| {
                w.expect_in_sync(&["a1"]);
                w.start_again("b1");
            });
            // It has learned where it stands, and its resync goes on.
            world.at(CUT + 6 * SECOND + millis(150), |w| w.mute_voters(true));
            world.at(CUT + 20 * SECOND, |w| {
                w.expect_acks(CUT + 7 * SECOND, millis(1500));
                w.mute_voters(false);
            });
            world.at(CUT + 36 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
        },
    )
}

/// Two crashes inside one reconcile, with an overlapping tail: a dies with writes in flight, b begins
/// to roll its tail forward and is killed in the middle, twice. Without R11's order, what the first
/// reconcile rolled and what it did not are mixed.
pub fn two_crashes_in_one_reconcile(config: &Config) -> Outcome {
    let mut rng = Rng::new(config.seed).split("moments");
    let deaths = vec![rng.between(1, 6) as u32, rng.between(1, 6) as u32];
    let busy = |plan: &mut Plan| {
        plan.think = millis(6);
        plan.busy = CUT - 3 * SECOND..CUT + 15 * SECOND;
        plan.duration = 90 * SECOND;
        plan.habits = Some(Habits {
            reads: 10,
            zeroes: 5,
            hot: 8,
            hot_share: 90,
            whole: 3,
            depth: 12,
        });
    };
    scripted_by(config, [2, 1], "a=2,b=1", busy, move |world| {
        world.at(CUT, move |w| {
            w.kill_machine("a1");
            w.publish_at("b1");
            w.dies_rolling("b1", deaths);
        });
        world.at(CUT + 20 * SECOND, |w| w.start_again("a1"));
        world.at(CUT + 60 * SECOND, |w| w.expect_in_sync(&["a1", "a2", "b1"]));
    })
}

/// The only sealed member has a rotted record: a and b lose power, a comes back alone with its journal
/// rotted. Without R24 and R11's rule of the gapped one: a removes b on its own word and what it lost
/// is lost for good. It must wait for b, and say so.
pub fn rotted_tail_of_the_only_sealed(config: &Config) -> Outcome {
    two_sites_by(config, victim_a, |world| {
        world.at(CUT, |w| {
            w.kill_machine("a1");
            w.kill_machine("b1");
            w.rot_journal("a1");
        });
        world.at(CUT + 2 * SECOND, |w| w.start_again("a1"));
        world.at(CUT + 25 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_no_acks_since(CUT);
            w.start_again("b1");
        });
    })
}

/// The sole survivor comes back suspect. Without R21: it opens with what it has left, and reads give
/// what was overwritten long ago.
pub fn suspect_sole_survivor(config: &Config) -> Outcome {
    two_sites_by(config, victim_a, |world| {
        world.at(CUT, |w| w.kill_machine("b1"));
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.kill_machine("a1");
            w.rot_journal("a1");
        });
        world.at(CUT + 10 * SECOND, |w| w.start_again("a1"));
        world.at(CUT + 35 * SECOND, |w| {
            w.expect_no_acks_since(CUT + 8 * SECOND)
        });
    })
}

/// What a1 loses is inside the atlas: the end of the run knows that it may wait.
fn victim_a(plan: &mut Plan) {
    plan.victim = 0;
    plan.corruption = [0; 4];
    plan.every[FaultKind::Corruption as usize] = Some(plan.duration);
}

/// A volume grows while its primary dies: raft has the size, no record has it. Without R8 the new
/// primary never says it, and the device stays as short as it was.
pub fn grows_while_primary_dies(config: &Config) -> Outcome {
    two_sites_by(
        config,
        |_| {},
        |world: &mut World| {
            world.at(CUT, |w| {
                w.kill_machine("a1");
                w.publish_at("b1");
            });
            // Voters have a leader by then, and b has not opened yet.
            world.at(CUT + millis(2500), |w| w.grow(VOLUME, 64));
            world.at(CUT + 30 * SECOND, |w| w.start_again("a1"));
        },
    )
}

/// A replica dies right after it answered a SEAL. Without R3: the promise was not durable yet, it comes
/// back with the older one, and takes writes of the primary before.
pub fn dies_sealed(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 60 * SECOND;
    scripted_by(config, [2, 1], "a=2,b=1", roomy, |world| {
        world.at(CUT, |w| {
            w.kill_machine("a1");
            w.dies_sealed("a2");
            w.publish_at("b1");
        });
        world.at(CUT + 30 * SECOND, |w| w.start_again("a1"));
    })
}

/// What the old primary sent is still on its way when the new one opens. Without R3 replicas take it: the
/// records of two epochs mix, and acknowledgements go to the wrong primary.
pub fn late_appends(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(10);
        plan.busy = CUT - 3 * SECOND..CUT + 12 * SECOND;
        plan.net.give_up = 30 * SECOND;
        plan.duration = 70 * SECOND;
    };
    scripted_by(config, [2, 1], "a=2,b=1", busy, |world| {
        world.at(CUT, |w| {
            for to in ["a2", "b1", "w"] {
                w.clog("a1", to, CUT + 9 * SECOND);
            }
        });
        world.at(CUT + millis(40), |w| w.publish_at("b1"));
        world.at(CUT + 40 * SECOND, |w| w.expect_in_sync(&["a1", "a2", "b1"]));
    })
}

/// The same, and nobody writes from the cut until they have arrived: what arrives follows upon the last
/// record of the new epoch. Without R3's comparison in appends: it is taken for its next ones, those that
/// the new primary sends under the same sequences are taken for known, and one acknowledgement later they
/// count as durable where they are not.
pub fn late_appends_in_silence(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(10);
        plan.busy = CUT - 3 * SECOND..CUT + 14 * SECOND;
        plan.net.give_up = 30 * SECOND;
        plan.duration = 70 * SECOND;
    };
    scripted_by(config, [2, 1], "a=2,b=1", busy, |world| {
        world.at(CUT, |w| {
            for to in ["a2", "b1", "w"] {
                w.clog("a1", to, CUT + 9 * SECOND);
            }
        });
        world.at(CUT + millis(40), |w| {
            w.hush(true);
            w.publish_at("b1");
        });
        world.at(CUT + 10 * SECOND, |w| w.hush(false));
        world.at(CUT + 40 * SECOND, |w| w.expect_in_sync(&["a1", "a2", "b1"]));
    })
}

/// (1) b's device takes seconds for each operation; what a, the primary, sends is accepted and not durable. (2) a
/// loses power, and the volume is attached in b. (3) b's promise is durable before the last of those appends.
/// Without R10: b's answer lacks them, and what it has above the tail that it told counts as a gap once the new
/// epoch is to open: the only copy that is left is condemned, and the volume waits for ever. Or it opens, and
/// what was not told is read until the next write takes its sequence, and then it is gone (V5).
pub fn seal_during_flush(config: &Config) -> Outcome {
    let factor = 3000 + config.seed % 8 * 1000;
    let busy = |plan: &mut Plan| {
        plan.think = millis(2);
        plan.busy = CUT - 3 * SECOND..CUT + 8 * SECOND;
        plan.duration = 55 * SECOND;
        plan.habits = Some(Habits {
            reads: 60,
            zeroes: 2,
            hot: 16,
            hot_share: 80,
            whole: 0,
            depth: 24,
        });
    };
    two_sites_by(config, busy, move |world| {
        world.at(CUT - 5 * SECOND, |w| w.lead("b1"));
        world.at(CUT - millis(600), move |w| w.slow("b1", factor));
        world.at(CUT, |w| {
            w.kill_machine("a1");
            w.publish_at("b1");
        });
        world.at(CUT + 6 * SECOND, |w| w.slow("b1", 1));
        world.at(CUT + 15 * SECOND, |w| w.start_again("a1"));
        world.at(CUT + 38 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// A replica's device is exchanged for a blank one. Without R4: what it says is taken for what the
/// replica before it had.
pub fn blank_device(config: &Config) -> Outcome {
    two_sites_by(
        config,
        |_| {},
        |world| {
            world.at(CUT, |w| w.kill_machine("b1"));
            world.at(CUT + millis(200), |w| w.start_blank("b1"));
            world.at(CUT + 30 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
        },
    )
}

/// A node's raft log hardly moves from the moment that its copy stands; then its machine loses power, and its
/// device is exchanged for a blank one. Without R4's look at whether a record is an old one: the last record it
/// has says that its copy is yet to be made, and an empty one is made in the life of the one before it.
pub fn blank_device_and_old_log(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 60 * SECOND;
    two_sites_by(config, roomy, |world| {
        let stands = 2 * SECOND + millis(20 + config.seed % 8);
        world.at(stands, |w| w.slow_log(Some("b1")));
        world.at(CUT, |w| w.kill_machine("b1"));
        world.at(CUT + millis(200), |w| {
            w.slow_log(None);
            w.start_blank("b1");
        });
        world.at(CUT + 40 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// The volume moves away and back, and the kernel then issues what it held on the first device. Without
/// R12: old pages are replayed over acknowledged data.
pub fn held_requests(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 70 * SECOND;
    two_sites_by(config, roomy, |world| {
        world.at(CUT, |w| {
            w.remember_device();
            w.publish_at("b1");
        });
        world.at(CUT + 15 * SECOND, |w| w.publish_at("a1"));
        world.at(CUT + 30 * SECOND, |w| w.issue_held("a1", Kind::Write));
        world.at(CUT + 32 * SECOND, |w| w.issue_held("b1", Kind::Write));
    })
}

/// The primary is cut off, and an application there reads on. Without R13: it is given what another has
/// overwritten since.
pub fn reads_on_after_the_cut(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 60 * SECOND;
    two_sites_by(config, roomy, |world| {
        world.at(CUT, |w| {
            w.remember_device();
            w.isolate("a1");
        });
        world.at(CUT + SECOND, |w| w.publish_at("b1"));
        for late in 0..30 {
            world.at(CUT + 2 * SECOND + late * millis(700), |w| {
                w.issue_held("a1", Kind::Read);
            });
        }
        world.at(CUT + 25 * SECOND, |w| w.heal_all());
    })
}

/// Acknowledgements reach the old primary after the new one has opened, before anything else that it was
/// told meanwhile. Without R13 it passes them on: a write is answered under an epoch that is over.
pub fn late_acks(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(10);
        plan.busy = CUT - 3 * SECOND..CUT + 18 * SECOND;
        plan.net.give_up = 40 * SECOND;
        plan.duration = 70 * SECOND;
    };
    two_sites_by(config, busy, |world| {
        world.at(CUT, |w| {
            for from in ["b1", "w"] {
                w.clog(from, "a1", CUT + 14 * SECOND);
            }
            w.publish_at("b1");
        });
        world.at(CUT + 45 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}

/// A primary whose node holds no copy is cut off, and the volume opens elsewhere: every member answers
/// the SEAL at once. Without R13's "clear": the new primary serves while the old one still may.
pub fn diskless_primary_cut_off(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 60 * SECOND;
    scripted_by(config, [2, 1], "a=1,b=1", roomy, |world| {
        world.at(10 * SECOND, |w| w.publish_without_copy("a"));
        world.at(CUT, |w| {
            let holder = w.holder();
            w.isolate(&holder);
            w.publish_at("b1");
        });
        world.at(CUT + 25 * SECOND, |w| w.heal_all());
    })
}

/// The only copy is the primary's own, and another node of its site takes the volume over while the
/// first hears no voter. Without R13's rule of the local promise: nothing ends the first one's lease.
pub fn local_promise(config: &Config) -> Outcome {
    let roomy = |plan: &mut Plan| plan.duration = 60 * SECOND;
    scripted_by(config, [2, 1], "a=1", roomy, |world| {
        world.at(10 * SECOND, |w| {
            let copies = w.in_sync_names(VOLUME);
            w.publish_at(&copies[0]);
        });
        world.at(CUT, |w| {
            let holder = w.holder();
            for voter in ["b1", "w"] {
                w.cut(&holder, voter);
            }
            w.publish_without_copy("a");
        });
        world.at(CUT + 25 * SECOND, |w| w.heal_all());
    })
}

/// A slow replica is resynced while clients write what is being copied. Without R16: old content is laid
/// over newer, and nobody compares.
pub fn resync_under_writes(config: &Config) -> Outcome {
    let busy = |plan: &mut Plan| {
        plan.think = millis(8);
        plan.busy = CUT - 5 * SECOND..CUT + 45 * SECOND;
        plan.duration = 80 * SECOND;
        plan.habits = Some(Habits {
            reads: 10,
            zeroes: 10,
            hot: 64,
            hot_share: 60,
            whole: 2,
            depth: 8,
        });
    };
    two_sites_by(config, busy, |world| {
        for at in [0, 25] {
            world.at(CUT + at * SECOND, |w| w.kill_process("b1"));
            world.at(CUT + (at + 6) * SECOND, |w| {
                w.start_again("b1");
                w.slow("b1", 30);
            });
            world.at(CUT + (at + 16) * SECOND, |w| w.slow("b1", 1));
        }
        world.at(CUT + 55 * SECOND, |w| w.expect_in_sync(&["a1", "b1"]));
    })
}
