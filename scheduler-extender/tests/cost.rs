//! What a scheduler waits for, TLS and JSON included, at 5,000 nodes and 100 volumes of a pod. Measured, not
//! asserted: `cargo test --release -p lockstep-scheduler-extender --test cost -- --ignored --nocapture`.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Authority, Connection, answers, copy, listen, member};
use hyper::StatusCode;
use lockstep_placement::Grammar;
use lockstep_scheduler_extender::routes::certified;
use lockstep_scheduler_extender::state::State;
use lockstep_scheduler_extender::tls::{Clients, Tls};
use lockstep_types::{Locality, VolumeId};
use lockstep_verdict::claims::{Claim, Persistent};
use lockstep_verdict::cluster::Machine;
use lockstep_verdict::storage::{Heard, Storage, Volume};
use serde_json::json;

const NODES: u128 = 5000;
const VOLUMES: u128 = 100;
const ROUNDS: usize = 500;

fn name(number: u128) -> String {
    format!("node-{:05}.example.com", number % NODES)
}

fn volume(id: u128) -> Volume {
    Volume {
        id: VolumeId::from_u128(id),
        bytes: 1 << 30,
        locality: Locality::Prefer,
        strict: false,
        wanted: Some(Grammar::Count(3)),
        preferred_site: "s0".into(),
        primary: String::new(),
        attached: String::new(),
        copies: [7, 11, 13].map(|step| copy(&name(id * step))).into(),
    }
}

fn large() -> State {
    let state = State::default();
    let mut members = Vec::new();
    for number in 0..NODES {
        let mut it = member(&name(number), &format!("s{}", number % 2), number + 1);
        it.zone = format!("z{}", number % 10);
        it.rack = format!("r{}", number % 250);
        members.push(it);
    }
    state.set_machines(members.iter().map(|it| Machine {
        name: it.name.clone(),
        member: it.name.clone(),
        ready: true,
    }));
    state.set_storage(Storage::new(Heard {
        at: Some(state.now()),
        members,
        volumes: (1..20_000).map(volume).collect(),
        links: Vec::new(),
    }));
    state.change_claims(|claims| {
        let persistent = |id: u128| {
            let ours = Persistent::Ours(Some(VolumeId::from_u128(id)));
            (format!("pv-{id}"), ours)
        };
        claims.set_persistent((1..20_000).map(persistent));
        let claim = |id: u128| {
            let claim = Claim {
                volume: format!("pv-{id}"),
                exclusive: true,
                ..Claim::default()
            };
            (("shop".to_owned(), format!("data-{id}")), claim)
        };
        claims.set_claims((1..20_000).map(claim));
    });
    state
}

#[tokio::test]
#[ignore = "a measurement; run it alone, in release"]
async fn filter_and_prioritize_over_https() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    authority.install(folder.path());
    let tls = Arc::new(Tls::open(folder.path()).expect("certificates"));
    let state = large();
    let routes = certified(answers(state.clone()));
    let address = listen(tls, Clients::Certified, routes).await;
    let config = authority.client(Some(authority.sign("kube-scheduler")));
    let mut scheduler = Connection::open(address, config).await.expect("let in");
    let volume = |id: u128| json!({"name": format!("v{id}"), "persistentVolumeClaim": {"claimName": format!("data-{id}")}});
    let body = json!({
        "Pod": {"metadata": {"namespace": "shop", "name": "pg-0", "uid": "u"},
                "spec": {"containers": [], "volumes": (1..=VOLUMES).map(volume).collect::<Vec<_>>()}},
        "Nodes": null,
        "NodeNames": (0..NODES).map(name).collect::<Vec<_>>(),
    });
    let body = body.to_string();
    for path in ["/filter", "/prioritize"] {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let (status, answer) = scheduler.post(path, body.clone()).await;
            times.push(start.elapsed());
            assert_eq!(status, StatusCode::OK);
            assert!(answer.len() > 100_000, "every node is named in the answer");
        }
        tell(path, times);
    }
}

fn tell(path: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "{path}, 5,000 nodes, 100 volumes: median {:?}, p99 {:?}, worst {:?}",
        at(500),
        at(990),
        at(1000)
    );
}
