//! A node in use is taken out of a cluster by one command while I/O runs: its copy is moved off, its
//! vote is taken over, its certificate is barred. What has no other place is refused in words, and
//! then nothing has changed.

use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup, wait_for};
use lockstep_drive::{Load, Plan};
use lockstep_types::{BLOCK, VolumeId};
use serde_json::Value;
use std::process::{Child, Command, Stdio};

const PG: &str = "pg";
const BYTES: u64 = 16 << 20;

fn under_load() -> (Fleet, Load) {
    let fleet = Fleet::stand(Setup {
        sites: &[("a", 2), ("b", 2), ("w", 1)],
        ..Setup::default()
    });
    let size = BYTES.to_string();
    let made = fleet.json(
        "a1",
        &[
            "volume", "create", PG, "--size", &size, "--copies", "a=2,b=1",
        ],
    );
    let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    let plan = Plan::new(id, BYTES / BLOCK as u64, 4, 1);
    let load = Load::start(plan, &fleet.socket("a1", PG));
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    fleet.wait_until_healthy("a1", PG);
    (fleet, load)
}

fn node(fleet: &Fleet, name: &str) -> Option<Value> {
    let nodes = fleet.json("a1", &["node", "list"]);
    let mut nodes = nodes.as_array().expect("a list").iter();
    nodes.find(|it| it["name"] == name).cloned()
}

/// Nodes with a copy.
fn holders(fleet: &Fleet) -> Vec<String> {
    let shown = fleet.json("a1", &["volume", "show", PG]);
    let replicas = shown["replicas"].as_array().expect("a list").iter();
    let mut nodes: Vec<String> = replicas
        .map(|it| it["node"].as_str().expect("a name").to_owned())
        .collect();
    nodes.sort();
    nodes
}

fn is_refused(fleet: &Fleet, name: &str, because: &str) {
    let before = holders(fleet);
    let said = fleet.bad("a1", &["node", "remove", name]);
    assert!(said.contains(because), "{name}: {said}");
    let now = node(fleet, name).expect("it is still there");
    assert_eq!(now["cordoned"], false, "{name} stays usable: {now:#}");
    assert_eq!(holders(fleet), before, "no copy moves");
}

fn events(fleet: &Fleet) -> String {
    fleet.good("a1", &["events"])
}

fn wait_for_event(fleet: &Fleet, words: &str) {
    wait_for(&format!("an event with '{words}'"), PATIENCE, || {
        events(fleet).contains(words).then_some(())
    });
}

#[test]
fn a_node_in_use_is_removed_by_one_command() {
    let (mut fleet, load) = under_load();
    is_refused(&fleet, "a1", "'pg' is attached there");
    is_refused(&fleet, "w1", "join one first");
    is_refused(&fleet, "a2", "cannot be moved off");

    let leaving = match holders(&fleet).contains(&"b1".to_owned()) {
        true => "b1",
        false => "b2",
    };
    let staying = if leaving == "b1" { "b2" } else { "b1" };
    assert_eq!(node(&fleet, leaving).expect("listed")["voter"], true);
    load.forget_stalls();
    let mut follower = follows_events_of_a1(&fleet, leaving);
    let removed = fleet.json("a1", &["node", "remove", leaving]);
    assert_eq!(removed["removed"], leaving, "{removed:#}");
    assert_eq!(removed["moved"], serde_json::json!([PG]), "{removed:#}");
    assert_eq!(removed["voted"], true, "{removed:#}");
    assert_eq!(node(&fleet, leaving), None);
    assert_eq!(holders(&fleet), ["a1", "a2", staying]);
    fleet.wait_until_healthy("a1", PG);
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    let status = fleet.json("a1", &["status"]);
    let voters = status["voters"].as_array().expect("a list").iter();
    let voting: Vec<&Value> = voters.filter(|it| it["learner"] == false).collect();
    assert_eq!(voting.len(), 3, "{status:#}");
    assert_eq!(status["attention"], serde_json::json!([]), "{status:#}");

    // Nor does it hear more over the connection that it has.
    wait_for("the end of what it followed", PATIENCE, || {
        follower.try_wait().expect("it is a child")
    });
    its_certificate_is_barred(&mut fleet, leaving);
    // The last node of a site, which votes, cannot go.
    is_refused(&fleet, staying, "join one first");
    let seen = load.finish(&fleet.socket("a1", PG)).expect("it is read");
    assert_eq!((seen.wrong, seen.unknown), (0, 0), "{seen:?}");
}

/// A program with a node's certificate that follows the events of a1.
fn follows_events_of_a1(fleet: &Fleet, name: &str) -> Child {
    let control = fleet.addresses("a1").1;
    let certs = fleet.home(name).join("certs");
    let mut command = Command::new(e2e::binary());
    command.args(["events", "--follow", "--server", control, "--certs"]);
    command.arg(certs).stdout(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    assert!(child.try_wait().expect("it is a child").is_none());
    child
}

fn its_certificate_is_barred(fleet: &mut Fleet, name: &str) {
    let home = fleet.home(name).join("certs");
    let certs = home.to_str().expect("plain");
    for through in ["a1", "a2"] {
        let control = fleet.addresses(through).1.to_owned();
        // Each node hears of it with the log.
        wait_for("a refusal", PATIENCE, || {
            let output = fleet.run(name, &["status", "--server", &control, "--certs", certs]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            said.contains("refused this node's certificate")
                .then_some(())
        });
    }
    for words in [
        &format!("node '{name}' was removed, its certificate is barred"),
        "issued a certificate to node 'a2'",
        "voters of the control plane: 'a1' votes now",
        &format!("'{name}' votes no longer"),
        "was removed from the cluster and its certificate is barred",
    ] {
        wait_for_event(fleet, words);
    }
    // It does not come back by itself, and says why.
    fleet.kill(&[name.into()]);
    fleet.start(name);
    wait_for("a daemon that is refused", PATIENCE, || {
        let said = fleet.said(name);
        (said.contains("was removed from the cluster") || said.contains("refused this node's"))
            .then_some(())
    });
    assert_eq!(node(fleet, name), None);
}
