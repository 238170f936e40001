//! What a verdict costs where it costs most. Measured, not asserted: `cargo test --release -p lockstep-verdict
//! --test cost -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use common::{World, bound, certified, member, pod, unbound, volume, wish};
use lockstep_types::{FaultDomain, Locality};
use lockstep_verdict::filter::filter;
use lockstep_verdict::prioritize::prioritize;
use lockstep_verdict::wanted::Wanted;

const NODES: usize = 5000;
const VOLUMES: u128 = 100;
const ROUNDS: usize = 500;

fn large() -> World {
    let at = |n: usize| format!("s{}/z{}/r{}", n % 2, n % 10, n % 250);
    let members = (0..NODES).map(|n| member(&format!("node-{n:05}.example"), &at(n)));
    let node = |n: u128| format!("node-{:05}.example", n % NODES as u128);
    let copies = |id: u128| [7, 11, 13].map(|step| certified(&node(id * step + 1)));
    let volumes = (0..20_000).map(|id| volume(id, 1 + id as u64 % 50, copies(id).to_vec()));
    World::new(members.collect(), volumes.collect())
}

fn measure(what: &str, world: &World, wanted: &Wanted) {
    let (cluster, names) = (world.cluster(), world.names());
    let (mut filters, mut priorities) = (Vec::new(), Vec::new());
    let mut kept = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let refused = filter(&cluster, world.now, wanted, names.iter().copied());
        filters.push(start.elapsed());
        let start = Instant::now();
        let scores = prioritize(&cluster, world.now, wanted, names.iter().copied());
        priorities.push(start.elapsed());
        kept += refused.iter().filter(|it| it.is_none()).count() + scores.len();
    }
    assert_eq!(
        kept,
        2 * ROUNDS * NODES,
        "nothing is wrong with this cluster"
    );
    tell(what, "filter", filters);
    tell(what, "prioritize", priorities);
}

fn tell(what: &str, verb: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "{what}, {verb}: median {:?}, p99 {:?}, worst {:?}",
        at(500),
        at(990),
        at(1000)
    );
}

#[test]
#[ignore = "a measurement; run it alone, in release"]
fn filter_and_prioritize_at_5000_nodes_and_100_volumes() {
    let world = large();
    let start = Instant::now();
    let cluster = world.cluster();
    println!(
        "arranging 5,000 nodes and 20,000 volumes: {:?}",
        start.elapsed()
    );
    assert_eq!(cluster.machines().len(), NODES);
    let bound: Vec<_> = (0..VOLUMES).map(|id| bound(id * 17)).collect();
    measure("100 bound volumes", &world, &pod(bound));
    let class = || wish("s0=2,s1=1", FaultDomain::Rack, Locality::Prefer);
    let new: Vec<_> = (1..=VOLUMES as u64)
        .map(|gib| unbound(class(), gib))
        .collect();
    measure("100 new claims, all of other sizes", &world, &pod(new));
}
