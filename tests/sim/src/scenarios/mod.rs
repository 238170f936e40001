//! The worlds a seed can build, by name.

mod control;
mod forced;
mod lost_writes;
mod over_budget;
mod partitions;
mod protocol;
mod rules;
mod script;
mod shortest;
mod store;
mod strict;

use crate::mutation::Mutation;
use crate::run::{Config, Less, Outcome, Words};

/// A world by name.
#[derive(Debug)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Runs a seed.
    pub run: fn(&Config) -> Outcome,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "world",
        about: "sites, nodes, a witness, clients, an operator, and every fault at rates drawn from the seed",
        run: crate::world::World::run,
    },
    Scenario {
        name: "store",
        about: "one store on one crashing device: power cuts, kills with late writes, rot, a small ring",
        run: crate::store_world::run,
    },
    Scenario {
        name: "control",
        about: "the control plane alone, under the same faults",
        run: control::run,
    },
    Scenario {
        name: "store-every-step",
        about: "power cuts between every two steps of destaging (S2)",
        run: store::every_step,
    },
    Scenario {
        name: "store-cut-while-rolling",
        about: "power cuts between every two steps of a tail that is rolled forward (R11)",
        run: store::cut_while_rolling,
    },
    Scenario {
        name: "store-pinned",
        about: "the ring wraps while the floor of one volume stands still (S5)",
        run: store::pinned,
    },
    Scenario {
        name: "store-direct-over-waiting",
        about: "a direct write over blocks not yet destaged (S3)",
        run: store::direct_over_waiting,
    },
    Scenario {
        name: "store-forged",
        about: "headers forged inside payloads (S8)",
        run: store::forged,
    },
    Scenario {
        name: "store-lost-page",
        about: "a lost metadata write",
        run: store::lost_page,
    },
    Scenario {
        name: "store-full",
        about: "more is written than fits (S6)",
        run: store::full,
    },
    Scenario {
        name: "store-racing-reads",
        about: "reads of blocks that are being destaged over (S9)",
        run: store::racing_reads,
    },
    Scenario {
        name: "store-pinned-holes",
        about: "discards of a volume whose floor hardly moves (S5)",
        run: store::pinned_holes,
    },
    Scenario {
        name: "store-overtaken-discard",
        about: "a discard is destaged while an older write of its extent is copied forward past it (S5)",
        run: store::overtaken_discard,
    },
    Scenario {
        name: "store-void-in-flight",
        about: "tails voided while whole extents are being written (S4)",
        run: store::void_in_flight,
    },
    Scenario {
        name: "store-void-after-rest",
        about: "a record above the floor is left alone for a while, and then made void (R25)",
        run: store::void_after_rest,
    },
    Scenario {
        name: "store-late-writes",
        about: "writes of a killed predecessor land late (R23)",
        run: store::late_writes,
    },
    Scenario {
        name: "record",
        about: "the membership record alone, under any commands whatever, wrong ones above all",
        run: crate::record_world::run,
    },
    Scenario {
        name: "over-budget",
        about: "devices die and rot on every node: an error or a volume that waits, never wrong data",
        run: over_budget::run,
    },
    Scenario {
        name: "b-isolated",
        about: "b alone: shrink to {a}, a continues within 5 s",
        run: partitions::b_isolated,
    },
    Scenario {
        name: "a-isolated",
        about: "a alone: it suspends; b is promoted when something attaches there",
        run: partitions::a_isolated,
    },
    Scenario {
        name: "w-lost",
        about: "the witness dies: no effect",
        run: partitions::w_lost,
    },
    Scenario {
        name: "link-cut",
        about: "a–b cut, both see w: the live primary's side wins",
        run: partitions::link_cut,
    },
    Scenario {
        name: "a-w-cut",
        about: "a–w cut: no effect",
        run: partitions::a_w_cut,
    },
    Scenario {
        name: "one-way",
        about: "one-way loss a→b: as a cut",
        run: partitions::one_way,
    },
    Scenario {
        name: "link-cut-then-a-w-cut",
        about: "a–b cut, then a–w: a keeps I/O, b must refuse",
        run: partitions::link_cut_then_a_w_cut,
    },
    Scenario {
        name: "b-dead-then-w-dead",
        about: "b dies, then w: a continues",
        run: partitions::b_dead_then_w_dead,
    },
    Scenario {
        name: "a-dead-then-w-dead",
        about: "a dies, then w before the change commits: suspended",
        run: partitions::a_dead_then_w_dead,
    },
    Scenario {
        name: "all-cut",
        about: "all three cut: suspended",
        run: partitions::all_cut,
    },
    Scenario {
        name: "peer-killed",
        about: "the peer's process dies: at most 1 s",
        run: partitions::peer_killed,
    },
    Scenario {
        name: "leader-lost-with-peer",
        about: "the raft leader dies with the peer: at most 5 s",
        run: partitions::leader_lost_with_peer,
    },
    Scenario {
        name: "silent-cut",
        about: "b falls silent: writes stall for at most 3 s",
        run: protocol::silent_cut,
    },
    Scenario {
        name: "site-and-node-at-once",
        about: "b and a node of a die at once: suspended",
        run: protocol::site_and_node_at_once,
    },
    Scenario {
        name: "voter-pair-gone-then-one",
        about: "b is gone for good and its voters leave, then a node of a dies: a continues",
        run: protocol::voter_pair_gone_then_one_more,
    },
    Scenario {
        name: "control-plane-stands-still",
        about: "voters are cut off while a copy rejoins: I/O goes on (R19)",
        run: protocol::control_plane_stands_still,
    },
    Scenario {
        name: "discard-while-away",
        about: "a discard while a replica is away (S10)",
        run: protocol::discard_while_away,
    },
    Scenario {
        name: "two-crashes-in-one-reconcile",
        about: "the new primary dies twice while it rolls the tail (R11)",
        run: protocol::two_crashes_in_one_reconcile,
    },
    Scenario {
        name: "rotted-tail-of-only-sealed",
        about: "the only sealed member has a rotted journal: it waits for the other (R24)",
        run: protocol::rotted_tail_of_the_only_sealed,
    },
    Scenario {
        name: "suspect-sole-survivor",
        about: "the sole survivor comes back with a rotted journal: it must not serve (R21)",
        run: protocol::suspect_sole_survivor,
    },
    Scenario {
        name: "grows-while-primary-dies",
        about: "a size is committed while the primary dies (R8)",
        run: protocol::grows_while_primary_dies,
    },
    Scenario {
        name: "dies-sealed",
        about: "a replica dies right after it answered a SEAL (R3)",
        run: protocol::dies_sealed,
    },
    Scenario {
        name: "late-appends",
        about: "what the old primary sent arrives under the new one (R3)",
        run: protocol::late_appends,
    },
    Scenario {
        name: "late-appends-in-silence",
        about: "the same, before the new one has written anything (R3)",
        run: protocol::late_appends_in_silence,
    },
    Scenario {
        name: "seal-during-flush",
        about: "SEAL meets appends that are not durable yet (R10)",
        run: protocol::seal_during_flush,
    },
    Scenario {
        name: "blank-device",
        about: "a device is exchanged for a blank one (R4)",
        run: protocol::blank_device,
    },
    Scenario {
        name: "blank-device-and-old-log",
        about: "a machine comes back with a blank device and a raft log that lags behind (R4)",
        run: protocol::blank_device_and_old_log,
    },
    Scenario {
        name: "held-requests",
        about: "requests held on an earlier device are issued at last (R12)",
        run: protocol::held_requests,
    },
    Scenario {
        name: "resync-under-writes",
        about: "a slow copy rejoins while clients write what is being copied (R16)",
        run: protocol::resync_under_writes,
    },
    Scenario {
        name: "reads-on-after-the-cut",
        about: "an application reads on at a primary that was cut off (R13)",
        run: protocol::reads_on_after_the_cut,
    },
    Scenario {
        name: "late-acks",
        about: "acknowledgements arrive after the next epoch has opened (R13)",
        run: protocol::late_acks,
    },
    Scenario {
        name: "diskless-primary-cut-off",
        about: "a primary without a copy is cut off (R13)",
        run: protocol::diskless_primary_cut_off,
    },
    Scenario {
        name: "local-promise",
        about: "another node takes over the only copy, which is the primary’s own (R13)",
        run: protocol::local_promise,
    },
    Scenario {
        name: "spoiled-appends",
        about: "appends are spoiled on their way: a gap (R5)",
        run: rules::spoiled_appends,
    },
    Scenario {
        name: "lagging-joiner",
        about: "a copy that lags far behind rejoins under writes (R5)",
        run: rules::lagging_joiner,
    },
    Scenario {
        name: "joined-and-alone",
        about: "a copy that was resynced under writes is all that is left (R16)",
        run: rules::joined_and_alone,
    },
    Scenario {
        name: "blank-device-alone",
        about: "a device is exchanged for a blank one while the other copy is off (R4)",
        run: rules::blank_device_alone,
    },
    Scenario {
        name: "shut-out-by-the-dying",
        about: "the primary's device stalls, and then its link is cut: the other copy stays in the set",
        run: rules::shut_out_by_the_dying,
    },
    Scenario {
        name: "behind-the-floor",
        about: "both lose power, and one the last batches of its journal (R11)",
        run: rules::behind_the_floor,
    },
    Scenario {
        name: "dies-while-rolled-to",
        about: "a member dies while the tail is rolled to it (R11)",
        run: rules::dies_while_rolled_to,
    },
    Scenario {
        name: "late-seals",
        about: "a SEAL of an older epoch arrives late (R3)",
        run: rules::late_seals,
    },
    Scenario {
        name: "stopped-primary",
        about: "the primary is stopped for a while, and goes on (R22)",
        run: rules::stopped_primary,
    },
    Scenario {
        name: "comes-back-with-its-own-tail",
        about: "a primary that was cut off comes back with what it has alone (R15)",
        run: rules::comes_back_with_its_own_tail,
    },
    Scenario {
        name: "comes-back-in-silence",
        about: "the same, while nobody writes (R15)",
        run: rules::comes_back_in_silence,
    },
    Scenario {
        name: "read-before-its-end",
        about: "what was read must not be gone after the primary dies (R14)",
        run: rules::read_before_its_end,
    },
    Scenario {
        name: "read-again-elsewhere",
        about: "the copy that is read from dies, and the other is read (R14)",
        run: rules::read_again_elsewhere,
    },
    Scenario {
        name: "full-on-one",
        about: "one pool is too small for what is written (R7)",
        run: rules::full_on_one,
    },
    Scenario {
        name: "lost-write",
        about: "a device loses writes it acknowledged, and its copy is all that is left (R17)",
        run: lost_writes::lost_write,
    },
    Scenario {
        name: "failed-device-lost-writes",
        about: "a device fails, has lost writes it acknowledged, and returns (R24)",
        run: lost_writes::failed_device,
    },
    Scenario {
        name: "equal-stamps",
        about: "two copies differ under one stamp: reported, nothing repaired (R17)",
        run: lost_writes::equal_stamps,
    },
    Scenario {
        name: "removal-not-committed",
        about: "the primary is cut off and cannot shut the other copy out (R1)",
        run: shortest::removal_not_committed,
    },
    Scenario {
        name: "certified-unheard",
        about: "a copy is certified, and its primary does not hear so (R1)",
        run: shortest::certified_unheard,
    },
    Scenario {
        name: "durable-on-one",
        about: "writes reach one copy alone, and it is lost (R2)",
        run: shortest::durable_on_one,
    },
    Scenario {
        name: "two-writes-of-a-block",
        about: "two writes of one block and reads of it, then the power goes (R6)",
        run: shortest::two_writes_of_a_block,
    },
    Scenario {
        name: "torn-and-alone",
        about: "a copy with a torn tail is back alone (R9)",
        run: shortest::torn_and_alone,
    },
    Scenario {
        name: "certified-and-torn",
        about: "what was copied to a replica decays in the moment of its certification (R24)",
        run: shortest::certified_and_torn,
    },
    Scenario {
        name: "nobody-can-read-it",
        about: "an unanswered write that only one copy has rots there, and must hold nobody up (R11)",
        run: shortest::nobody_can_read_it,
    },
    Scenario {
        name: "role-on-an-old-record",
        about: "every daemon dies right after a promotion, and the primary wants its role again (R9)",
        run: shortest::wants_its_role_on_an_old_record,
    },
    Scenario {
        name: "copy-without-a-record",
        about: "a node knows no record of the copy that it holds (R18)",
        run: shortest::copy_without_a_record,
    },
    Scenario {
        name: "voter-without-its-log",
        about: "a voter loses its log with what was just committed (R20)",
        run: shortest::voter_without_its_log,
    },
    Scenario {
        name: "rebuilt-from-a-stale-log",
        about: "the control plane is rebuilt from a log that lags while the old side lives",
        run: forced::rebuilt_from_a_stale_log,
    },
    Scenario {
        name: "lost-the-middle",
        about: "a copy lost acknowledged records and is back at once (R24)",
        run: shortest::lost_the_middle,
    },
    Scenario {
        name: "lost-while-opening",
        about: "a copy answers a SEAL, loses acknowledged records, and is back before the opening (R24)",
        run: shortest::lost_while_opening,
    },
    Scenario {
        name: "strict-exchanged",
        about: "strict: a site’s last copy is lost, and another takes its place (R9)",
        run: strict::exchanged_for_the_lost,
    },
    Scenario {
        name: "strict-incomplete",
        about: "strict: a site’s last copy lacks records, and another takes its place (R9)",
        run: strict::incomplete_is_not_trusted,
    },
    Scenario {
        name: "strict-exchanged-in-silence",
        about: "strict: the same while nobody writes, and then the power goes (R15)",
        run: strict::exchanged_in_silence,
    },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

/// The default mix: mostly whole worlds.
pub fn of_seed(seed: u64) -> &'static Scenario {
    let name = match seed % 10 {
        0..=5 => "world",
        6..=8 => "store",
        _ => "control",
    };
    find(name).expect("the mix names scenarios")
}

/// The runs that ought to catch a mutation: a seed of each scenario that was written for it, and one
/// of the mix of its core.
pub fn for_mutation(
    mutation: Mutation,
    scenario: Option<&'static Scenario>,
    from: u64,
    seeds: u64,
) -> impl Iterator<Item = Config> + Send {
    let places: Vec<&'static Scenario> = match scenario {
        Some(one) => vec![one],
        None => mutation
            .scenarios()
            .iter()
            .map(|name| find(name).expect("mutations name scenarios"))
            .collect(),
    };
    let places = (from..from + seeds).flat_map(move |seed| {
        let of_seed: Vec<Config> = places
            .iter()
            .map(|scenario| Config {
                seed,
                scenario,
                less: Less::default(),
                words: Words::Quiet,
                mutation: Some(mutation),
            })
            .collect();
        of_seed
    });
    places.take(seeds as usize)
}
