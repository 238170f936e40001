//! More is lost than the cluster is built to survive: devices die one after the other, copies rot on every
//! node. What is left may answer with an error or wait; it never gives a wrong byte.

use crate::rng::Rng;
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::plan::{FaultKind, Plan};
use lockstep_types::SECOND;

/// Runs a seed over the budget.
pub fn run(config: &Config) -> Outcome {
    let mut rng = Rng::new(config.seed);
    let mut plan = Plan::draw(&mut rng.split("plan"), &config.less);
    plan.over_budget = true;
    let mut dice = rng.split("over budget");
    for kind in [
        FaultKind::DeviceFailure,
        FaultKind::Swap,
        FaultKind::Corruption,
    ] {
        let on = dice.per_cent(60) && config.less.faults_off >> kind as u32 & 1 == 0;
        plan.every[kind as usize] = on.then(|| dice.between(5, 30) * SECOND);
    }
    World::run_plan(config, plan, rng, |_| {})
}
