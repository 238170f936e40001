//! The daemon from its start to its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lockstep_control::Node;
use lockstep_net::tls::{client_config, server_config};
use lockstep_net::{Certificates, Role, RoleSet};
use lockstep_types::{ClusterId, NodeId, NodeRole};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::bridge::Bridge;
use crate::config::{Config, RoleName};
use crate::control::heartbeat::{self, Heartbeat};
use crate::control::{Control, ControlConfig, Feed, admit, keeper};
use crate::devices::Devices;
use crate::directory::{Directory, Identity};
use crate::exposition::Source;
use crate::http::{self, Health};
use crate::join::protocol;
use crate::links::{Links, Peer};
use crate::listener::{self, Incoming, Queues};
use crate::plane::links::ALPN_DATA;
use crate::plane::{LinkConfig, Plane, PlaneConfig, PlaneReport, RemoteConfig};
use crate::pool::catalogue::{self, OpenPool};
use crate::pool::failures::Failures;
use crate::{admin, introduce, mint, rebuild};

/// Connections waiting between the listener and who serves them.
const INCOMING: usize = 64;
/// Events of links waiting for consensus.
const LINK_EVENTS: usize = 4096;
/// How long the data plane may take to step down and write its marks.
const STOP: Duration = Duration::from_secs(10);

/// A node's data directory, read and locked.
pub struct Prepared {
    /// The directory.
    pub directory: Directory,
    /// Its configuration.
    pub config: Config,
    identity: Identity,
    cluster: ClusterId,
    node: NodeId,
    _lock: crate::directory::DirectoryLock,
}

/// Reads and locks a data directory, so that its log configuration is known before anything runs.
///
/// # Errors
/// It is not a node's, malformed, or in use.
pub fn prepare(root: &Path) -> anyhow::Result<Prepared> {
    let directory = Directory::new(root);
    let identity = directory.identity()?;
    let config = Config::read(&directory.config())?;
    let (cluster, node) = identity.ids()?;
    let lock = directory
        .lock()
        .with_context(|| format!("cannot use {}", root.display()))?;
    rebuild::finish(&directory)?;
    directory.create()?;
    Ok(Prepared {
        directory,
        config,
        identity,
        cluster,
        node,
        _lock: lock,
    })
}

/// How a daemon that did not fail ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// Its log was barred by a forced rebuild and is set aside: the daemon starts again, in a fresh
    /// process image, and joins the new generation as a learner under a new raft id (R20).
    StartAgain,
}

/// Runs the node until it is told to stop (SIGTERM, SIGINT) or cannot go on.
///
/// # Errors
/// It cannot start, or its log or data plane failed.
pub async fn run(prepared: Prepared) -> anyhow::Result<End> {
    let recorder = http::install_recorder()?;
    let mut running = Running::start(&prepared).await?;
    if let Some(address) = prepared.config.listen.metrics {
        let source = Source::new(running.control.clone(), running.bridge.clone());
        http::serve(address, recorder, source, running.health.clone()).await?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break running.told_to_stop(),
            _ = interrupt.recv() => break running.told_to_stop(),
            () = running.control.barred() => break Ok(End::StartAgain),
            why = running.control.stopped(), if running.without_control.is_none() => {
                if !running.go_on_without_control(&why) {
                    break Err(log_failed(&why));
                }
            }
            () = ended(&mut running.plane) => {
                break Err(anyhow::anyhow!("the data plane ended; the log above says why"));
            }
        }
    };
    tracing::info!(failed = ended.is_err(), "stopping");
    let raft_id = running.control.raft_id();
    running.stop().await;
    if matches!(ended, Ok(End::StartAgain)) {
        let aside = rebuild::set_aside(&prepared.directory, raft_id)?;
        tracing::warn!(log = %aside.display(), "the barred log was set aside");
    }
    ended
}

struct Running {
    control: Control,
    bridge: Option<Bridge>,
    /// Ends when the data plane has stopped.
    plane: Option<tokio::task::JoinHandle<()>>,
    health: Health,
    admin: admin::Server,
    /// What runs beside them, and ends with the daemon.
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// What says that this node serves; ends with its part of the control plane.
    voices: Vec<tokio::task::JoinHandle<()>>,
    /// Why its part of the control plane has ended, if it has.
    without_control: Option<String>,
}

impl Running {
    async fn start(prepared: &Prepared) -> anyhow::Result<Self> {
        let Prepared {
            directory,
            config,
            cluster,
            node,
            ..
        } = prepared;
        let (cluster, node) = (*cluster, *node);
        let role = role_of(config);
        let certificates = Certificates::open(&directory.certificates())?;
        check_certificate(&certificates, cluster, node, role)?;
        let boot = mint::number();
        let pools = match role {
            NodeRole::Data => catalogue::open_all(directory, cluster)?,
            NodeRole::Witness => Vec::new(),
        };
        let named: Vec<_> = pools.iter().map(|pool| pool.record(node)).collect();
        let plane = match role {
            NodeRole::Data => {
                Some(Plane::start(plane_config(prepared, &certificates, boot, pools)?).await?)
            }
            NodeRole::Witness => None,
        };
        let (feed, fed) = mpsc::unbounded_channel();
        let (control, administrators, mut tasks) =
            start_control(prepared, &certificates, feed.clone()).await?;

        let health = Health::default();
        let (data, plane) = match plane {
            Some(plane) => {
                let (data, ended) = join_plane(plane, &control, prepared, (feed, fed)).await;
                tasks.push(tokio::spawn(data.1.clone().look_after()));
                (Some(data), Some(ended))
            }
            None => {
                tokio::spawn(drain(fed));
                (None, None)
            }
        };
        let bridge = data.as_ref().map(|(bridge, _)| bridge.clone());
        let voices = vec![
            tokio::spawn(beat(control.clone(), bridge.clone(), boot)),
            introduce_self(prepared, &control, named, &health),
        ];
        let shared = admin::Shared::new(control.clone(), data, directory.clone(), certificates);
        tasks.push(tokio::spawn(admin::renew::keep_certificate(shared.clone())));
        let admin = admin::Server::start(shared, administrators).await?;
        tracing::info!(%cluster, %node, name = %config.node.name, site = %config.node.site, "started");
        Ok(Self {
            control,
            bridge,
            plane,
            health,
            admin,
            tasks,
            voices,
            without_control: None,
        })
    }

    /// R19, decision 0009: this node votes, follows and speaks no longer. Whether its data plane goes on.
    fn go_on_without_control(&mut self, why: &str) -> bool {
        if self.bridge.is_none() {
            return false;
        }
        self.health.set_failed();
        self.voices.drain(..).for_each(|voice| voice.abort());
        let voice = beat_without_log(self.control.clone(), why.to_owned());
        self.voices.push(tokio::spawn(voice));
        tracing::error!(
            reason = %why,
            "the raft log failed: I/O goes on while nothing about copies has to change; mend the disk of the data directory and restart this daemon"
        );
        self.without_control = Some(why.to_owned());
        true
    }

    /// A node whose log failed meanwhile did not end well.
    fn told_to_stop(&self) -> anyhow::Result<End> {
        match &self.without_control {
            Some(why) => Err(log_failed(why)),
            None => Ok(End::Stopped),
        }
    }

    async fn stop(mut self) {
        self.health.set_ready(false);
        self.admin.stop();
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        // The data plane first: stepping down is told to the control plane.
        if let (Some(bridge), Some(plane)) = (self.bridge.take(), self.plane.take())
            && !plane.is_finished()
        {
            bridge.stop().await;
            if tokio::time::timeout(STOP, plane).await.is_err() {
                tracing::warn!(
                    "the data plane did not stop within {} s; its journal is recovered at the next start",
                    STOP.as_secs()
                );
            }
        }
        self.control.stop().await;
    }
}

/// Opens the control port, and starts this node's part of the control plane with what keeps it going. Also
/// gives the connections of administrators, and the tasks that end with the daemon.
async fn start_control(
    prepared: &Prepared,
    certificates: &Arc<Certificates>,
    feed: mpsc::UnboundedSender<Feed>,
) -> anyhow::Result<(
    Control,
    mpsc::Receiver<Incoming>,
    Vec<tokio::task::JoinHandle<()>>,
)> {
    let Prepared {
        directory,
        config,
        identity,
        ..
    } = prepared;
    let (cluster, node) = (prepared.cluster, prepared.node);
    let (join, joiners) = mpsc::channel(INCOMING);
    let (raft, incoming) = mpsc::channel(INCOMING);
    let (admin, administrators) = mpsc::channel(INCOMING);
    let mut tasks = Vec::new();
    let listening = listener::listen(
        config.listen.control,
        certificates,
        Queues { join, raft, admin },
    )
    .await?;
    tasks.push(listening);
    let (events, link_events) = mpsc::channel(LINK_EVENTS);
    let links = Links::start(node, Arc::clone(certificates), incoming, events);
    let control_config = ControlConfig {
        cluster,
        node,
        role: role_of(config),
        raft: directory.raft(),
        found: identity.founder,
    };
    let control = Control::start(&control_config, links, feed)?;
    tokio::spawn(control.clone().follow_links(link_events));
    tasks.push(tokio::spawn(
        control.clone().follow_members(known_members(identity)?),
    ));
    tasks.push(tokio::spawn(keeper::keep_voters(control.clone())));
    tokio::spawn(admit::admit(
        control.clone(),
        directory.cluster_secret()?,
        joiners,
    ));
    Ok((control, administrators, tasks))
}

/// Joins the data plane to the control plane, and takes over the devices that are there. The task ends
/// when the data plane has stopped.
async fn join_plane(
    (plane, reports): (Plane, mpsc::Receiver<PlaneReport>),
    control: &Control,
    prepared: &Prepared,
    (feed, fed): (mpsc::UnboundedSender<Feed>, mpsc::UnboundedReceiver<Feed>),
) -> ((Bridge, Devices), tokio::task::JoinHandle<()>) {
    let directory = &prepared.directory;
    let bridge = Bridge::new(plane);
    tokio::spawn(bridge.clone().carry_feed(control.node(), fed));
    let ended = tokio::spawn(bridge.clone().run(
        control.clone(),
        feed,
        Failures::of(directory),
        reports,
    ));
    let config = prepared.config.devices.clone();
    let devices = Devices::start(control.clone(), bridge.clone(), directory.clone(), config).await;
    ((bridge, devices), ended)
}

fn log_failed(why: &str) -> anyhow::Error {
    anyhow::anyhow!("the control plane's log failed: {why}")
}

/// Waits for the data plane to end; for ever where there is none.
async fn ended(plane: &mut Option<tokio::task::JoinHandle<()>>) {
    match plane {
        Some(plane) => drop(plane.await),
        None => std::future::pending().await,
    }
}

fn plane_config(
    prepared: &Prepared,
    certificates: &Arc<Certificates>,
    boot: u64,
    pools: Vec<OpenPool>,
) -> anyhow::Result<PlaneConfig> {
    let data_nodes = RoleSet::of(&[Role::DataNode]);
    // Whoever may administer volumes or mount them for others.
    let users = RoleSet::of(&[Role::DataNode, Role::Admin, Role::Csi]);
    let nbd = match prepared.config.listen.nbd {
        Some(listen) => Some(RemoteConfig {
            listen,
            server: server_config(certificates, users, &[])?,
        }),
        None => None,
    };
    let failures = Failures::of(&prepared.directory);
    Ok(PlaneConfig {
        nbd,
        links: LinkConfig {
            cluster: prepared.cluster,
            node: prepared.node,
            boot,
            client: client_config(certificates, &[ALPN_DATA])?,
            server: server_config(certificates, data_nodes, &[ALPN_DATA])?,
        },
        listen: prepared.config.listen.data,
        buffers: usize::try_from(prepared.config.data_plane.buffers.0)?,
        requests: prepared.config.data_plane.requests as usize,
        scrub_pass: prepared.config.data_plane.scrub_pass.0,
        failed_before: pools
            .iter()
            .map(|pool| pool.device)
            .filter(|device| failures.has(*device))
            .collect(),
        pools: pools
            .into_iter()
            .map(|pool| (pool.device, pool.disk))
            .collect(),
        exports: prepared.directory.exports(),
    })
}

fn check_certificate(
    certificates: &Certificates,
    cluster: ClusterId,
    node: NodeId,
    role: NodeRole,
) -> anyhow::Result<()> {
    let loaded = certificates.current();
    let wanted = match role {
        NodeRole::Data => Role::DataNode,
        NodeRole::Witness => Role::Witness,
    };
    let found = loaded.identity();
    anyhow::ensure!(
        (found.cluster, found.node, found.role) == (cluster, node, wanted),
        "certs/node.pem names {found}, and this directory belongs to {wanted} {node} of cluster {cluster}; install the right certificate"
    );
    let left = loaded
        .not_after()
        .saturating_sub(crate::join::found::unix_now());
    if left == 0 {
        tracing::error!("this node's certificate has expired: peers will refuse it");
    } else if left < 30 * 86_400 {
        tracing::warn!(days = left / 86_400, "this node's certificate ends soon");
    }
    Ok(())
}

fn known_members(identity: &Identity) -> anyhow::Result<Vec<Peer>> {
    let peer = |member: &protocol::Member| {
        Ok(Peer {
            node: member.node.parse()?,
            role: member.role.into(),
            address: member.address.clone(),
        })
    };
    identity.members.iter().map(peer).collect()
}

fn describe(prepared: &Prepared, role: NodeRole) -> Node {
    let config = &prepared.config;
    Node {
        id: prepared.node,
        name: config.node.name.clone(),
        site: config.node.site.clone(),
        zone: config.node.zone.clone(),
        rack: config.node.rack.clone(),
        role,
        control_address: config.advertised_control(),
        data_addresses: match role {
            NodeRole::Data => vec![config.advertised_data()],
            NodeRole::Witness => Vec::new(),
        },
        cordoned: false,
    }
}

fn role_of(config: &Config) -> NodeRole {
    match config.node.role {
        RoleName::Data => NodeRole::Data,
        RoleName::Witness => NodeRole::Witness,
    }
}

fn introduce_self(
    prepared: &Prepared,
    control: &Control,
    pools: Vec<lockstep_control::Pool>,
    health: &Health,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(introduce::introduce(
        control.clone(),
        prepared.directory.clone(),
        prepared.identity.clone(),
        describe(prepared, role_of(&prepared.config)),
        pools,
        health.clone(),
    ))
}

async fn beat(control: Control, bridge: Option<Bridge>, boot: u64) {
    let view = bridge.as_ref().map(Bridge::view);
    let mut ticks = tokio::time::interval(heartbeat::EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut applied = control.watch();
    loop {
        // What has just changed is told soon, so that nobody reads of copies that have not reported.
        tokio::select! {
            _ = ticks.tick() => {}
            changed = applied.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(heartbeat::SOON).await;
                applied.borrow_and_update();
            }
        }
        let (pools, primaries) = match &view {
            Some(view) => {
                let view = view.borrow();
                (view.pool_beats(), view.primary_beats())
            }
            None => Default::default(),
        };
        let replicas = match &bridge {
            Some(bridge) => bridge.replica_beats().await,
            None => Vec::new(),
        };
        let peers = match &bridge {
            Some(bridge) => bridge.peers().await,
            None => Some(Vec::new()),
        };
        let heartbeat = Heartbeat {
            boot,
            pools,
            primaries,
            replicas,
            ..Heartbeat::default()
        };
        control.beat(heartbeat, peers);
    }
}

/// The one thing a node says that goes on without its log.
async fn beat_without_log(control: Control, why: String) {
    let mut ticks = tokio::time::interval(heartbeat::EVERY);
    loop {
        ticks.tick().await;
        control.beat_without_log(&why);
    }
}

/// A witness has no data plane to feed.
async fn drain(mut feed: mpsc::UnboundedReceiver<Feed>) {
    while feed.recv().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;
    use crate::control::ProposeError;
    use crate::join::client::{NewNode, join};
    use crate::join::found::{found, founding_ca};
    use lockstep_control::Command;
    use lockstep_net::JoinToken;

    fn free_ports() -> (String, String) {
        let port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
            listener.local_addr().expect("bound")
        };
        (port().to_string(), port().to_string())
    }

    fn new_node(name: &str, site: &str, role: RoleName) -> NewNode {
        let (control, data) = free_ports();
        let node = NodeConfig {
            name: name.into(),
            site: site.into(),
            zone: String::new(),
            rack: String::new(),
            role,
        };
        NewNode {
            node,
            control,
            data,
            metrics: None,
        }
    }

    /// Waits until `condition` holds for the state and the voters.
    async fn until(
        control: &Control,
        what: &str,
        condition: impl Fn(&lockstep_control::State, usize) -> bool,
    ) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            // A joint configuration still needs the majority of the old one.
            let voters = match control.status().await {
                Ok(status) if status.conf.voters_outgoing.is_empty() => status.conf.voters.len(),
                _ => 0,
            };
            if condition(&control.state(), voters) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what} did not happen: {:?}",
                control.status().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn token(control: &Control, role: NodeRole) -> JoinToken {
        crate::join::token::create(control, role, 600)
            .await
            .expect("committed")
    }

    /// A certificate for a joined node that is past two thirds of its life, made with the founder's CA.
    fn install_ageing_certificate(founder: &Directory, of: &Directory) {
        use lockstep_net::{ClusterCa, PeerIdentity, Validity, wrap};
        let (cluster, _) = founder.identity().expect("founded").ids().expect("ids");
        let (_, node) = of.identity().expect("joined").ids().expect("ids");
        let (authority, wrapped) = founding_ca(founder).expect("kept");
        let secret = founder.cluster_secret().expect("reads").expect("kept");
        let key = wrap::unwrap(cluster, &wrapped, &secret).expect("opens");
        let pem = String::from_utf8(authority).expect("PEM");
        let ca = ClusterCa::from_parts(cluster, &pem, &key).expect("fits");
        let now = crate::join::found::unix_now();
        let validity = Validity {
            not_before: now - 3000,
            not_after: now + 1000,
        };
        let identity = PeerIdentity {
            cluster,
            role: Role::Witness,
            node,
        };
        let issued = ca.issue(identity, validity).expect("issued");
        Certificates::install(&of.certificates(), &pem, &issued).expect("installed");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_witness_has_its_ageing_certificate_renewed_while_it_runs() {
        let place = tempfile::tempdir().expect("a directory");
        let (a1, w) = (
            Directory::new(place.path().join("a1")),
            Directory::new(place.path().join("w")),
        );
        found(&a1, "test", &new_node("a1", "a", RoleName::Data)).expect("founded");
        let a = Running::start(&prepare(a1.root()).expect("prepared"))
            .await
            .expect("started");
        until(&a.control, "the cluster", |state, _| state.nodes.len() == 1).await;
        let good = token(&a.control, NodeRole::Witness).await;
        join(&w, &good, &new_node("w", "w", RoleName::Witness))
            .await
            .expect("joins");
        let running = Running::start(&prepare(w.root()).expect("prepared"))
            .await
            .expect("started");
        until(&running.control, "the witness's state", |state, _| {
            state.nodes.len() == 2
        })
        .await;

        install_ageing_certificate(&a1, &w);
        let year = 365 * 86_400;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let renewed = loop {
            // Files that are being replaced may not fit for a moment.
            if let Ok(found) = Certificates::open(&w.certificates())
                && found.current().not_after() > crate::join::found::unix_now() + year
            {
                break found;
            }
            assert!(tokio::time::Instant::now() < deadline, "it was not renewed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(renewed.current().identity().role, Role::Witness);
        // What stood goes on, and what is new is let in.
        assert_eq!(a.control.answering().len(), 2);
        running.stop().await;
        let again = Running::start(&prepare(w.root()).expect("prepared"))
            .await
            .expect("started");
        until(&again.control, "the witness's return", |_, _| {
            again.control.answering().len() == 2
        })
        .await;
        for running in [a, again] {
            running.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_nodes_found_join_vote_and_come_back() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = |name: &str| Directory::new(place.path().join(name));
        found(
            &directory("a1"),
            "test",
            &new_node("a1", "a", RoleName::Data),
        )
        .expect("founded");
        let a = Running::start(&prepare(directory("a1").root()).expect("prepared"))
            .await
            .expect("started");
        until(&a.control, "the cluster", |state, _| {
            state.cluster.is_some() && state.nodes.len() == 1
        })
        .await;

        let spoilt = JoinToken {
            secret: [0; 16],
            ..token(&a.control, NodeRole::Data).await
        };
        let refused = join(
            &directory("x"),
            &spoilt,
            &new_node("x", "b", RoleName::Data),
        )
        .await;
        assert!(
            refused
                .expect_err("a wrong secret")
                .to_string()
                .contains("unknown, used or expired")
        );

        let good = token(&a.control, NodeRole::Data).await;
        join(
            &directory("b1"),
            &good,
            &new_node("b1", "b", RoleName::Data),
        )
        .await
        .expect("joins");
        let twice = join(&directory("x"), &good, &new_node("x", "b", RoleName::Data)).await;
        assert!(
            twice
                .expect_err("a used token")
                .to_string()
                .contains("unknown, used or expired")
        );
        let for_witness = token(&a.control, NodeRole::Witness).await;
        let wrong = join(
            &directory("x"),
            &for_witness,
            &new_node("x", "b", RoleName::Data),
        )
        .await;
        assert!(
            wrong
                .expect_err("a witness's token")
                .to_string()
                .contains("for a Witness node")
        );
        join(
            &directory("w"),
            &for_witness,
            &new_node("w", "w", RoleName::Witness),
        )
        .await
        .expect("joins");

        let b_prepared = prepare(directory("b1").root()).expect("prepared");
        assert!(
            prepare(directory("b1").root()).is_err(),
            "two daemons in one directory"
        );
        let b = Running::start(&b_prepared).await.expect("started");
        let w = Running::start(&prepare(directory("w").root()).expect("prepared"))
            .await
            .expect("started");
        until(&a.control, "three voters", |_, voters| voters == 3).await;
        until(&w.control, "the witness's state", |state, _| {
            state.nodes.len() == 3
        })
        .await;
        assert_eq!(a.control.answering().len(), 3);

        // The founder stops; the others go on, and commit.
        a.stop().await;
        let cordon = Command::CordonNode {
            node: b_prepared.node,
            cordoned: true,
        };
        // While the lost leader is still believed in, the outcome is unknown; asked again, it holds.
        while let Err(error) = b.control.propose_patiently(cordon.clone()).await {
            assert!(matches!(error, ProposeError::Unknown(_)), "{error}");
        }
        let a = Running::start(&prepare(directory("a1").root()).expect("prepared"))
            .await
            .expect("started again");
        until(&a.control, "what it missed", |state, _| {
            state
                .nodes
                .get(&b_prepared.node)
                .is_some_and(|b| b.cordoned)
        })
        .await;
        for running in [a, b, w] {
            running.stop().await;
        }
    }
}
