//! More is lost than the cluster is built to survive: devices die one after the other, copies rot on every
//! node, or a device lies about its flushes. What is left may answer with an error or wait; it never gives a
//! wrong byte.

use crate::net::NetFaults;
use crate::rng::Rng;
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::plan::{FaultKind, Plan};
use lockstep_types::SECOND;

/// What is lost, one way or another.
const LOSSES: [FaultKind; 3] = [
    FaultKind::DeviceFailure,
    FaultKind::Swap,
    FaultKind::Corruption,
];

/// Runs a seed over the budget.
pub fn run(config: &Config) -> Outcome {
    let mut rng = Rng::new(config.seed);
    let mut plan = Plan::draw(&mut rng.split("plan"), &config.less);
    plan.over_budget = true;
    let mut dice = rng.split("over budget");
    if dice.per_cent(30) && config.less.faults_off >> FaultKind::Power as u32 & 1 == 0 {
        lies(&mut plan, &mut dice);
    } else {
        loses(&mut plan, &mut dice, config);
    }
    World::run_plan(config, plan, rng, |_| {})
}

/// Devices die, are swapped, rot: one of these at least.
fn loses(plan: &mut Plan, dice: &mut Rng, config: &Config) {
    let always = *dice.pick(&LOSSES);
    for kind in LOSSES {
        let on = dice.per_cent(50) || kind == always;
        let on = on && config.less.faults_off >> kind as u32 & 1 == 0;
        plan.every[kind as usize] = on.then(|| dice.between(5, 30) * SECOND);
    }
}

/// The devices of one node lie about their flushes, and it loses power again and again. Nothing else goes
/// wrong: an honest copy that is certified meanwhile is there to say what the liar has lost, and all that was
/// acknowledged must be read from it.
fn lies(plan: &mut Plan, dice: &mut Rng) {
    plan.liar = Some(plan.victim);
    plan.every = [None; 12];
    plan.every[FaultKind::Power as usize] = Some(dice.between(3, 20) * SECOND);
    plan.odd = 0;
    plan.net = NetFaults {
        give_up: plan.net.give_up,
        backoff: plan.net.backoff,
        ..NetFaults::none()
    };
}
