//! Which nodes a local cluster has, on which ports, in which directories: `cluster.toml` in its
//! directory, made by the first `up` and read by every later one.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lockstep_node::config::{NodeConfig, RoleName};
use lockstep_node::directory::{self, Directory};
use lockstep_node::join::client::NewNode;
use serde::{Deserialize, Serialize};

/// The file.
const FILE: &str = "cluster.toml";

/// A local cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Bytes of each data node's pool.
    pub pool_bytes: u64,
    /// The nodes; the first one founds the cluster.
    pub nodes: Vec<LocalNode>,
    /// Where it lies; not in the file.
    #[serde(skip)]
    root: PathBuf,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalNode {
    /// Label, and name of its directory.
    pub name: String,
    /// Its site.
    pub site: String,
    /// What it does.
    pub kind: NodeKind,
    /// Port of raft and administration.
    pub control_port: u16,
    /// Port of replication.
    pub data_port: u16,
    /// Port of metrics and health.
    pub metrics_port: u16,
}

/// What a local node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Holds a pool.
    Data,
    /// Votes only.
    Witness,
}

impl Layout {
    /// A new cluster under `root`: sites a and b of `nodes_per_site` nodes, and a witness in w.
    ///
    /// # Errors
    /// No free ports.
    pub fn new(root: &Path, nodes_per_site: u32, pool_bytes: u64) -> anyhow::Result<Self> {
        let mut names = Vec::new();
        for site in ["a", "b"] {
            for number in 1..=nodes_per_site {
                names.push((format!("{site}{number}"), site, NodeKind::Data));
            }
        }
        names.push(("w".into(), "w", NodeKind::Witness));
        let ports = free_ports(names.len() * 3)?;
        let nodes = names
            .into_iter()
            .zip(ports.chunks_exact(3))
            .map(|((name, site, kind), ports)| LocalNode {
                name,
                site: site.into(),
                kind,
                control_port: ports[0],
                data_port: ports[1],
                metrics_port: ports[2],
            })
            .collect();
        Ok(Self {
            pool_bytes,
            nodes,
            root: root.to_owned(),
        })
    }

    /// Reads the cluster of a directory; none if there is none.
    ///
    /// # Errors
    /// The file is malformed.
    pub fn read(root: &Path) -> anyhow::Result<Option<Self>> {
        let path = root.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let mut layout: Self = toml::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{} is refused:\n{e}", path.display()))?;
        if layout.nodes.is_empty() {
            bail!(
                "{} names no nodes; remove the directory and run 'lockstep up' again",
                path.display()
            );
        }
        layout.root = root.to_owned();
        Ok(Some(layout))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.root)?;
        let text = toml::to_string(self).context("a layout is plain TOML")?;
        let path = self.root.join(FILE);
        directory::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The data directory of a node.
    pub fn directory(&self, node: &LocalNode) -> Directory {
        Directory::new(self.root.join(&node.name))
    }

    /// The log file of a node's daemon.
    pub fn log(&self, node: &LocalNode) -> PathBuf {
        self.root.join(format!("{}.log", node.name))
    }

    /// Where a node's daemon's process id is kept.
    pub fn pid_file(&self, node: &LocalNode) -> PathBuf {
        self.root.join(format!("{}.pid", node.name))
    }

    /// The pool file of a node.
    pub fn pool_file(&self, node: &LocalNode) -> PathBuf {
        self.root.join(&node.name).join("pool.img")
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> anyhow::Result<&LocalNode> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("no node is named '{name}'"))
    }

    /// The nodes of a site.
    pub fn site<'a>(&'a self, site: &'a str) -> impl Iterator<Item = &'a LocalNode> {
        self.nodes.iter().filter(move |node| node.site == site)
    }
}

impl LocalNode {
    /// What it says of itself when it founds or joins.
    pub fn new_node(&self) -> NewNode {
        let address = |port: u16| format!("127.0.0.1:{port}");
        NewNode {
            node: NodeConfig {
                name: self.name.clone(),
                site: self.site.clone(),
                zone: String::new(),
                rack: String::new(),
                role: match self.kind {
                    NodeKind::Data => RoleName::Data,
                    NodeKind::Witness => RoleName::Witness,
                },
            },
            control: address(self.control_port),
            data: address(self.data_port),
            metrics: Some(address(self.metrics_port)),
        }
    }
}

/// Ports that nobody listens on now, all different. They are kept in `cluster.toml`, so that they
/// lie outside the range from which the kernel picks ports for connections going out.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut ports = Vec::with_capacity(count);
    let start = 20_000 + (lockstep_node::mint::number() % 8_000) as u16;
    let mut port = start;
    while ports.len() < count {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
        port = if port == 31_999 { 20_000 } else { port + 1 };
        if port == start {
            bail!("there are no {count} free ports between 20000 and 31999 on 127.0.0.1");
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_back() {
        let place = tempfile::tempdir().expect("a directory");
        assert_eq!(Layout::read(place.path()).expect("reads"), None);
        let layout = Layout::new(place.path(), 2, 1 << 30).expect("ports");
        layout.write().expect("writes");
        let read = Layout::read(place.path())
            .expect("reads")
            .expect("is there");
        assert_eq!(read, layout);
        let names: Vec<_> = read.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["a1", "a2", "b1", "b2", "w"]);
        assert_eq!(read.site("b").count(), 2);
        let mut ports: Vec<_> = read
            .nodes
            .iter()
            .flat_map(|n| [n.control_port, n.data_port, n.metrics_port])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 15);
        std::fs::write(place.path().join("cluster.toml"), "nodes = 7").expect("writes");
        assert!(Layout::read(place.path()).is_err());
    }
}
