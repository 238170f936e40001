//! Bringing a local cluster up the first time and every other time, and its sites down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use lockstep_api::{Client, Target, connect, proto};
use lockstep_net::JoinToken;
use lockstep_node::join::client::join;
use lockstep_node::join::found::found;
use lockstep_node::pool::create::{CreatePool, create};
use lockstep_node::units::Size;

use super::devices::{kill_keeper, let_go};
use super::layout::{Layout, LocalNode, NodeKind};
use super::process::Daemon;
use crate::connect::words;

/// How long the cluster may take to stand.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);
const POOL: &str = "p0";

/// A running local cluster.
pub struct LocalCluster {
    /// Its nodes and places.
    pub layout: Layout,
    daemons: BTreeMap<String, Daemon>,
}

impl LocalCluster {
    /// Starts the cluster, making it first if it does not exist yet. `tell` is told what happens.
    ///
    /// # Errors
    /// A node does not start, or the cluster does not stand within a minute and a half; what was
    /// started is stopped again.
    pub async fn start(layout: Layout, tell: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let mut cluster = Self {
            layout,
            daemons: BTreeMap::new(),
        };
        let result = match cluster.bring_up(tell).await {
            Ok(()) => cluster.wait_until_it_stands(tell).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(cluster),
            Err(error) => {
                let why = cluster.last_words();
                cluster.stop();
                Err(error.context(why))
            }
        }
    }

    /// A client of a node's daemon.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn client(&self, name: &str) -> anyhow::Result<Client> {
        let socket = self
            .layout
            .directory(self.layout.node(name)?)
            .admin_socket();
        Ok(connect(Target::Unix(socket)).await?)
    }

    /// Kills all daemons of a site at once, as a power cut would.
    ///
    /// # Errors
    /// The system's.
    pub fn kill_site(&mut self, site: &str) -> anyhow::Result<()> {
        let names: Vec<String> = self
            .layout
            .site(site)
            .map(|node| node.name.clone())
            .collect();
        let mut killed: Vec<Daemon> = names
            .iter()
            .filter_map(|name| self.daemons.remove(name))
            .collect();
        killed.iter_mut().try_for_each(Daemon::signal_kill)?;
        for daemon in &killed {
            kill_keeper(&self.layout, &daemon.node);
        }
        killed.iter_mut().try_for_each(Daemon::kill)
    }

    /// Starts the daemons of a site again.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_site(&mut self, site: &str) -> anyhow::Result<()> {
        let nodes: Vec<LocalNode> = self.layout.site(site).cloned().collect();
        for node in nodes {
            self.daemons
                .insert(node.name.clone(), Daemon::start(&self.layout, &node)?);
        }
        Ok(())
    }

    /// Stops all daemons in order.
    pub fn stop(&mut self) {
        for daemon in self.daemons.values() {
            daemon.signal_term();
        }
        for daemon in self.daemons.values_mut() {
            if let Err(error) = daemon.stop() {
                eprintln!("node {} could not be stopped: {error}", daemon.node.name);
            }
        }
        self.daemons.clear();
        match let_go(&self.layout) {
            Ok(used) => used.iter().for_each(|volume| {
                eprintln!(
                    "the block device of volume '{volume}' was in use; what uses it gets I/O errors"
                );
            }),
            Err(error) => eprintln!("a block device could not be removed: {error:#}"),
        }
        for node in &self.layout.nodes {
            let _ = std::fs::remove_file(self.layout.pid_file(node));
        }
    }

    /// Leaves the daemons running when this process ends.
    pub fn leave_running(mut self) {
        // A child that is not waited for lives on.
        self.daemons.clear();
    }

    /// A daemon that has ended by itself, and how.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> anyhow::Result<Option<String>> {
        Ok(self.find_ended()?.map(|(_, words)| words))
    }

    /// As [`Self::ended`], and no longer counts it as one of those that run.
    ///
    /// # Errors
    /// The system's.
    pub fn take_ended(&mut self) -> anyhow::Result<Option<String>> {
        let Some((name, words)) = self.find_ended()? else {
            return Ok(None);
        };
        self.daemons.remove(&name);
        Ok(Some(words))
    }

    fn find_ended(&mut self) -> anyhow::Result<Option<(String, String)>> {
        for (name, daemon) in &mut self.daemons {
            if let Some(how) = daemon.ended()? {
                return Ok(Some((name.clone(), format!("node {name} ended: {how}"))));
            }
        }
        Ok(None)
    }

    async fn bring_up(&mut self, tell: &dyn Fn(&str)) -> anyhow::Result<()> {
        let founder = self.layout.nodes[0].clone();
        let exists = self.layout.directory(&founder).identity().is_ok();
        if !exists {
            tell("making certificates and pools");
            let directory = self.layout.directory(&founder);
            found(&directory, "local", &founder.new_node())?;
            self.make_pool(&founder)?;
        }
        self.start_node(&founder)?;
        let others: Vec<LocalNode> = self.layout.nodes[1..].to_vec();
        for node in others {
            if self.layout.directory(&node).identity().is_err() {
                let token = self.token(&founder, node.kind).await?;
                join(&self.layout.directory(&node), &token, &node.new_node()).await?;
                if node.kind == NodeKind::Data {
                    self.make_pool(&node)?;
                }
            }
            self.start_node(&node)?;
        }
        Ok(())
    }

    fn start_node(&mut self, node: &LocalNode) -> anyhow::Result<()> {
        let daemon = Daemon::start(&self.layout, node)?;
        self.daemons.insert(node.name.clone(), daemon);
        Ok(())
    }

    fn make_pool(&self, node: &LocalNode) -> anyhow::Result<()> {
        let directory = self.layout.directory(node);
        let (cluster, id) = directory.identity()?.ids()?;
        let path = self.layout.pool_file(node);
        let size = Some(Size(self.layout.pool_bytes));
        let new = CreatePool {
            name: POOL,
            path: &path,
            size,
            journal: None,
            overwrite: None,
        };
        create(&directory, cluster, id, &new, &mut |_, _| {}).map(drop)
    }

    /// A token from the founder, as soon as it can give one.
    async fn token(&mut self, founder: &LocalNode, kind: NodeKind) -> anyhow::Result<JoinToken> {
        let role = match kind {
            NodeKind::Data => proto::Role::Data,
            NodeKind::Witness => proto::Role::Witness,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = proto::CreateTokenRequest {
                role: role.into(),
                valid_seconds: 600,
            };
            let reply = match self.client(&founder.name).await {
                Ok(client) => client.cluster().create_token(request).await.map_err(words),
                Err(error) => Err(error),
            };
            match reply {
                Ok(reply) => return Ok(reply.into_inner().token.parse()?),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the founder does not answer"));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
            if let Some(ended) = self.ended()? {
                bail!("{ended}");
            }
        }
    }

    /// Until every node answers, every pool is known and all voters that there will be vote.
    async fn wait_until_it_stands(&mut self, tell: &dyn Fn(&str)) -> anyhow::Result<()> {
        let nodes = self.layout.nodes.len();
        let holds_data = |node: &&LocalNode| node.kind == NodeKind::Data;
        let data = self.layout.nodes.iter().filter(holds_data).count();
        // Five if both sites can seat two.
        let pairs = ["a", "b"].map(|site| self.layout.site(site).filter(holds_data).count() >= 2);
        let voters = if pairs == [true, true] { 5 } else { 3 };
        let deadline = Instant::now() + PATIENCE;
        let mut told = String::new();
        loop {
            if let Some(ended) = self.ended()? {
                bail!("{ended}");
            }
            let seen = self.look().await.unwrap_or_default();
            let voting = seen.voters == voters && !seen.changing && seen.quorum;
            if seen.nodes == nodes && seen.pools == data && voting {
                return Ok(());
            }
            let now = format!(
                "{} of {nodes} nodes answer, {} of {data} pools, {} of {voters} voters",
                seen.nodes, seen.pools, seen.voters
            );
            if now != told {
                tell(&now);
                told = now;
            }
            if Instant::now() > deadline {
                bail!(
                    "the cluster does not stand after {} s: {told}",
                    PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self) -> anyhow::Result<Seen> {
        let client = self.client(&self.layout.nodes[0].name).await?;
        let status = client
            .cluster()
            .status(proto::StatusRequest {})
            .await
            .map_err(words)?
            .into_inner();
        let pools = client
            .pools()
            .list(proto::ListPoolsRequest::default())
            .await
            .map_err(words)?
            .into_inner();
        Ok(Seen {
            nodes: status.nodes_answering as usize,
            pools: pools.pools.len(),
            voters: status.voters.iter().filter(|voter| !voter.learner).count(),
            changing: status.voters_changing,
            quorum: status.quorum,
        })
    }

    /// The last lines of the log of a daemon that ended.
    fn last_words(&mut self) -> String {
        let mut words = format!("the logs are in {}", self.layout.root().display());
        for (name, daemon) in &mut self.daemons {
            if !matches!(daemon.ended(), Ok(Some(_))) {
                continue;
            }
            let log = self.layout.node(name).map(|node| self.layout.log(node));
            let text = log
                .ok()
                .and_then(|log| std::fs::read_to_string(log).ok())
                .unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(3).collect();
            for line in lines.into_iter().rev() {
                words.push_str("\n  ");
                words.push_str(line);
            }
        }
        words
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // Whoever wants them to live on calls `leave_running`.
        if !self.daemons.is_empty() {
            self.stop();
        }
    }
}

#[derive(Default)]
struct Seen {
    nodes: usize,
    pools: usize,
    voters: usize,
    changing: bool,
    quorum: bool,
}
