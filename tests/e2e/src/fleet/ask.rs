//! What is asked of a fleet's nodes, and waited for.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::{Fleet, PATIENCE, text};
use crate::{binary, bounded};

impl Fleet {
    /// The binary with a node's data directory, in the node's network.
    pub fn command(&self, name: &str) -> Command {
        self.placed(name, Command::new(binary()))
    }

    fn placed(&self, name: &str, mut command: Command) -> Command {
        command.arg("--dir").arg(self.home(name));
        if let Some(node) = &self.members[name].node {
            node.place(&mut command);
        }
        command
    }

    /// Runs a command on a node.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = self.placed(name, bounded());
        command.args(arguments).output().expect("the binary runs")
    }

    /// Runs a command that must succeed; its standard output.
    pub fn good(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.run(name, arguments);
        assert!(
            output.status.success(),
            "on {name}: lockstep {arguments:?} failed: {}{}",
            text(&output.stderr),
            self.logs()
        );
        text(&output.stdout)
    }

    /// Runs a command that must fail; what it says.
    pub fn bad(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.run(name, arguments);
        assert!(
            !output.status.success(),
            "on {name}: lockstep {arguments:?} succeeded"
        );
        text(&output.stderr)
    }

    /// Runs a command until it succeeds: what is asked of may have just died.
    pub fn sooner_or_later(&self, name: &str, arguments: &[&str]) -> String {
        let mut last = String::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let output = self.run(name, arguments);
            if output.status.success() {
                return text(&output.stdout);
            }
            if std::time::Instant::now() > deadline {
                last.push_str(&text(&output.stderr));
                panic!(
                    "on {name}: lockstep {arguments:?} still fails: {last}{}",
                    self.logs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a command says in JSON, if it succeeds.
    pub fn try_json(&self, name: &str, arguments: &[&str]) -> Option<Value> {
        let mut all = arguments.to_vec();
        all.extend_from_slice(&["-o", "json"]);
        let output = self.run(name, &all);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// What a command that must succeed says in JSON.
    pub fn json(&self, name: &str, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend_from_slice(&["-o", "json"]);
        serde_json::from_str(&self.good(name, &all)).expect("JSON")
    }

    /// Waits until what a node says of a volume satisfies `condition`.
    pub fn wait_for_volume(
        &self,
        name: &str,
        volume: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let shown = self.try_json(name, &["volume", "show", volume]);
            if let Some(shown) = &shown
                && condition(shown)
            {
                return shown.clone();
            }
            assert!(
                std::time::Instant::now() < deadline,
                "on {name}: {volume} is not {what} after {PATIENCE:?}: {shown:#?}{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a volume is healthy.
    pub fn wait_until_healthy(&self, name: &str, volume: &str) {
        self.wait_for_volume(name, volume, "healthy", |shown| {
            shown["status"] == "healthy"
        });
    }

    /// Waits until every node answers, every pool is known, and all voters there will be vote.
    pub fn wait_until_it_stands(&self) {
        let nodes = self.members.len();
        let data = self.members.values().filter(|it| !it.is_witness).count();
        let voters = match nodes {
            1 => 1,
            _ if data >= 4 => 5,
            _ => 3,
        };
        let mut seen = String::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let status = self.try_json("a1", &["status"]).unwrap_or_default();
            let pools = self.try_json("a1", &["pool", "list"]).unwrap_or_default();
            let count = |list: &Value| list.as_array().map_or(0, Vec::len);
            let voting = status["voters"].as_array().map_or(0, |voters| {
                voters.iter().filter(|it| it["learner"] == false).count()
            });
            if status["nodes_answering"] == nodes
                && count(&pools) == data
                && voting == voters
                // Until an exchange of voters is done, an old one lost may be one too many.
                && status["voters_changing"] == false
                && status["quorum"] == true
            {
                return;
            }
            if std::time::Instant::now() > deadline {
                seen.push_str(&format!("{status:#} {pools:#}"));
                panic!("the fleet does not stand: {seen}{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A node's metric, summed over its labels; 0 where it was never counted.
    pub fn metric(&self, name: &str, metric: &str) -> f64 {
        let Some(text) = self.metrics(name) else {
            return 0.0;
        };
        let values = text.lines().filter_map(|line| line.strip_prefix(metric));
        values
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn metrics(&self, name: &str) -> Option<String> {
        use std::io::{Read, Write};
        let address = self.members[name].metrics.clone();
        let ask = move || {
            let mut stream = std::net::TcpStream::connect(address).ok()?;
            let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        };
        match &self.members[name].node {
            Some(node) => node.run(ask).join().expect("asking does not panic"),
            None => ask(),
        }
    }

    /// The last lines of each node's log.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in self.names() {
            text.push_str(&format!("\n== {}\n", self.log(&name).display()));
            let said = self.said(&name);
            let lines: Vec<&str> = said.lines().rev().take(12).collect();
            for line in lines.iter().rev() {
                text.push_str(&format!("{line}\n"));
            }
        }
        text
    }
}
