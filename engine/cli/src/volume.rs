//! `lockstep volume`.

mod attach;
mod policy;
mod replicas;
mod view;
mod wait;

use clap::{Args, Subcommand};
use lockstep_api::{Client, proto};
use lockstep_node::units::Size;

use crate::arguments;
use crate::connect::{ConnectArgs, block_on, words};
use crate::output::Output;
use attach::{AttachArgs, DetachArgs};
use policy::PolicyArgs;
use wait::{NoWaitArgs, WaitArgs, is_settled};

pub use view::{ReplicaView, VolumeView, word};
pub use wait::until;

/// `lockstep volume …`.
#[derive(Subcommand)]
pub enum VolumeCommand {
    /// Create a volume; the same name and wish again give the same volume
    #[command(after_help = "\
Examples:
  lockstep volume create pg --size 10GiB --copies a=2,b=1     two copies in site a, one in b
  lockstep volume create web --size 1GiB --copies '*=1'       one copy in every site
  lockstep volume create scratch --size 1GiB --copies 2       two copies anywhere
  lockstep volume create bank --size 1GiB --copies '*=1' --rpo strict")]
    Create(CreateArgs),
    /// List the volumes
    #[command(after_help = "Examples:\n  lockstep volume list\n  lockstep volume list -o json")]
    List,
    /// Show a volume and its copies
    #[command(
        after_help = "Examples:\n  lockstep volume show pg\n  lockstep volume show pg -o json"
    )]
    Show {
        /// Its name or id
        #[arg(value_parser = arguments::volume)]
        volume: String,
    },
    /// Delete a volume and its data; refused while attached
    #[command(
        after_help = "Examples:\n  lockstep volume delete scratch\n  lockstep volume delete scratch --no-wait"
    )]
    Delete {
        /// Its name or id
        #[arg(value_parser = arguments::volume)]
        volume: String,
        #[command(flatten)]
        wait: NoWaitArgs,
    },
    /// Publish a volume to a node and print its NBD socket or its device
    #[command(after_help = "\
Examples:
  lockstep volume attach pg --node a1
  lockstep volume attach pg --front-end device                   a /dev node on this machine
  qemu-img info \"$(lockstep volume attach pg -o json | jq -r .uri)\"

Attaching again to the same node gives the same attachment and the same socket.")]
    Attach(AttachArgs),
    /// End a volume's publication and fence it, with or without the node's help
    #[command(
        after_help = "Examples:\n  lockstep volume detach pg\n  lockstep volume detach pg --node a1"
    )]
    Detach(DetachArgs),
    /// Make a volume larger; it may be attached
    #[command(after_help = "Example:\n  lockstep volume resize pg --size 20GiB")]
    Resize {
        /// Its name or id
        #[arg(value_parser = arguments::volume)]
        volume: String,
        /// Its new size, a multiple of 4096 bytes
        #[arg(long, value_parser = arguments::volume_size)]
        size: Size,
    },
    /// Who holds what, why it is suspended, who must return
    #[command(
        after_help = "Examples:\n  lockstep volume explain pg\n  lockstep volume explain pg -o json"
    )]
    Explain {
        /// Its name or id
        #[arg(value_parser = arguments::volume)]
        volume: String,
    },
    /// Change what was asked for; what is not given stays
    #[command(after_help = "\
Examples:
  lockstep volume set-policy pg --rpo strict
  lockstep volume set-policy pg --copies a=2,b=2 --wait
  lockstep volume set-policy pg --preferred-site ''              none is preferred any more")]
    SetPolicy(SetPolicyArgs),
    /// Add a copy, where the policy lacks one or on a node, while I/O runs
    #[command(after_help = "\
Examples:
  lockstep volume add-replica pg
  lockstep volume add-replica pg --node b2 --wait")]
    AddReplica {
        /// The volume
        #[arg(value_parser = arguments::volume)]
        volume: String,
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Move a copy elsewhere while I/O runs
    #[command(after_help = "\
Examples:
  lockstep volume move-replica pg --from a2
  lockstep volume move-replica pg --from a2 --node a3 --wait")]
    MoveReplica {
        /// The volume
        #[arg(value_parser = arguments::volume)]
        volume: String,
        /// The replica, or the node it is on
        #[arg(long, value_parser = arguments::replica)]
        from: String,
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take a copy away
    #[command(after_help = "\
Examples:
  lockstep volume remove-replica pg --replica a2 --wait
  lockstep volume remove-replica pg --replica a2 --even-below-policy")]
    RemoveReplica {
        /// The volume
        #[arg(value_parser = arguments::volume)]
        volume: String,
        /// The replica, or the node it is on
        #[arg(long, value_parser = arguments::replica)]
        replica: String,
        /// Accept fewer copies than the policy asks for
        #[arg(long)]
        even_below_policy: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take back a removal that has not been carried out
    #[command(after_help = "Example:\n  lockstep volume keep-replica pg --replica a2")]
    KeepReplica {
        /// The volume
        #[arg(value_parser = arguments::volume)]
        volume: String,
        /// The replica, or the node it is on
        #[arg(long, value_parser = arguments::replica)]
        replica: String,
    },
}

/// `lockstep volume create`.
#[derive(Args)]
pub struct CreateArgs {
    /// Its name: up to 63 lower-case letters, digits, '-', '.', '_'
    #[arg(value_parser = arguments::volume)]
    name: String,
    /// Its size, a multiple of 4096 bytes: 10GiB, 512MiB, 1TiB
    #[arg(long, value_parser = arguments::volume_size)]
    size: Size,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Where it will be used: a copy is placed there if that fits
    #[arg(long, value_name = "NODE", value_parser = arguments::node)]
    local_node: Option<String>,
    /// A copy must be on --local-node
    #[arg(long, requires = "local_node")]
    local_required: bool,
    #[command(flatten)]
    wait: NoWaitArgs,
}

/// `lockstep volume set-policy`.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["copies", "fault_domain", "rpo", "preferred_site", "locality"])))]
pub struct SetPolicyArgs {
    /// Its name or id
    #[arg(value_parser = arguments::volume)]
    volume: String,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Where a copy goes.
#[derive(Args)]
pub struct PlaceArgs {
    /// Where to; placed by the policy when not given
    #[arg(long, value_parser = arguments::node)]
    node: Option<String>,
    /// In which pool of that node; the one with the most room when not given
    #[arg(long, requires = "node", value_parser = arguments::pool)]
    pool: Option<String>,
}

/// Volumes in one reply to a listing.
const PAGE: u32 = 500;

/// Runs it.
pub fn run(command: VolumeCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    block_on(async {
        let client = connect.connect().await?;
        match command {
            VolumeCommand::Attach(args) => attach::attach(args, &client, connect, output).await,
            VolumeCommand::Detach(args) => attach::detach(args, &client, output).await,
            other => carry_out(other, &client, output).await,
        }
    })
}

async fn carry_out(command: VolumeCommand, client: &Client, output: &Output) -> anyhow::Result<()> {
    let mut volumes = client.volumes();
    match command {
        VolumeCommand::Create(args) => create(args, client, output).await,
        VolumeCommand::List => output.list(&list(client).await?),
        VolumeCommand::Show { volume } => {
            let request = proto::ShowVolumeRequest { volume };
            show(
                output,
                volumes.show(request).await.map_err(words)?.into_inner(),
            )
        }
        VolumeCommand::Delete { volume, wait } => delete(volume, &wait, client, output).await,
        VolumeCommand::Resize { volume, size } => {
            let request = proto::ResizeVolumeRequest {
                volume,
                bytes: size.0,
            };
            show(
                output,
                volumes.resize(request).await.map_err(words)?.into_inner(),
            )
        }
        VolumeCommand::Explain { volume } => crate::explain::volume(client, output, volume).await,
        VolumeCommand::SetPolicy(args) => set_policy(args, client, output).await,
        VolumeCommand::AddReplica {
            volume,
            place,
            wait,
        } => replicas::add(volume, place, &wait, client, output).await,
        VolumeCommand::MoveReplica {
            volume,
            from,
            place,
            wait,
        } => replicas::move_away(volume, from, place, &wait, client, output).await,
        VolumeCommand::RemoveReplica {
            volume,
            replica,
            even_below_policy,
            wait,
        } => {
            let request = proto::RemoveReplicaRequest {
                volume,
                replica,
                even_below_policy,
            };
            replicas::remove(request, &wait, client, output).await
        }
        VolumeCommand::KeepReplica { volume, replica } => {
            replicas::keep(volume, replica, client, output).await
        }
        VolumeCommand::Attach(_) | VolumeCommand::Detach(_) => {
            unreachable!("carried out by their own module")
        }
    }
}

async fn create(args: CreateArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let request = proto::CreateVolumeRequest {
        name: args.name,
        bytes: args.size.0,
        policy: Some(args.policy.into()),
        local_node: args.local_node.unwrap_or_default(),
        local_required: args.local_required,
        // Waited for below, where progress can be shown.
        wait_seconds: 0,
    };
    let reply = client
        .volumes()
        .create(request)
        .await
        .map_err(words)?
        .into_inner();
    let mut volume = reply.volume.unwrap_or_default();
    let is_made = |volume: &proto::Volume| volume.status() != proto::VolumeStatus::Creating;
    if !args.wait.no_wait && !is_made(&volume) {
        let patience = args.wait.patience();
        volume = wait::until(client, output, &volume.name, patience, is_made).await?;
    }
    show(output, volume)
}

async fn list(client: &Client) -> anyhow::Result<Vec<VolumeView>> {
    let all = all_volumes(client).await?.into_iter();
    Ok(all.map(VolumeView::from).collect())
}

/// All volumes, by name.
///
/// # Errors
/// The daemon does not tell.
pub async fn all_volumes(client: &Client) -> anyhow::Result<Vec<proto::Volume>> {
    let mut rows: Vec<proto::Volume> = Vec::new();
    let mut page = String::new();
    loop {
        let request = proto::ListVolumesRequest { page, limit: PAGE };
        let reply = client
            .volumes()
            .list(request)
            .await
            .map_err(words)?
            .into_inner();
        rows.extend(reply.volumes);
        page = reply.next_page;
        if page.is_empty() {
            rows.sort_by(|a, b| a.name.cmp(&b.name));
            return Ok(rows);
        }
    }
}

async fn delete(
    volume: String,
    wait: &NoWaitArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let request = proto::DeleteVolumeRequest {
        volume: volume.clone(),
        wait_seconds: 0,
    };
    client.volumes().delete(request).await.map_err(words)?;
    let text = if wait.no_wait {
        format!("Volume '{volume}' is being deleted.")
    } else {
        wait::until_gone(client, output, &volume, wait.patience()).await?;
        format!("Volume '{volume}' is deleted.")
    };
    output.one(&serde_json::json!({ "deleted": volume }), &text)
}

async fn set_policy(args: SetPolicyArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let request = proto::SetPolicyRequest {
        volume: args.volume,
        policy: Some(args.policy.into()),
    };
    let changed = client
        .volumes()
        .set_policy(request)
        .await
        .map_err(words)?
        .into_inner();
    settle(changed, &args.wait, client, output).await
}

/// Shows a volume that was asked to change; with `--wait` once it has.
async fn settle(
    volume: proto::Volume,
    wait: &WaitArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    if !wait.wait {
        return show(output, volume);
    }
    show(
        output,
        wait::until(client, output, &volume.name, wait.patience(), is_settled).await?,
    )
}

fn show(output: &Output, volume: proto::Volume) -> anyhow::Result<()> {
    let view = VolumeView::from(volume);
    output.one(&view, &view.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use clap::error::ErrorKind;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: VolumeCommand,
    }

    fn parse(line: &str) -> Result<VolumeCommand, clap::Error> {
        let words = line
            .split(' ')
            .map(|word| if word == "''" { "" } else { word });
        Line::try_parse_from(std::iter::once("volume").chain(words)).map(|line| line.command)
    }

    #[test]
    fn a_volume_is_created_as_wished() {
        let line =
            "create pg --size 10GiB --copies a=2,b=1 --rpo strict --local-node a1 --local-required";
        let Ok(VolumeCommand::Create(args)) = parse(line) else {
            panic!("it is well-formed");
        };
        assert_eq!((args.name.as_str(), args.size), ("pg", Size(10 << 30)));
        assert!(args.local_required && !args.wait.no_wait);
        assert_eq!(args.wait.patience().as_secs(), 60);
        let policy = proto::Policy::from(args.policy);
        assert_eq!(policy.copies.as_deref(), Some("a=2,b=1"));
        assert_eq!(policy.rpo(), proto::Rpo::Strict);
        assert_eq!(policy.locality(), proto::Locality::Unspecified);
    }

    #[test]
    fn wrong_usage_is_said_in_words() {
        let long = format!("create {} --size 1GiB", "x".repeat(300));
        for (line, expected) in [
            ("create ../pg --size 1GiB", "cannot name a volume"),
            ("create '' --size 1GiB", "cannot name a volume"),
            (long.as_str(), "63"),
            ("create pg --size 0", "4096"),
            ("create pg --size 4097", "4096"),
            ("create pg --size 1GB", "powers of 1024"),
            ("create pg", "--size"),
            ("create pg --size 1GiB --local-required", "--local-node"),
            ("create pg --size 1GiB --rpo lax", "witnessed-degrade"),
            ("show a/b", "cannot name a volume"),
            ("resize pg --size 12parsecs", "powers of 1024"),
            ("set-policy pg", "--rpo"),
            ("add-replica pg --pool p0", "--node"),
            ("add-replica pg --timeout 5s", "--wait"),
            ("delete pg --no-wait --timeout 5s", "cannot be used with"),
            ("attach pg --node ../a1", "cannot name a node"),
            ("attach pg --front-end usb", "nbd"),
        ] {
            let error = parse(line)
                .err()
                .unwrap_or_else(|| panic!("'{line}' is accepted"));
            assert!(!matches!(error.kind(), ErrorKind::DisplayHelp), "{line}");
            assert_eq!(error.exit_code(), 2, "{line}");
            let text = error.to_string();
            assert!(text.contains(expected), "'{line}' says: {text}");
        }
    }

    #[test]
    fn an_empty_site_takes_the_preference_back() {
        let Ok(VolumeCommand::SetPolicy(args)) = parse("set-policy pg --preferred-site ''") else {
            panic!("it is well-formed");
        };
        let policy = proto::Policy::from(args.policy);
        assert_eq!(policy.preferred_site.as_deref(), Some(""));
        assert_eq!(policy.copies, None);
    }

    #[test]
    fn waiting_takes_as_long_as_said() {
        let Ok(VolumeCommand::AddReplica { wait, .. }) =
            parse("add-replica pg --wait --timeout 90s")
        else {
            panic!("it is well-formed");
        };
        assert!(wait.wait);
        assert_eq!(wait.patience().as_secs(), 90);
    }
}
