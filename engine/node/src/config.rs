//! The node's configuration: one strict TOML, `node.toml` in the data directory. An unknown key, a
//! missing unit or a wrong type is refused with its line. Volume policy is not here: it lives in
//! the control state only.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::devices::choose::{self, FrontEnd};
use crate::label;
use crate::units::{Size, Span};

/// `node.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node.
    pub node: NodeConfig,
    /// Where it listens, and how others reach it.
    pub listen: ListenConfig,
    /// Data-plane threads and memory.
    #[serde(default)]
    pub data_plane: DataPlaneConfig,
    /// Block devices.
    #[serde(default)]
    pub devices: DevicesConfig,
    /// Log output.
    #[serde(default)]
    pub log: LogConfig,
    /// Raft's timing.
    #[serde(default)]
    pub consensus: ConsensusConfig,
}

/// Who this node is. Site, zone and rack are immutable once it has joined.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its label, unique in the cluster.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Zone inside the site; may be empty.
    #[serde(default)]
    pub zone: String,
    /// Rack inside the zone; may be empty.
    #[serde(default)]
    pub rack: String,
    /// What it does.
    pub role: RoleName,
}

/// A role as the configuration names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Holds pools and may vote.
    Data,
    /// Votes and stores no data.
    Witness,
}

/// Addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Raft, joining and administration, all over TLS.
    pub control: SocketAddr,
    /// Replication, over TLS; unused on a witness.
    pub data: SocketAddr,
    /// NBD for clients on other hosts, by STARTTLS with a certificate of the cluster; none by default.
    #[serde(default)]
    pub nbd: Option<SocketAddr>,
    /// Prometheus metrics and health, plain HTTP; none by default.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// What other nodes dial instead of `control`'s address, `host:port`.
    #[serde(default)]
    pub advertise_control: Option<String>,
    /// What other nodes dial instead of `data`'s address, `host:port`.
    #[serde(default)]
    pub advertise_data: Option<String>,
}

/// Data-plane threads and memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPlaneConfig {
    /// Aligned buffers for payloads.
    pub buffers: Size,
    /// Requests in flight a client connection.
    pub requests: u32,
    /// Every block is read, compared with its checksum, and every copy with the others, once in this
    /// time. 1s to 720h.
    pub scrub_pass: Span,
}

/// Block devices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevicesConfig {
    /// The kinds that this node offers, best first: the first that the host has is taken. One alone is forced.
    pub front_ends: Vec<FrontEnd>,
    /// Who starts the process that keeps their descriptors while the daemon is away.
    pub keeper: KeeperFrom,
}

/// Where the keeper comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeeperFrom {
    /// The daemon starts one if none listens.
    #[default]
    Daemon,
    /// Somebody else does. Where the daemon's end takes all that it has started with it, as a container's
    /// does, one of its own would keep nothing: no device is made before the other one listens.
    External,
}

/// Log output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A filter like "info" or "info,lockstep_node=debug".
    pub filter: String,
    /// Lines for people, or JSON for collectors.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Raft's timing. All voters share one election timeout (safety.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsensusConfig {
    /// Silence of the leader before an election.
    pub election_timeout: Span,
}

impl Default for DevicesConfig {
    fn default() -> Self {
        Self {
            front_ends: choose::ALL.to_vec(),
            keeper: KeeperFrom::default(),
        }
    }
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        Self {
            buffers: Size(64 << 20),
            requests: 256,
            scrub_pass: Span(Duration::from_secs(7 * 24 * 3600)),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            election_timeout: Span(Duration::from_secs(1)),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}; 'lockstep cluster init' or 'lockstep node join' makes it", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be; the text shows the line.
    #[error("{} is refused:\n{why}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line, column and reason.
        why: String,
    },
    /// A value makes no sense.
    #[error("{} is refused: {key} = {value}: {why}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What it says.
        value: String,
        /// Why not.
        why: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], with the line of what is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Checks a text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], with the line of what is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            why: e.to_string(),
        })?;
        config.check(path)?;
        Ok(config)
    }

    /// `host:port` others dial for raft and administration.
    pub fn advertised_control(&self) -> String {
        self.listen
            .advertise_control
            .clone()
            .unwrap_or_else(|| self.listen.control.to_string())
    }

    /// `host:port` others dial for replication.
    pub fn advertised_data(&self) -> String {
        self.listen
            .advertise_data
            .clone()
            .unwrap_or_else(|| self.listen.data.to_string())
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let value = |key, value: String, why: String| ConfigError::Value {
            path: path.to_owned(),
            key,
            value,
            why,
        };
        let labels = [
            ("node.name", "node", &self.node.name, false),
            ("node.site", "site", &self.node.site, false),
            ("node.zone", "zone", &self.node.zone, true),
            ("node.rack", "rack", &self.node.rack, true),
        ];
        for (key, what, text, may_be_empty) in labels {
            if may_be_empty && text.is_empty() {
                continue;
            }
            label::check(what, text).map_err(|e| value(key, text.clone(), e.to_string()))?;
        }
        let listen = &self.listen;
        for (key, address, advertised) in [
            ("listen.control", listen.control, &listen.advertise_control),
            ("listen.data", listen.data, &listen.advertise_data),
        ] {
            if advertised.is_none() && (address.ip().is_unspecified() || address.port() == 0) {
                let why = "others cannot dial this; say what they shall dial in listen.advertise_control and listen.advertise_data".into();
                return Err(value(key, address.to_string(), why));
            }
        }
        if self.data_plane.buffers.0 < 8 << 20 {
            let why = "at least 8MiB are needed".into();
            return Err(value(
                "data_plane.buffers",
                self.data_plane.buffers.to_string(),
                why,
            ));
        }
        if !(1..=4096).contains(&self.data_plane.requests) {
            return Err(value(
                "data_plane.requests",
                self.data_plane.requests.to_string(),
                "1 to 4096".into(),
            ));
        }
        let pass = self.data_plane.scrub_pass;
        if !(1..=720 * 3600).contains(&pass.0.as_secs()) {
            return Err(value(
                "data_plane.scrub_pass",
                format!("{:?}", pass.0),
                "1s to 720h".into(),
            ));
        }
        let election = self.consensus.election_timeout.0;
        if election < Duration::from_millis(500) || election > Duration::from_secs(30) {
            return Err(value(
                "consensus.election_timeout",
                format!("{election:?}"),
                "500ms to 30s".into(),
            ));
        }
        Ok(())
    }
}

/// The text of a new `node.toml`.
pub fn render(node: &NodeConfig, control: &str, data: &str, metrics: Option<&str>) -> String {
    let role = match node.role {
        RoleName::Data => "data",
        RoleName::Witness => "witness",
    };
    let NodeConfig {
        name,
        site,
        zone,
        rack,
        ..
    } = node;
    let metrics = match metrics {
        Some(address) => format!("metrics = \"{address}\"\n"),
        None => "# metrics = \"127.0.0.1:9440\"\n".into(),
    };
    format!(
        "# A Lockstep node. Unknown keys are refused; units are part of the text (\"256KiB\", \"3s\").\n\
         \n[node]\nname = \"{name}\"\n# Immutable once the node has joined.\nsite = \"{site}\"\nzone = \"{zone}\"\nrack = \"{rack}\"\nrole = \"{role}\"\n\
         \n[listen]\n# Raft, joining and administration, over TLS.\ncontrol = \"{control}\"\n# Replication, over TLS.\ndata = \"{data}\"\n# NBD for other hosts, by STARTTLS with a certificate of the cluster.\n# nbd = \"0.0.0.0:10809\"\n{metrics}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeConfig {
        NodeConfig {
            name: "a1".into(),
            site: "a".into(),
            zone: String::new(),
            rack: "r1".into(),
            role: RoleName::Data,
        }
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("node.toml"), text)
    }

    #[test]
    fn what_is_rendered_is_read() {
        let text = render(
            &node(),
            "127.0.0.1:7400",
            "127.0.0.1:7401",
            Some("127.0.0.1:9440"),
        );
        let config = parse(&text).expect("reads");
        assert_eq!(config.node.rack, "r1");
        assert_eq!(config.advertised_data(), "127.0.0.1:7401");
        assert_eq!(config.listen.metrics.map(|a| a.port()), Some(9440));
        assert_eq!(config.devices.front_ends, choose::ALL);
        let forced = format!("{text}[devices]\nfront_ends = [\"loop\"]\n");
        let forced = Config::parse(Path::new("n.toml"), &forced).expect("valid");
        assert_eq!(forced.devices.front_ends, [FrontEnd::Loop]);
        let strange = format!("{text}[devices]\nfront_ends = [\"usb\"]\n");
        let refused = Config::parse(Path::new("n.toml"), &strange).expect_err("no such thing");
        assert!(refused.to_string().contains("kernel-nbd"), "{refused}");
        assert_eq!(config.devices.keeper, KeeperFrom::Daemon);
        let text = format!("{text}[devices]\nkeeper = \"external\"\n");
        let config = parse(&text).expect("reads");
        assert_eq!(config.devices.keeper, KeeperFrom::External);
    }

    #[test]
    fn errors_name_the_line() {
        let text = render(&node(), "127.0.0.1:7400", "127.0.0.1:7401", None);
        for (from, to, expected) in [
            ("rack = ", "rak = ", "unknown field `rak`"),
            (
                "role = \"data\"",
                "role = \"boss\"",
                "unknown variant `boss`",
            ),
            ("name = \"a1\"", "name = 7", "invalid type: integer `7`"),
            (
                "[listen]",
                "[data_plane]\nbuffers = 64\n[listen]",
                "like \"256KiB\"",
            ),
        ] {
            let error = parse(&text.replacen(from, to, 1))
                .expect_err(to)
                .to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("line "), "{error}");
        }
    }

    #[test]
    fn values_are_checked() {
        let text = render(&node(), "127.0.0.1:7400", "127.0.0.1:7401", None);
        for (from, to, expected) in [
            ("name = \"a1\"", "name = \"../x\"", "node.name"),
            ("127.0.0.1:7400", "0.0.0.0:7400", "advertise_control"),
            (
                "[listen]",
                "[data_plane]\nbuffers = \"1MiB\"\n[listen]",
                "8MiB",
            ),
            (
                "[listen]",
                "[consensus]\nelection_timeout = \"1ms\"\n[listen]",
                "500ms to 30s",
            ),
        ] {
            let error = parse(&text.replacen(from, to, 1))
                .expect_err(to)
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
