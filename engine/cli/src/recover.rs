//! `lockstep recover`: forced recovery. Overrides rules, is audited, wants names typed.

mod candidates;
mod confirm;
mod quorum;

use anyhow::bail;
use clap::{Args, Subcommand};
use lockstep_api::{Client, proto};

use crate::arguments;
use crate::connect::{ConnectArgs, block_on, words};
use crate::output::{Output, table};
use crate::volume::VolumeView;
use candidates::{Candidates, choose};
use confirm::{Typed, typed};

/// `lockstep recover …`.
#[derive(Subcommand)]
pub enum RecoverCommand {
    /// List the copies of a volume, and by how much each is behind
    #[command(
        after_help = "Examples:\n  lockstep recover candidates pg\n  lockstep recover candidates pg -o json"
    )]
    Candidates {
        /// The volume
        #[arg(value_parser = arguments::volume)]
        volume: String,
    },
    /// Open a volume with one copy: acknowledged writes that only the others hold are lost
    #[command(after_help = "\
Examples:
  lockstep recover promote-replica pg                               the newest; asks for the name
  lockstep recover promote-replica pg --replica b1 --confirm pg
  lockstep recover promote-replica pg --replica b2 --confirm pg --not-newest 6f0c…

Refused while a certified copy can be reached, except after 'lockstep recover rebuild-quorum'. The
overwritten copies stay sealed and read-only until 'lockstep recover discard' names them.")]
    PromoteReplica(PromoteArgs),
    /// Delete a copy that a forced promotion overwrote
    #[command(after_help = "\
Examples:
  lockstep recover discard pg --replica a1                          asks for the name
  lockstep recover discard pg --replica a1 --confirm pg")]
    Discard {
        /// The volume
        #[arg(value_parser = arguments::volume)]
        volume: String,
        /// The replica, or the node it is on
        #[arg(long, value_parser = arguments::replica)]
        replica: String,
        #[command(flatten)]
        confirmation: ConfirmArgs,
    },
    /// Make a stopped node the sole voter of a new cluster generation, when the majority is lost for good
    #[command(after_help = "\
Examples:
  lockstep recover rebuild-quorum --dir /var/lib/lockstep            asks for the cluster's name
  lockstep recover rebuild-quorum --dir /var/lib/lockstep --confirm prod

Stop the daemon of --dir first and start it afterwards. Choose the surviving node whose log is the
longest; a voter if there is one. Refused while another node knows a leader. The old voters are barred
for good: a node that returns sets its log aside and joins anew. What the log says about who is in
sync is not trusted afterwards: each volume waits for 'lockstep recover promote-replica'.")]
    RebuildQuorum {
        #[command(flatten)]
        confirmation: ConfirmArgs,
    },
}

/// `lockstep recover promote-replica`.
#[derive(Args)]
pub struct PromoteArgs {
    /// The volume
    #[arg(value_parser = arguments::volume)]
    volume: String,
    /// The replica, or the node it is on; the newest when not given
    #[arg(long, value_parser = arguments::replica)]
    replica: Option<String>,
    /// The replica's id, typed once more if it is not the newest
    #[arg(long, value_name = "REPLICA ID")]
    not_newest: Option<String>,
    #[command(flatten)]
    confirmation: ConfirmArgs,
}

/// Who overrides what.
#[derive(Args)]
pub struct ConfirmArgs {
    /// The name of what this is done to, typed once more; asked for when not given
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Who does this, for the audit; the user's name when not given
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

/// Runs it.
pub fn run(command: RecoverCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    let command = match command {
        RecoverCommand::RebuildQuorum { confirmation } => {
            return quorum::rebuild(&confirmation, connect, output);
        }
        command => command,
    };
    block_on(async {
        let client = connect.connect().await?;
        match command {
            RecoverCommand::Candidates { volume } => {
                let listed = Candidates::ask(&client, volume).await?;
                output.one(&listed, &listed.text())
            }
            RecoverCommand::PromoteReplica(args) => promote(args, &client, output).await,
            RecoverCommand::Discard {
                volume,
                replica,
                confirmation,
            } => discard(volume, replica, confirmation, &client, output).await,
            RecoverCommand::RebuildQuorum { .. } => unreachable!("it needs no daemon"),
        }
    })
}

async fn promote(args: PromoteArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let PromoteArgs {
        volume,
        replica,
        not_newest,
        confirmation,
    } = args;
    let volume = named(client, volume).await?;
    let listed = Candidates::ask(client, volume.id.clone()).await?;
    if !listed.refused.is_empty() {
        bail!(
            "volume '{}' is not opened by force: {}",
            volume.name,
            listed.refused
        );
    }
    let chosen = choose(&listed, &volume.name, replica.as_deref())?;
    if !output.is_json() {
        eprintln!("{}", table(&listed.rows()));
        eprintln!("{}", chosen.warning(&volume.name));
    }
    let operator = confirmation.operator();
    let volume_name = typed(
        confirmation.confirm,
        &Typed {
            what: "volume's name",
            expected: &volume.name,
            option: "--confirm",
        },
        output,
    )?;
    let not_newest = if chosen.newest {
        String::new()
    } else {
        let expected = Typed {
            what: "replica's id",
            expected: &chosen.copy.id,
            option: "--not-newest",
        };
        typed(not_newest, &expected, output)?
    };
    let request = proto::PromoteReplicaRequest {
        volume: volume.id,
        replica: chosen.copy.id.clone(),
        volume_name,
        not_newest,
        operator,
    };
    let reply = client
        .recovery()
        .promote_replica(request)
        .await
        .map_err(words)?;
    let view = VolumeView::from(reply.into_inner());
    output.one(&view, &view.text())
}

async fn discard(
    volume: String,
    replica: String,
    confirmation: ConfirmArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let volume = named(client, volume).await?;
    let operator = confirmation.operator();
    let expected = Typed {
        what: "volume's name",
        expected: &volume.name,
        option: "--confirm",
    };
    let request = proto::DiscardSealedRequest {
        volume: volume.id,
        replica: replica.clone(),
        volume_name: typed(confirmation.confirm, &expected, output)?,
        operator,
    };
    client
        .recovery()
        .discard_sealed(request)
        .await
        .map_err(words)?;
    output.one(
        &serde_json::json!({ "volume": volume.name, "discarded": replica }),
        &format!(
            "The sealed copy '{replica}' of volume '{}' is discarded.",
            volume.name
        ),
    )
}

async fn named(client: &Client, volume: String) -> anyhow::Result<proto::Volume> {
    let request = proto::ShowVolumeRequest { volume };
    Ok(client
        .volumes()
        .show(request)
        .await
        .map_err(words)?
        .into_inner())
}

impl ConfirmArgs {
    fn operator(&self) -> String {
        let of_environment = || {
            ["SUDO_USER", "USER", "LOGNAME"]
                .iter()
                .find_map(|name| std::env::var(name).ok())
        };
        let of_process = || format!("uid {}", rustix::process::getuid().as_raw());
        self.operator
            .clone()
            .or_else(of_environment)
            .unwrap_or_else(of_process)
    }
}
