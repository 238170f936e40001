//! `lockstep node`.

mod remove;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use lockstep_api::proto;
use lockstep_net::JoinToken;
use lockstep_node::config::{NodeConfig, RoleName};
use lockstep_node::directory::Directory;
use lockstep_node::join::client::{NewNode, join};
use lockstep_node::units::Span;
use serde::Serialize;

use crate::arguments;
use crate::connect::{ConnectArgs, block_on, words};
use crate::drain::{DrainArgs, drain};
use crate::output::{Output, Row, yes};

/// `lockstep node …`.
#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one is made a run")]
pub enum NodeCommand {
    /// Make a one-time join token
    #[command(
        after_help = "Examples:\n  lockstep node token\n  lockstep node token --role witness --valid 10m"
    )]
    Token {
        /// What the joiner may be
        #[arg(long, value_enum, default_value = "data")]
        role: RoleArg,
        /// For how long
        #[arg(long, default_value = "1h")]
        valid: Span,
    },
    /// Join a cluster with a one-time token made by 'lockstep node token'
    #[command(after_help = "\
Examples:
  lockstep node join lockstep1.… --dir /var/lib/lockstep --name b1 --site b \\
      --control 10.0.1.1:7400 --data 10.0.1.1:7401
  lockstep node join lockstep1.… --role witness --dir /var/lib/lockstep --name w --site w --control 10.0.2.1:7400")]
    Join {
        /// The token: one line that begins with 'lockstep1.'
        token: JoinToken,
        /// What this node does; the token says what it may
        #[arg(long, value_enum, default_value = "data")]
        role: RoleArg,
        #[command(flatten)]
        place: Box<PlaceArgs>,
    },
    /// List the nodes
    #[command(after_help = "Examples:\n  lockstep node list\n  lockstep node list -o json")]
    List,
    /// Show a node and its pools
    #[command(after_help = "Examples:\n  lockstep node show a1\n  lockstep node show a1 -o json")]
    Show {
        /// Its name or id
        #[arg(value_parser = arguments::node)]
        node: String,
    },
    /// Keep new copies, primaries and voters away from a node
    #[command(after_help = "Example:\n  lockstep node cordon b2")]
    Cordon {
        /// Its name or id
        #[arg(value_parser = arguments::node)]
        node: String,
    },
    /// Let a cordoned node be given things again
    #[command(after_help = "Example:\n  lockstep node uncordon b2")]
    Uncordon {
        /// Its name or id
        #[arg(value_parser = arguments::node)]
        node: String,
    },
    /// Prepare a node for being switched off: nothing new, and wait until nothing needs it
    #[command(after_help = "\
Examples:
  lockstep node drain a1
  lockstep node drain a1 --check -o json

In the way are: volumes attached there, a last certified copy, under rpo 'strict' the last one of a site, and
votes without which no majority is left. Copies stay where they are, and catch up when the node is back. The
health monitor leaves a cordoned node alone. Afterwards: 'lockstep node uncordon a1'.")]
    Drain {
        /// Its name or id
        #[arg(value_parser = arguments::node)]
        node: String,
        #[command(flatten)]
        args: DrainArgs,
    },
    /// Remove a node: its copies are moved off, its vote is taken over, its certificate is barred
    #[command(after_help = "\
Examples:
  lockstep node remove b2
  lockstep node remove b2 --timeout 8h -o json

Refused, with the reason, while a volume is attached there, a copy has no other place, or nobody could
vote in its place. A node that is dead is removed in the same way. If the command is interrupted, the
node stays cordoned: give it again, or 'lockstep node uncordon b2'.")]
    Remove(remove::RemoveArgs),
}

/// Who and where a new node is.
#[derive(Args)]
pub struct PlaceArgs {
    /// This node's name
    #[arg(long)]
    name: String,
    /// Its site
    #[arg(long)]
    site: String,
    /// Its zone inside the site
    #[arg(long, default_value = "")]
    zone: String,
    /// Its rack inside the zone
    #[arg(long, default_value = "")]
    rack: String,
    /// Where raft and administration listen
    #[arg(long, value_name = "HOST:PORT")]
    control: String,
    /// Where replication listens; not needed by a witness
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7401")]
    data: String,
    /// Where metrics and health listen
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
}

/// What a node does.
#[derive(Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// Holds pools and may vote
    Data,
    /// Votes and stores no data
    Witness,
}

impl From<RoleArg> for proto::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Data => Self::Data,
            RoleArg::Witness => Self::Witness,
        }
    }
}

impl PlaceArgs {
    /// As the node says it of itself.
    pub fn new_node(&self, role: RoleArg) -> NewNode {
        NewNode {
            node: NodeConfig {
                name: self.name.clone(),
                site: self.site.clone(),
                zone: self.zone.clone(),
                rack: self.rack.clone(),
                role: match role {
                    RoleArg::Data => RoleName::Data,
                    RoleArg::Witness => RoleName::Witness,
                },
            },
            control: self.control.clone(),
            data: self.data.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

#[derive(Serialize)]
struct JoinedNode {
    cluster: String,
    node: String,
    dir: PathBuf,
}

#[derive(Clone, Serialize)]
struct NodeRow {
    id: String,
    name: String,
    site: String,
    zone: String,
    rack: String,
    role: &'static str,
    answering: bool,
    voter: bool,
    cordoned: bool,
    copies: u32,
    attachments: u32,
    control_address: String,
}

impl Row for NodeRow {
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "SITE", "ROLE", "ANSWERS", "VOTES", "CORDONED", "COPIES", "ATTACHED", "CONTROL",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.site.clone(),
            self.role.into(),
            yes(self.answering),
            yes(self.voter),
            yes(self.cordoned),
            self.copies.to_string(),
            self.attachments.to_string(),
            self.control_address.clone(),
        ]
    }
}

impl From<proto::Node> for NodeRow {
    fn from(node: proto::Node) -> Self {
        let role = match node.role() {
            proto::Role::Witness => "witness",
            proto::Role::Data | proto::Role::Unspecified => "data",
        };
        Self {
            id: node.id,
            name: node.name,
            site: node.site,
            zone: node.zone,
            rack: node.rack,
            role,
            answering: node.answering,
            voter: node.voter,
            cordoned: node.cordoned,
            copies: node.replicas,
            attachments: node.attachments,
            control_address: node.control_address,
        }
    }
}

/// Runs it.
pub fn run(command: NodeCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    match command {
        NodeCommand::Token { role, valid } => block_on(async {
            let valid_seconds = u32::try_from(valid.0.as_secs())?;
            let request = proto::CreateTokenRequest {
                role: proto::Role::from(role).into(),
                valid_seconds,
            };
            let reply = connect
                .connect()
                .await?
                .cluster()
                .create_token(request)
                .await
                .map_err(words)?
                .into_inner();
            let value =
                serde_json::json!({ "token": reply.token, "expires_unix": reply.expires_unix });
            output.one(&value, &reply.token)
        }),
        NodeCommand::Join { token, role, place } => {
            let dir = connect.directory();
            let identity = block_on(join(&Directory::new(&dir), &token, &place.new_node(role)))?;
            let text = format!(
                "This node joined cluster {}.\nNext: lockstep daemon --dir {}",
                identity.cluster,
                dir.display()
            );
            output.one(
                &JoinedNode {
                    cluster: identity.cluster,
                    node: identity.node,
                    dir,
                },
                &text,
            )
        }
        NodeCommand::List => block_on(async {
            let reply = connect
                .connect()
                .await?
                .nodes()
                .list(proto::ListNodesRequest {})
                .await
                .map_err(words)?;
            let mut rows: Vec<NodeRow> = reply
                .into_inner()
                .nodes
                .into_iter()
                .map(Into::into)
                .collect();
            rows.sort_by(|a, b| a.name.cmp(&b.name));
            output.list(&rows)
        }),
        NodeCommand::Show { node } => block_on(show::show(connect, output, node)),
        NodeCommand::Cordon { node } => block_on(cordon(connect, output, node, true)),
        NodeCommand::Uncordon { node } => block_on(cordon(connect, output, node, false)),
        NodeCommand::Drain { node, args } => block_on(async {
            let client = connect.connect().await?;
            let node = remove::find(&client, &node).await?;
            drain(vec![node], &args, &client, output).await
        }),
        NodeCommand::Remove(args) => block_on(remove::remove(args, connect, output)),
    }
}

async fn cordon(
    connect: &ConnectArgs,
    output: &Output,
    node: String,
    cordoned: bool,
) -> anyhow::Result<()> {
    let request = proto::CordonNodeRequest {
        node: node.clone(),
        cordoned,
    };
    connect
        .connect()
        .await?
        .nodes()
        .cordon(request)
        .await
        .map_err(words)?;
    let text = match cordoned {
        true => format!("Node '{node}' is given nothing new."),
        false => format!("Node '{node}' may be given things again."),
    };
    output.one(
        &serde_json::json!({ "node": node, "cordoned": cordoned }),
        &text,
    )
}
