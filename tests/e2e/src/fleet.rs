//! A cluster made by hand, node by node, as an operator makes it: `cluster init`, `pool create`,
//! `node join`, `daemon`. Tests choose where its pools and logs lie, and in which network it runs.

mod ask;
mod disks;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use faultfs::{FaultFs, Image};
use netlab::Lab;

use crate::{directory, wait_for};

/// How long the cluster may take to stand, and to do anything that it was asked for.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Ports below the range from which the kernel picks those of connections going out.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// What a fleet consists of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sites and their numbers of nodes; those of site w are witnesses. a1 founds the cluster.
    pub sites: &'static [(&'static str, u32)],
    /// Size of each pool.
    pub pool: &'static str,
    /// Size of each journal.
    pub journal: &'static str,
    /// The name of the network lab, one namespace a node; none: 127.0.0.1.
    pub lab: Option<&'static str>,
    /// Nodes whose pool and raft log lie on a disk that fails on request.
    pub faulty: &'static [&'static str],
    /// Variables of the daemons' environment.
    pub environment: Vec<(String, std::ffi::OsString)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            sites: &[("a", 1), ("b", 1), ("w", 1)],
            pool: "128MiB",
            journal: "16MiB",
            lab: None,
            faulty: &[],
            environment: Vec::new(),
        }
    }
}

/// A cluster of real daemons, gone when it is dropped.
pub struct Fleet {
    // Daemons first, then their disks and network, then their files.
    members: BTreeMap<String, Member>,
    disks: BTreeMap<String, FaultFs>,
    lab: Option<Lab>,
    directory: tempfile::TempDir,
    setup: Setup,
}

struct Member {
    site: String,
    is_witness: bool,
    node: Option<netlab::Node>,
    control: String,
    data: String,
    metrics: String,
    daemon: Option<Child>,
}

impl Fleet {
    /// Its nodes and their network, and nothing on a disk yet.
    pub fn plan(setup: Setup) -> Self {
        let mut lab = setup
            .lab
            .map(|name| Lab::new(name).expect("root can make a network lab"));
        let mut members = BTreeMap::new();
        for (site, nodes) in setup.sites {
            if let Some(lab) = &mut lab {
                lab.site(site).expect("a new site");
            }
            for number in 1..=*nodes {
                let name = format!("{site}{number}");
                let node = lab
                    .as_mut()
                    .map(|lab| lab.node(site, &name).expect("a new node"));
                let [control, data, metrics] = addresses(node.as_ref());
                let member = Member {
                    site: (*site).into(),
                    is_witness: *site == "w",
                    node,
                    control,
                    data,
                    metrics,
                    daemon: None,
                };
                members.insert(name, member);
            }
        }
        let mut fleet = Self {
            members,
            disks: BTreeMap::new(),
            lab,
            directory: directory(),
            setup,
        };
        for name in fleet.setup.faulty {
            fleet.insert_disk(name, Image::default());
        }
        fleet
    }

    /// Everything of it, running.
    pub fn stand(setup: Setup) -> Self {
        let mut fleet = Self::plan(setup);
        fleet.found("a1");
        fleet.make_pool("a1", &fleet.pool_file("a1"));
        fleet.start("a1");
        for name in fleet.names() {
            if name != "a1" {
                fleet.join(&name, "a1");
                if !fleet.members[&name].is_witness {
                    fleet.make_pool(&name, &fleet.pool_file(&name));
                }
                fleet.start(&name);
            }
        }
        fleet.wait_until_it_stands();
        fleet
    }

    /// `cluster init` on a node.
    pub fn found(&self, name: &str) {
        let mut arguments = vec!["cluster", "init", "--cluster", "e2e"];
        let place = self.place(name);
        arguments.extend(place.iter().map(String::as_str));
        self.good(name, &arguments);
    }

    /// `node join`, with a token from a node that runs.
    pub fn join(&self, name: &str, through: &str) {
        let role = match self.members[name].is_witness {
            true => "witness",
            false => "data",
        };
        let token = wait_for("a join token", PATIENCE, || {
            let output = self.run(through, &["node", "token", "--role", role]);
            output.status.success().then(|| text(&output.stdout))
        });
        let mut arguments = vec!["node", "join", token.trim(), "--role", role];
        let place = self.place(name);
        arguments.extend(place.iter().map(String::as_str));
        self.good(name, &arguments);
    }

    /// `pool create p0` on a node.
    pub fn make_pool(&self, name: &str, path: &Path) {
        let path = path.to_str().expect("a plain path");
        let Setup { pool, journal, .. } = self.setup;
        self.good(
            name,
            &[
                "pool",
                "create",
                "p0",
                "--path",
                path,
                "--size",
                pool,
                "--journal",
                journal,
            ],
        );
    }

    /// Starts a node's daemon.
    pub fn start(&mut self, name: &str) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(name))
            .expect("a log");
        let mut command = self.command(name);
        command
            .arg("daemon")
            .envs(self.setup.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        let child = command.spawn().expect("the binary runs");
        let member = self.members.get_mut(name).expect("a node of the fleet");
        assert!(member.daemon.is_none(), "{name} runs already");
        member.daemon = Some(child);
    }

    /// Kills daemons at once (SIGKILL by process id), all at the same moment, and reaps them.
    pub fn kill(&mut self, names: &[String]) {
        let mut killed: Vec<Child> = names
            .iter()
            .filter_map(|name| self.members.get_mut(name)?.daemon.take())
            .collect();
        for child in &mut killed {
            child.kill().expect("killed");
        }
        for child in &mut killed {
            let status = child.wait().expect("reaped");
            assert_eq!(
                status.signal(),
                Some(9),
                "a daemon had ended before it was killed: {status}{}",
                self.logs()
            );
        }
    }

    /// Waits until a daemon ends by itself; what it said.
    pub fn wait_for_end(&mut self, name: &str) -> std::process::ExitStatus {
        let mut child = self
            .members
            .get_mut(name)
            .and_then(|member| member.daemon.take())
            .expect("it runs");
        wait_for(&format!("the end of {name}"), PATIENCE, || {
            child.try_wait().expect("it is ours")
        })
    }

    /// Asks a daemon to stop (SIGTERM), and waits until it has.
    pub fn stop_one(&mut self, name: &str) -> std::process::ExitStatus {
        let member = self.members.get(name).expect("a node of the fleet");
        signal(member.daemon.as_ref().expect("it runs"), "-TERM");
        self.wait_for_end(name)
    }

    /// Stops all daemons in order, side by side.
    pub fn stop(&mut self) {
        let mut stopping: Vec<(String, Child)> = self
            .members
            .iter_mut()
            .filter_map(|(name, member)| Some((name.clone(), member.daemon.take()?)))
            .collect();
        for (_, child) in &stopping {
            signal(child, "-TERM");
        }
        for (name, child) in &mut stopping {
            let status = wait_for(&format!("the end of {name}"), PATIENCE, || {
                child.try_wait().expect("it is ours")
            });
            assert!(status.success(), "{name} ended with {status}");
        }
    }

    /// Whether a node's daemon has ended by itself.
    pub fn has_ended(&mut self, name: &str) -> bool {
        let member = self.members.get_mut(name).expect("a node of the fleet");
        member
            .daemon
            .as_mut()
            .is_none_or(|child| child.try_wait().expect("it is ours").is_some())
    }

    /// Whether a node's daemon was started and not taken down since.
    pub fn is_up(&self, name: &str) -> bool {
        self.members[name].daemon.is_some()
    }

    /// The process id of a node's daemon.
    pub fn pid(&self, name: &str) -> u32 {
        self.members[name].daemon.as_ref().expect("it runs").id()
    }

    /// The nodes that run.
    pub fn up(&self) -> Vec<String> {
        let names = self.names();
        names.into_iter().filter(|name| self.is_up(name)).collect()
    }

    /// All nodes.
    pub fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    /// The nodes of a site.
    pub fn site(&self, site: &str) -> Vec<String> {
        let here = self.members.iter().filter(|(_, it)| it.site == site);
        here.map(|(name, _)| name.clone()).collect()
    }

    /// The network lab.
    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the setup asked for one")
    }

    /// The lab's node.
    pub fn lab_node(&self, name: &str) -> &netlab::Node {
        self.members[name].node.as_ref().expect("there is a lab")
    }

    /// Where replication listens on a node, and where raft and administration do.
    pub fn addresses(&self, name: &str) -> (&str, &str) {
        let member = &self.members[name];
        (&member.data, &member.control)
    }

    /// Where a node tells its metrics and its health.
    pub fn metrics_address(&self, name: &str) -> &str {
        &self.members[name].metrics
    }

    /// The fleet's directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A node's data directory.
    pub fn home(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Where a node's pool lies unless a test puts it elsewhere.
    pub fn pool_file(&self, name: &str) -> PathBuf {
        match self.disks.contains_key(name) {
            true => self.mount_point(name).join("pool"),
            false => self.path().join(format!("{name}.pool")),
        }
    }

    /// A node's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.log"))
    }

    /// What a node has logged.
    pub fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// The NBD socket of a volume on a node.
    pub fn socket(&self, name: &str, volume: &str) -> PathBuf {
        let exports = self.home(name).join("exports");
        exports.join(format!("{volume}.sock"))
    }

    fn place(&self, name: &str) -> Vec<String> {
        let member = &self.members[name];
        [
            ("--name", name),
            ("--site", &member.site),
            ("--control", &member.control),
            ("--data", &member.data),
            ("--metrics", &member.metrics),
        ]
        .iter()
        .flat_map(|(key, value)| [(*key).to_owned(), (*value).to_owned()])
        .collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self
            .members
            .values_mut()
            .filter_map(|it| it.daemon.as_mut())
        {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        // What went wrong can be looked into afterwards, if whoever runs the test wants to.
        if std::thread::panicking() && std::env::var_os("LOCKSTEP_E2E_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            eprintln!("kept: {}", self.path().display());
        }
    }
}

/// Sends a signal to a child of ours that has not been reaped.
pub fn signal(child: &Child, which: &str) {
    let sent = Command::new("kill")
        .args([which, &child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Control, data and metrics.
fn addresses(node: Option<&netlab::Node>) -> [String; 3] {
    match node {
        Some(node) => [7400, 7401, 9440].map(|port| format!("{}:{port}", node.address())),
        None => {
            let ports = free_ports();
            ports.map(|port| format!("127.0.0.1:{port}"))
        }
    }
}

/// Three ports that nobody listens on now. They are tried from a place that differs by process and
/// call, so that two fleets do not race for the same ones.
fn free_ports() -> [u16; 3] {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let length = u32::from(PORTS.end - PORTS.start);
    let base = std::process::id().wrapping_mul(97) % length;
    let mut found = Vec::new();
    while found.len() < 3 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < length, "no port is free");
        let port = PORTS.start + ((base + step) % length) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
    }
    found.try_into().expect("three")
}
