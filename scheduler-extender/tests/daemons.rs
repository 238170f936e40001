//! The scheduler extender hears from real daemons what its verdicts are made of.

use std::time::Duration;

use e2e::{Cluster, wait_for};
use lockstep_scheduler_extender::poll;
use lockstep_scheduler_extender::state::State;
use lockstep_types::VolumeId;
use lockstep_verdict::filter::filter;
use lockstep_verdict::prioritize::prioritize;
use lockstep_verdict::reason::Reason;
use lockstep_verdict::wanted::{Source, Wanted, WantedVolume};

const PATIENCE: Duration = Duration::from_secs(60);
const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "w", "no-such-node"];

fn verdicts(state: &State, id: VolumeId) -> Vec<(Option<Reason>, u8)> {
    let wanted = Wanted {
        locality: None,
        volumes: vec![WantedVolume {
            claim: "data".into(),
            source: Source::Bound(id),
            users: Vec::new(),
        }],
    };
    let (cluster, now) = (state.cluster(), state.now());
    let refused = filter(&cluster, now, &wanted, NODES);
    let scores = prioritize(&cluster, now, &wanted, NODES);
    refused.into_iter().zip(scores).collect()
}

/// A volume with a copy in each site: every data node stays, those with a copy are best, the witness goes. A node
/// that dies goes, and stays again when it is back, with its copy certified again.
#[test]
#[ignore = "starts a cluster of the released binary: tests/run e2e"]
fn nodes_are_judged_by_what_daemons_say() {
    let cluster = Cluster::up(2);
    let made = cluster.json(&[
        "volume", "create", "pg", "--size", "16MiB", "--copies", "a=1,b=1",
    ]);
    let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
    cluster.wait_until_healthy("pg");
    let shown = cluster.json(&["volume", "show", "pg"]);
    let replicas = shown["replicas"].as_array().expect("a list");
    let holds = |node: &str| replicas.iter().any(|it| it["node"] == node);

    let state = State::default();
    // The node that will die is asked first, so that another must be found.
    let holder = NODES
        .into_iter()
        .find(|node| node.starts_with('a') && holds(node));
    let holder = holder.expect("a copy in site a");
    let asked = [holder, "b1", "b2"]
        .map(|node| lockstep_api::Target::Unix(cluster.path().join(node).join("admin.sock")));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.spawn(poll::hear(asked.into(), state.clone()));

    let ready = |found: &[(Option<Reason>, u8)]| {
        NODES
            .iter()
            .zip(found)
            .all(|(node, (refused, score))| match *node {
                "w" | "no-such-node" => (*refused, *score) == (Some(Reason::NoDaemon), 0),
                node if holds(node) => refused.is_none() && *score >= 9,
                _ => refused.is_none() && (3..=5).contains(score),
            })
    };
    wait_for("verdicts by where copies are", PATIENCE, || {
        ready(&verdicts(&state, id)).then_some(())
    });
    let other = VolumeId::from_u128(id.as_u128() ^ 1);
    assert_eq!(verdicts(&state, other)[2].0, Some(Reason::UnknownVolume));

    cluster.kill(holder);
    let at = NODES
        .iter()
        .position(|node| *node == holder)
        .expect("a node");
    wait_for("the dead node going", PATIENCE, || {
        let found = verdicts(&state, id);
        let others = found[2].0.is_none() && found[3].0.is_none();
        (found[at] == (Some(Reason::NoDaemon), 0) && others).then_some(())
    });
    let mut daemon = cluster.restart(holder);
    wait_for("the node being good again", PATIENCE, || {
        ready(&verdicts(&state, id)).then_some(())
    });
    cluster.down();
    daemon.wait().expect("reaped");
}
