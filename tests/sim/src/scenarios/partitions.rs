//! Every row of the partition table of safety.md: the primary stands in a, in sync are {a, b}.

use super::script::{Script, two_sites};
use crate::run::{Config, Outcome};
use lockstep_types::{Nanos, SECOND, millis};

/// When it happens: the volume is open and written to by then.
const CUT: Nanos = 20 * SECOND;

/// B isolated: A and W shrink to {a}; A continues after at most 5 s; B refuses, whoever asks it to serve.
pub fn b_isolated(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.isolate("b1"));
        world.at(CUT + 6 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 5 * SECOND, millis(900));
            // Somebody wants it in b: nothing changes (R9).
            w.expect_no_change_for(12 * SECOND);
            w.try_attach("b1");
        });
        world.at(CUT + 20 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 5 * SECOND, millis(900));
        });
    })
}

/// A isolated: it cannot shrink and suspends without an error; B and W may promote b when something
/// attaches there; the healed a is fenced.
pub fn a_isolated(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| {
            w.isolate("a1");
            w.expect_no_errors_for(8 * SECOND);
        });
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_no_acks_since(CUT + 4 * SECOND);
            w.publish_at("b1");
        });
        world.at(CUT + 28 * SECOND, |w| {
            w.expect_in_sync(&["b1"]);
            w.expect_acks(CUT + 26 * SECOND, millis(1500));
            w.heal_all();
        });
    })
}

/// W lost: no effect on I/O.
pub fn w_lost(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.kill_machine("w"));
        world.at(CUT + 10 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_acks(CUT, millis(900));
        });
    })
}

/// The link between a and b cut, both see W: the live primary's side wins the race.
pub fn link_cut(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.cut("a1", "b1"));
        world.at(CUT + 6 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 5 * SECOND, millis(900));
        });
    })
}

/// The link between a and w cut: no effect.
pub fn a_w_cut(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.cut("a1", "w"));
        world.at(CUT + 10 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_acks(CUT, millis(900));
        });
    })
}

/// One-way loss from a to b: as a cut, because links prove both directions.
pub fn one_way(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.cut_one_way("a1", "b1"));
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 6 * SECOND, millis(900));
        });
    })
}

/// A–B cut, then A–W cut after the shrink to {a}: A keeps I/O, B must refuse.
pub fn link_cut_then_a_w_cut(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.cut("a1", "b1"));
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.cut("a1", "w");
        });
        world.at(CUT + 10 * SECOND, |w| w.try_attach("b1"));
        world.at(CUT + 20 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 9 * SECOND, millis(900));
        });
    })
}

/// B dead, then W dead: {a} already, I/O continues, no configuration changes.
pub fn b_dead_then_w_dead(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.kill_machine("b1"));
        world.at(CUT + 8 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.kill_machine("w");
        });
        world.at(CUT + 20 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 9 * SECOND, millis(900));
        });
    })
}

/// A dead, then W dead before the change commits: suspended, the operator decides.
pub fn a_dead_then_w_dead(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.kill_machine("a1"));
        world.at(CUT + millis(100), |w| {
            w.kill_machine("w");
            w.publish_at("b1");
        });
        world.at(CUT + 20 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_no_acks_since(CUT + millis(200));
        });
    })
}

/// All three cut: a volume with copies in both sites suspends.
pub fn all_cut(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| {
            w.cut("a1", "b1");
            w.cut("a1", "w");
            w.cut("b1", "w");
        });
        world.at(CUT + 12 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.expect_no_acks_since(CUT + 4 * SECOND);
        });
    })
}

/// The peer's process is killed: writes stall for at most a second.
pub fn peer_killed(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| w.kill_process("b1"));
        world.at(CUT + 6 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT - SECOND, millis(1400));
        });
    })
}

/// The raft leader is lost with the peer: writes stall for at most five seconds.
pub fn leader_lost_with_peer(config: &Config) -> Outcome {
    two_sites(config, |world| {
        world.at(CUT, |w| {
            w.lead("b1");
        });
        world.at(CUT + 5 * SECOND, |w| w.kill_machine("b1"));
        world.at(CUT + 12 * SECOND, |w| {
            w.expect_in_sync(&["a1"]);
            w.expect_acks(CUT + 4 * SECOND, 5 * SECOND);
        });
    })
}
