//! The partition table of safety.md, row by row, by name: real daemons in network namespaces, links
//! that lose packets without telling anyone, real time. The primary is in A, and {a1, b1} are in
//! sync; a load that verifies what it reads runs through all of it.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup, wait_for};
use lockstep_drive::{Load, Plan};
use lockstep_nbd::client::{Blocking, ClientError, Options};
use lockstep_types::{BLOCK, VolumeId};
use netlab::Direction;
use serde_json::Value;

const PG: &str = "pg";
const ONE_EACH: &[(&str, u32)] = &[("a", 1), ("b", 1), ("w", 1)];
const TWO_EACH: &[(&str, u32)] = &[("a", 2), ("b", 2), ("w", 1)];
const BYTES: u64 = 16 << 20;
/// The peer's socket closes, because its process was killed.
const CLOSED: Duration = Duration::from_secs(1);
/// A cut that nobody is told of.
const SILENT: Duration = Duration::from_secs(3);
/// The raft leader is lost with it.
const LEADERLESS: Duration = Duration::from_secs(5);
/// No effect on I/O is no effect beyond what a busy machine has anyway.
const NO_EFFECT: Duration = Duration::from_secs(1);
/// Long enough for everything that a cut may set off: leases (3 s), elections, evictions.
const AFTERMATH: Duration = Duration::from_secs(8);
/// The block that the rows themselves write; the load has the others.
const OWN: u64 = BYTES - BLOCK as u64;

/// Says so and returns if there is no root. As root nothing is skipped.
macro_rules! needs_root {
    () => {
        if !netlab::is_root() {
            eprintln!("skipped: a network lab needs root");
            return;
        }
    };
}

struct Row {
    fleet: Fleet,
    load: Load,
}

impl Row {
    /// A cluster with a volume in both sites, attached in A, and a load on it.
    fn begin(lab: &'static str, per_site: usize) -> Self {
        let fleet = Fleet::stand(Setup {
            sites: [ONE_EACH, TWO_EACH][per_site - 1],
            lab: Some(lab),
            ..Setup::default()
        });
        // Preference never overrides quorum: B wins where the table says so, though A is preferred.
        let size = BYTES.to_string();
        let made = fleet.json(
            "a1",
            &[
                "volume",
                "create",
                PG,
                "--size",
                &size,
                "--copies",
                "*=1",
                "--local-node",
                "a1",
                "--preferred-site",
                "a",
            ],
        );
        let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
        fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
        let plan = Plan {
            patience: PATIENCE,
            ..Plan::new(id, OWN / BLOCK as u64, 4, 1)
        };
        let load = Load::start(plan, &fleet.socket("a1", PG));
        let row = Self { fleet, load };
        row.writes_go_on("the first write");
        row.fleet.wait_until_healthy("a1", PG);
        row.load.forget_stalls();
        row
    }

    fn cut(&self, from: &str, to: &str, direction: Direction) {
        self.fleet.lab().link(from, to).cut(direction);
    }

    fn isolate(&self, site: &str) {
        for other in ["a", "b", "w"] {
            if other != site {
                self.cut(site, other, Direction::Both);
            }
        }
    }

    fn heal(&self) {
        for (from, to) in [("a", "b"), ("a", "w"), ("b", "w")] {
            self.fleet.lab().link(from, to).heal();
        }
    }

    fn leader(&self) -> String {
        let status = self.fleet.json("a1", &["status"]);
        status["leader"].as_str().expect("a leader").to_owned()
    }

    /// The bound on a stall when these nodes are lost from the primary's point of view.
    fn bound(&self, without_leader: Duration, lost: &[&str]) -> Duration {
        match lost.contains(&self.leader().as_str()) {
            true => LEADERLESS,
            false => without_leader,
        }
    }

    fn certified(&self, asked: &str) -> Vec<String> {
        certified(&self.fleet.json(asked, &["volume", "show", PG]))
    }

    fn wait_until_certified(&self, asked: &str, expected: &[&str]) {
        let what = format!("certified on {expected:?}");
        self.fleet
            .wait_for_volume(asked, PG, &what, |shown| certified(shown) == expected);
    }

    fn writes_go_on(&self, what: &str) {
        let waited = self.load.wait_for_write(PATIENCE);
        assert!(
            waited.is_some(),
            "{what} was not acknowledged: {}",
            self.fleet.logs()
        );
    }

    /// The volume has shrunk to what A has, writes go on, and none waited longer than `bound`.
    fn goes_on_alone(&self, bound: Duration) {
        self.wait_until_certified("a1", &["a1"]);
        self.writes_go_on("a write after the shrink");
        let stall = self.load.seen().longest_stall;
        eprintln!("stall {stall:?}, bound {bound:?}");
        assert!(
            stall <= bound,
            "{stall:?}, bound {bound:?}{}",
            self.fleet.logs()
        );
    }

    /// For some time nothing changes for the application.
    fn is_not_affected(&self) {
        // What is promised is that nothing happens, for as long as something might.
        std::thread::sleep(AFTERMATH);
        self.writes_go_on("a write while nothing should happen");
        let stall = self.load.seen().longest_stall;
        eprintln!("stall {stall:?}");
        assert!(stall <= NO_EFFECT, "{stall:?}{}", self.fleet.logs());
    }

    /// Writes wait, and no application is told of an error; so do reads once leases have lapsed.
    fn is_suspended(&self) {
        wait_for("no more writes", PATIENCE, || {
            (self.load.quiet_for() > AFTERMATH).then_some(())
        });
        assert_eq!(
            self.load.seen().unknown,
            0,
            "an error reached the application"
        );
    }

    /// After the faults: healthy again, nothing wrong, and every written block is read back.
    fn ends_well(self, home: &str) {
        self.heal();
        self.fleet.wait_until_healthy(home, PG);
        let socket = self.fleet.socket(home, PG);
        let seen = self.load.finish(&socket).expect("it is read");
        assert_eq!(seen.wrong, 0, "{:#?}", seen.violations);
        assert!(
            seen.verified_blocks > 0 && seen.acknowledged > 0,
            "{seen:?}"
        );
    }

    /// An operation of a client on a node, and how it ends.
    fn submit<T: Send + 'static>(
        &self,
        node: &str,
        work: impl FnOnce(&mut Blocking) -> Result<T, ClientError> + Send + 'static,
    ) -> mpsc::Receiver<Result<T, ClientError>> {
        let socket = self.fleet.socket(node, PG);
        let mut client = wait_for("the NBD socket", PATIENCE, || {
            Blocking::connect_unix(&socket, Options::new(PG), 2 * PATIENCE).ok()
        });
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // Whoever waited may have gone.
            let _ = tell.send(work(&mut client));
        });
        told
    }

    fn write(&self, node: &str, byte: u8) -> mpsc::Receiver<Result<(), ClientError>> {
        self.submit(node, move |client| client.write(OWN, block(byte)))
    }

    fn read(&self, node: &str) -> mpsc::Receiver<Result<Bytes, ClientError>> {
        self.submit(node, |client| client.read(OWN, BLOCK as u32))
    }

    /// The attach is refused, or grants nothing that opens.
    fn cannot_be_opened_on(&self, node: &str) {
        let output = self.fleet.run(
            node,
            &["volume", "attach", PG, "--node", node, "-o", "json"],
        );
        if output.status.success() {
            let attached: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let waiting = attached["waiting"].as_str().expect("a text");
            assert!(!waiting.is_empty(), "{node} opened the volume: {attached}");
        }
    }
}

fn block(byte: u8) -> Bytes {
    vec![byte; BLOCK].into()
}

fn certified(shown: &Value) -> Vec<String> {
    let replicas = shown["replicas"].as_array().expect("a list").iter();
    let certified = replicas.filter(|it| it["certified"] == true);
    certified
        .map(|it| it["node"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn b_isolated() {
    needs_root!();
    let row = Row::begin("bIsolated", 1);
    let bound = row.bound(SILENT, &["b1"]);
    row.isolate("b");
    row.goes_on_alone(bound);
    row.cannot_be_opened_on("b1");
    row.ends_well("a1");
}

#[test]
fn a_isolated() {
    needs_root!();
    let row = Row::begin("aIsolated", 1);
    row.write("a1", 1)
        .recv()
        .expect("it ends")
        .expect("written");
    row.isolate("a");
    row.is_suspended();
    // Held by A: a write over the block that B is about to write, and a read of it.
    let (write, read) = (row.write("a1", 2), row.read("a1"));
    row.fleet.sooner_or_later("b1", &["volume", "detach", PG]);
    row.fleet
        .sooner_or_later("b1", &["volume", "attach", PG, "--node", "b1"]);
    let seen = row.read("b1").recv().expect("it ends").expect("read");
    assert_eq!(seen, block(1), "what A acknowledged");
    row.write("b1", 3)
        .recv()
        .expect("it ends")
        .expect("written");
    assert!(
        write.try_recv().is_err() && read.try_recv().is_err(),
        "A suspends, without an error, as long as it knows nothing"
    );
    assert_eq!(
        row.load.seen().unknown,
        0,
        "an error reached the application"
    );
    row.load.lose_target();
    row.heal();
    // R12: what A held belongs to an attachment that has ended. R13: nor was the read answered.
    let write = write.recv_timeout(PATIENCE).expect("it ends");
    assert!(write.is_err(), "{write:?}");
    let read = read.recv_timeout(PATIENCE).expect("it ends");
    assert!(read.is_err(), "{read:?}");
    let seen = row.read("b1").recv().expect("it ends").expect("read");
    assert_eq!(seen, block(3), "a healed site must not write over it");
    row.load.reopen(&row.fleet.socket("b1", PG));
    row.writes_go_on("a write in B");
    row.ends_well("b1");
}

#[test]
fn w_lost() {
    needs_root!();
    let row = Row::begin("wLost", 1);
    row.isolate("w");
    row.is_not_affected();
    let status = row.fleet.json("a1", &["status"]);
    assert!(
        status["attention"].to_string().contains("w1"),
        "nobody is alerted: {status:#}"
    );
    assert_eq!(row.certified("a1"), ["a1", "b1"]);
    row.ends_well("a1");
}

#[test]
fn a_b_cut_both_see_w() {
    needs_root!();
    let row = Row::begin("abCut", 1);
    row.cut("a", "b", Direction::Both);
    row.goes_on_alone(SILENT);
    let said = row
        .fleet
        .bad("b1", &["volume", "attach", PG, "--node", "b1"]);
    assert!(said.contains("attached to node 'a1'"), "{said}");
    row.ends_well("a1");
}

#[test]
fn a_w_cut_only() {
    needs_root!();
    let row = Row::begin("awCut", 1);
    row.cut("a", "w", Direction::Both);
    row.is_not_affected();
    assert_eq!(row.certified("a1"), ["a1", "b1"]);
    row.ends_well("a1");
}

#[test]
fn one_way_loss_from_a_to_b() {
    needs_root!();
    let row = Row::begin("oneWayAB", 1);
    row.cut("a", "b", Direction::Forth);
    row.goes_on_alone(SILENT);
    row.ends_well("a1");
}

#[test]
fn one_way_loss_from_b_to_a() {
    needs_root!();
    let row = Row::begin("oneWayBA", 1);
    row.cut("a", "b", Direction::Back);
    row.goes_on_alone(SILENT);
    row.ends_well("a1");
}

#[test]
fn a_b_cut_then_a_w_cut() {
    needs_root!();
    let row = Row::begin("abThenAw", 1);
    row.cut("a", "b", Direction::Both);
    row.goes_on_alone(SILENT);
    row.load.forget_stalls();
    row.cut("a", "w", Direction::Both);
    row.is_not_affected();
    // B and W are a majority, and may end the attachment; nothing may be promoted on b1 (R9).
    row.fleet.sooner_or_later("b1", &["volume", "detach", PG]);
    row.cannot_be_opened_on("b1");
    assert_eq!(row.certified("b1"), ["a1"]);
    row.load.lose_target();
    row.heal();
    row.fleet.run("b1", &["volume", "detach", PG]);
    row.fleet
        .sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    row.load.reopen(&row.fleet.socket("a1", PG));
    row.writes_go_on("a write after the cuts");
    row.ends_well("a1");
}

#[test]
fn b_dead_then_w_dead() {
    needs_root!();
    let mut row = Row::begin("bDeadWDead", 1);
    let bound = row.bound(CLOSED, &["b1"]);
    row.fleet.kill(&["b1".into()]);
    row.goes_on_alone(bound);
    let before = row.fleet.json("a1", &["volume", "show", PG]);
    row.load.forget_stalls();
    row.fleet.kill(&["w1".into()]);
    row.is_not_affected();
    row.fleet.start("w1");
    let after = row
        .fleet
        .wait_for_volume("a1", PG, "shown", |shown| shown["status"] != "");
    assert_eq!(
        (&before["epoch"], &before["version"]),
        (&after["epoch"], &after["version"]),
        "no configuration changes"
    );
    row.fleet.start("b1");
    row.ends_well("a1");
}

#[test]
fn a_dead_then_w_dead_before_the_change_commits() {
    needs_root!();
    let mut row = Row::begin("aDeadWDead", 1);
    row.write("a1", 1)
        .recv()
        .expect("it ends")
        .expect("written");
    row.load.lose_target();
    row.fleet.kill(&["a1".into(), "w1".into()]);
    let detached = row.fleet.run("b1", &["volume", "detach", PG]);
    assert!(!detached.status.success(), "one voter of three decided");
    row.cannot_be_opened_on("b1");
    // The operator decides: here that the witness returns.
    row.fleet.start("w1");
    row.fleet.sooner_or_later("b1", &["volume", "detach", PG]);
    row.fleet
        .sooner_or_later("b1", &["volume", "attach", PG, "--node", "b1"]);
    let seen = row.read("b1").recv().expect("it ends").expect("read");
    assert_eq!(seen, block(1), "what A acknowledged");
    row.load.reopen(&row.fleet.socket("b1", PG));
    row.writes_go_on("a write in B");
    row.fleet.start("a1");
    row.ends_well("b1");
}

#[test]
fn a_site_and_a_node_of_the_other_at_the_same_instant() {
    needs_root!();
    let mut row = Row::begin("siteNode", 2);
    let mut victims = row.fleet.site("b");
    victims.push("a2".into());
    row.fleet.kill(&victims);
    // Two voters of five are left: nothing can be committed.
    row.is_suspended();
    row.fleet.start("a2");
    row.writes_go_on("a write once three voters are left");
    for name in row.fleet.site("b") {
        row.fleet.start(&name);
    }
    row.ends_well("a1");
}

#[test]
fn a_site_then_a_node_of_the_other_a_minute_later() {
    needs_root!();
    let mut row = Row::begin("siteLater", 2);
    let site = row.fleet.site("b");
    row.fleet.kill(&site);
    row.writes_go_on("a write without B");
    wait_for("B's voters leaving together", 2 * PATIENCE, || {
        let status = row.fleet.try_json("a1", &["status"])?;
        let listed = status["voters"].as_array()?.iter();
        let voting = listed.filter(|it| it["learner"] == false);
        let names: Vec<_> = voting.filter_map(|it| it["node"].as_str()).collect();
        let left = names.len() == 3 && !names.iter().any(|it| it.starts_with('b'));
        left.then_some(())
    });
    row.load.forget_stalls();
    row.fleet.kill(&["a2".into()]);
    row.is_not_affected();
    row.fleet.start("a2");
    for name in site {
        row.fleet.start(&name);
    }
    row.ends_well("a1");
}

#[test]
fn all_three_cut() {
    needs_root!();
    let row = Row::begin("allCut", 1);
    row.isolate("a");
    row.cut("b", "w", Direction::Both);
    row.is_suspended();
    row.cannot_be_opened_on("b1");
    row.heal();
    row.writes_go_on("a write after the cuts");
    row.ends_well("a1");
}
