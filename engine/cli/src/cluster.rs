//! `lockstep cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lockstep_api::proto;
use lockstep_node::directory::Directory;
use lockstep_node::join::found::found;
use serde::Serialize;

use crate::connect::{ConnectArgs, block_on, words};
use crate::node::{PlaceArgs, RoleArg};
use crate::output::{Output, Row};

/// `lockstep cluster …`.
#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Found a new cluster: make its certificate authority and this node's data directory
    #[command(after_help = "\
Example:
  lockstep cluster init --dir /var/lib/lockstep --cluster prod --name a1 --site a \\
      --control 10.0.0.1:7400 --data 10.0.0.1:7401
  lockstep daemon --dir /var/lib/lockstep")]
    Init(InitArgs),
    /// Change cluster-wide settings
    #[command(after_help = "Example:\n  lockstep cluster set --overprovision 150")]
    Set {
        /// How much may be promised on a pool, in per cent of what it has
        #[arg(long, value_name = "PER CENT")]
        overprovision: Option<u32>,
    },
    /// Every interval in which acknowledged writes stood in one site only
    #[command(
        after_help = "Examples:\n  lockstep cluster ledger\n  lockstep cluster ledger --volume pg -o json"
    )]
    Ledger {
        /// Only of this volume
        #[arg(long, default_value = "")]
        volume: String,
    },
}

/// `lockstep cluster init`.
#[derive(Args)]
pub struct InitArgs {
    /// The cluster's name
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Serialize)]
struct Founded {
    cluster: String,
    node: String,
    dir: PathBuf,
}

#[derive(Serialize)]
struct LedgerRow {
    volume: String,
    site: String,
    begin_unix_ms: u64,
    end_unix_ms: Option<u64>,
    first: String,
    last: String,
}

impl Row for LedgerRow {
    const COLUMNS: &'static [&'static str] =
        &["VOLUME", "SITE", "FROM (ms)", "TO (ms)", "FIRST", "LAST"];

    fn cells(&self) -> Vec<String> {
        let end = self
            .end_unix_ms
            .map_or_else(|| "lasts".into(), |end| end.to_string());
        vec![
            self.volume.clone(),
            self.site.clone(),
            self.begin_unix_ms.to_string(),
            end,
            self.first.clone(),
            self.last.clone(),
        ]
    }
}

/// Runs it.
pub fn run(command: ClusterCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    match command {
        ClusterCommand::Init(InitArgs { cluster, place }) => {
            let dir = connect.directory();
            let identity = found(
                &Directory::new(&dir),
                &cluster,
                &place.new_node(RoleArg::Data),
            )?;
            let text = format!(
                "Cluster '{cluster}' ({}) is prepared in {}.\nNext: lockstep daemon --dir {}",
                identity.cluster,
                dir.display(),
                dir.display()
            );
            output.one(
                &Founded {
                    cluster: identity.cluster,
                    node: identity.node,
                    dir,
                },
                &text,
            )
        }
        ClusterCommand::Set { overprovision } => block_on(async {
            let request = proto::SetSettingsRequest {
                overprovision_per_cent: overprovision,
            };
            let reply = connect
                .connect()
                .await?
                .cluster()
                .set_settings(request)
                .await
                .map_err(words)?
                .into_inner();
            let per_cent = reply.overprovision_per_cent;
            output.one(
                &serde_json::json!({ "overprovision_per_cent": per_cent }),
                &format!("Pools may be promised to {per_cent} % of what they have."),
            )
        }),
        ClusterCommand::Ledger { volume } => block_on(async {
            let request = proto::LedgerRequest { volume };
            let reply = connect
                .connect()
                .await?
                .cluster()
                .ledger(request)
                .await
                .map_err(words)?
                .into_inner();
            let row = |interval: proto::Interval| LedgerRow {
                volume: interval.name,
                site: interval.site,
                begin_unix_ms: interval.begin_unix_ms,
                end_unix_ms: interval.end_unix_ms,
                first: interval.begin,
                last: interval.end,
            };
            output.list(&reply.intervals.into_iter().map(row).collect::<Vec<_>>())
        }),
    }
}
