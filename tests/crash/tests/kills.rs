//! kill -9 of nodes and whole sites, at least half of the time the primary's, under a load that
//! verifies every byte it reads, reopens elsewhere and treats a failed write as unknown. Journals
//! are so small that they wrap more than ten times; at the end everything is killed once more and
//! each copy is read back from its disk.
//!
//! `LOCKSTEP_KILLS=200` is the long run, `LOCKSTEP_SEED=N` repeats the choices of an earlier one
//! (not its timing).

use std::time::{Duration, Instant};

use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup, pool};
use lockstep_drive::{Load, Plan, Seen};
use lockstep_load::Dice;
use lockstep_types::{BLOCK, VolumeId};
use serde_json::Value;

const KILLS: u64 = 16;
const LAPS: u64 = 10;
const MIB: u64 = 1 << 20;

struct Volume {
    name: &'static str,
    load: Load,
}

struct Campaign {
    fleet: Fleet,
    dice: Dice,
    volumes: Vec<Volume>,
    /// Where the volumes are attached.
    home: String,
    of_primary: u64,
    of_sites: u64,
    longest_reopening: Duration,
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn no_kill_loses_or_changes_an_acknowledged_byte() {
    let kills = number("LOCKSTEP_KILLS").unwrap_or(KILLS);
    let seed = number("LOCKSTEP_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("{kills} kills, LOCKSTEP_SEED={seed}");
    let mut campaign = Campaign::begin(seed);
    for kill in 0..kills {
        if kill == kills * 3 / 4 {
            campaign.wrap_the_journals(); // what is killed from here on has wrapped
        }
        campaign.kill_one(kill);
    }
    campaign.read_every_copy_from_disk();
    assert!(campaign.of_primary * 2 >= kills);
}

impl Campaign {
    fn begin(seed: u64) -> Self {
        let fleet = Fleet::stand(Setup {
            sites: &[("a", 2), ("b", 2), ("w", 1)],
            pool: "192MiB",
            journal: "8MiB",
            ..Setup::default()
        });
        let mut campaign = Self {
            fleet,
            dice: Dice::new(seed),
            volumes: Vec::new(),
            home: "a1".into(),
            of_primary: 0,
            of_sites: 0,
            longest_reopening: Duration::ZERO,
        };
        for (name, copies, size, lanes) in [
            ("three", "a=2,b=1", 48 * MIB, 6),
            ("two", "*=1", 16 * MIB, 2),
        ] {
            let bytes = size.to_string();
            let made = campaign.fleet.json(
                "a1",
                &[
                    "volume", "create", name, "--size", &bytes, "--copies", copies,
                ],
            );
            let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
            campaign.attach(name, "a1");
            let plan = Plan::new(id, size / BLOCK as u64, lanes, seed + size);
            let load = Load::start(plan, &campaign.fleet.socket("a1", name));
            campaign.volumes.push(Volume { name, load });
        }
        campaign.wait_for_writes("the first write");
        campaign
    }

    fn kill_one(&mut self, kill: u64) {
        let is_primary = kill.is_multiple_of(2) || self.dice.chance(15);
        let is_site = self.dice.chance(30);
        let victims = self.victims(is_primary, is_site);
        self.wait_until_survivable(&victims);
        let begin = Instant::now();
        self.fleet.kill(&victims);
        self.of_primary += u64::from(is_primary);
        self.of_sites += u64::from(is_site);
        let moves = is_primary && !self.dice.chance(25);
        if moves {
            self.move_home(&victims);
        }
        let pause = Duration::from_millis(self.dice.below(1500));
        if is_primary && !moves {
            // It goes on where it was, as soon as it is back.
            self.restart(&victims);
        } else {
            // Nothing is waited for here: for how long a node is away is part of the draw.
            std::thread::sleep(pause);
            self.restart(&victims);
        }
        self.wait_for_writes("a write after the kill");
        let took = begin.elapsed();
        self.longest_reopening = self.longest_reopening.max(took);
        self.check();
        let acknowledged: u64 = self.seen().iter().map(|it| it.acknowledged).sum();
        eprintln!(
            "kill {}: {}{}, home {}, writes again and all up after {took:?}, {acknowledged} acknowledged",
            kill + 1,
            victims.join(" "),
            if is_primary { " (primary)" } else { "" },
            self.home,
        );
    }

    fn victims(&mut self, is_primary: bool, is_site: bool) -> Vec<String> {
        let home_site = self.home[..1].to_owned();
        let other_site = if home_site == "a" { "b" } else { "a" };
        match (is_primary, is_site) {
            (true, true) => self.fleet.site(&home_site),
            (true, false) => vec![self.home.clone()],
            (false, true) => self.fleet.site(other_site),
            (false, false) => {
                let names = self.fleet.names();
                let others: Vec<_> = names.into_iter().filter(|it| *it != self.home).collect();
                vec![others[self.dice.below(others.len() as u64) as usize].clone()]
            }
        }
    }

    /// Until every volume keeps a certified copy without the victims, and the control plane a
    /// majority: killing the last copy is a wait for it to return, and no question of bytes.
    fn wait_until_survivable(&self, victims: &[String]) {
        let names = self.fleet.names();
        let witness = names.into_iter().find(|it| !victims.contains(it));
        let witness = witness.expect("not all are victims");
        let status = |what: &str, good: &dyn Fn(&Value) -> bool| {
            e2e::wait_for(what, PATIENCE, || {
                self.fleet.try_json(&witness, &["status"]).filter(good)
            })
        };
        status("a cluster that answers", &|status| {
            let voters = status["voters"].as_array().expect("a list");
            let answering = voters.iter().filter(|it| it["answering"] == true).count();
            status["quorum"] == true && answering == voters.len() && voters.len() == 5
        });
        for volume in &self.volumes {
            let what = "held by a survivor";
            self.fleet
                .wait_for_volume(&witness, volume.name, what, |shown| {
                    let replicas = shown["replicas"].as_array().expect("a list");
                    replicas.iter().any(|replica| {
                        let node = replica["node"].as_str().expect("a name");
                        replica["certified"] == true && !victims.iter().any(|it| it == node)
                    })
                });
        }
    }

    fn move_home(&mut self, victims: &[String]) {
        let up = self.fleet.up();
        let data: Vec<_> = up.into_iter().filter(|it| !it.starts_with('w')).collect();
        let next = data[self.dice.below(data.len() as u64) as usize].clone();
        assert!(!victims.contains(&next));
        for volume in &self.volumes {
            volume.load.lose_target();
        }
        for volume in &self.volumes {
            self.fleet
                .sooner_or_later(&next, &["volume", "detach", volume.name]);
            self.attach(volume.name, &next);
            volume.load.reopen(&self.fleet.socket(&next, volume.name));
        }
        self.home = next;
    }

    fn attach(&self, volume: &str, node: &str) {
        self.fleet
            .sooner_or_later(node, &["volume", "attach", volume, "--node", node]);
    }

    fn restart(&mut self, victims: &[String]) {
        for name in victims {
            self.fleet.start(name);
        }
    }

    fn wait_for_writes(&self, what: &str) {
        for volume in &self.volumes {
            let waited = volume.load.wait_for_write(PATIENCE);
            assert!(
                waited.is_some(),
                "{what} to volume '{}' was not acknowledged within {PATIENCE:?}: {:#?}{}",
                volume.name,
                self.fleet
                    .try_json(&self.home, &["volume", "show", volume.name]),
                self.fleet.logs()
            );
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.volumes.iter().map(|it| it.load.seen()).collect()
    }

    fn check(&self) {
        for (volume, seen) in self.volumes.iter().zip(self.seen()) {
            assert_eq!(
                seen.wrong,
                0,
                "volume '{}': {:#?}{}",
                volume.name,
                seen.violations,
                self.fleet.logs()
            );
        }
    }

    /// Goes on writing until every pool that holds a copy has wrapped its journal often enough.
    fn wrap_the_journals(&self) {
        let home = self.home.clone();
        let mut holders: Vec<String> = Vec::new();
        for volume in &self.volumes {
            self.fleet.wait_until_healthy(&home, volume.name);
            let shown = self.fleet.json(&home, &["volume", "show", volume.name]);
            let replicas = shown["replicas"].as_array().expect("a list").iter();
            holders.extend(replicas.map(|it| it["node"].as_str().expect("a name").to_owned()));
        }
        holders.sort();
        holders.dedup();
        let laps: Vec<_> = holders
            .iter()
            .map(|name| {
                let file = self.fleet.pool_file(name);
                e2e::wait_for("ten laps of a journal", 4 * PATIENCE, || {
                    Some(pool::journal_laps(&file)).filter(|laps| *laps >= LAPS)
                })
            })
            .collect();
        eprintln!("laps of the journals of {holders:?}: {laps:?}");
    }

    fn read_every_copy_from_disk(&mut self) {
        for volume in &mut self.volumes {
            volume.load.stop();
        }
        self.check();
        let all = self.fleet.names();
        self.fleet.kill(&all);
        self.restart(&all);
        self.fleet.wait_until_it_stands();
        for volume in &self.volumes {
            let name = volume.name;
            self.fleet.wait_until_healthy("a1", name);
            let shown = self.fleet.json("a1", &["volume", "show", name]);
            for replica in shown["replicas"].as_array().expect("a list") {
                let node = replica["node"].as_str().expect("a name");
                self.fleet
                    .sooner_or_later(node, &["volume", "detach", name]);
                self.attach(name, node);
                let socket = self.fleet.socket(node, name);
                let seen = e2e::wait_for("a read-back", PATIENCE, || {
                    volume.load.read_back(&socket).ok()
                });
                assert_eq!(seen.wrong, 0, "{name} on {node}: {:#?}", seen.violations);
                eprintln!(
                    "volume '{name}' read from {node}: {} writes acknowledged, {} unknown, {} blocks verified, longest stall {:?}",
                    seen.acknowledged, seen.unknown, seen.verified_blocks, seen.longest_stall
                );
            }
        }
        eprintln!(
            "{} kills of the primary's, {} of whole sites; longest until writes went on and all were up: {:?}",
            self.of_primary, self.of_sites, self.longest_reopening
        );
    }
}
