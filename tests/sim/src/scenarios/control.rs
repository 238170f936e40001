//! The control plane alone: voters, their logs, and an operator who never rests.

use crate::rng::Rng;
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::plan::Plan;
use lockstep_types::millis;

pub fn run(config: &Config) -> Outcome {
    let mut rng = Rng::new(config.seed);
    let mut plan = Plan::draw(&mut rng.split("plan"), &config.less);
    plan.volumes.clear();
    plan.operator_every = Some(millis(200));
    World::run_plan(config, plan, rng, |_| {})
}
