//! Publishing a volume to a node, and what to open there.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use lockstep_api::error::stable_code;
use lockstep_api::{Client, Target, proto};
use serde::Serialize;

use crate::arguments;
use crate::connect::{ConnectArgs, words};
use crate::local::Layout;
use crate::output::Output;

/// `lockstep volume attach`.
#[derive(Args)]
pub struct AttachArgs {
    /// Its name or id
    #[arg(value_parser = arguments::volume)]
    volume: String,
    /// Where; the node asked when not given
    #[arg(long, value_parser = arguments::node)]
    node: Option<String>,
    /// How it is offered there, beside the NBD socket that every attached volume has
    #[arg(long, value_enum, default_value = "nbd")]
    front_end: FrontEndArg,
}

/// `lockstep volume detach`.
#[derive(Args)]
pub struct DetachArgs {
    /// Its name or id
    #[arg(value_parser = arguments::volume)]
    volume: String,
    /// Only if it is attached there
    #[arg(long, value_parser = arguments::node)]
    node: Option<String>,
    /// Only if it is this attachment
    #[arg(long, value_name = "ID")]
    attachment: Option<String>,
    /// Even if it is in use: the I/O of who uses it fails
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FrontEndArg {
    /// A Unix socket that speaks NBD
    Nbd,
    /// The best block device that the node has, /dev/lockstep/NAME; the daemon must run as root
    Device,
    /// A ublk device
    Ublk,
    /// A device of the kernel's NBD client
    KernelNbd,
    /// A loop device over FUSE
    #[value(alias = "fuse")]
    Loop,
    /// The best that the node has: a block device, or else the socket
    Auto,
}

/// How long a volume that can be opened takes at most.
const OPENING: Duration = Duration::from_secs(5);
/// How often a device that is not open yet is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// An attached volume as programs see it.
#[derive(Debug, Serialize)]
struct Attached {
    volume: String,
    node: String,
    attachment: String,
    /// The NBD socket; none if the device is of another kind or on a node that cannot be asked here.
    socket: Option<String>,
    /// The socket as libnbd and QEMU take it.
    uri: Option<String>,
    /// The block device.
    device: Option<String>,
    /// What it is: "nbd" for the socket, "ublk", "kernel-nbd", "loop"; none if it is not there yet.
    front_end: Option<&'static str>,
    /// The better front-ends that the node does not have, each with why not.
    passed_over: Vec<String>,
    /// Why requests wait; empty when they are served.
    waiting: String,
}

/// Attaches.
///
/// # Errors
/// It is attached elsewhere, cannot be opened, or its device cannot be made.
pub async fn attach(
    args: AttachArgs,
    client: &Client,
    connect: &ConnectArgs,
    output: &Output,
) -> anyhow::Result<()> {
    let AttachArgs {
        volume,
        node,
        front_end,
    } = args;
    let request = proto::ShowVolumeRequest { volume };
    let volume = client
        .volumes()
        .show(request)
        .await
        .map_err(words)?
        .into_inner();
    let request = proto::AttachVolumeRequest {
        volume: volume.id.clone(),
        node: node.unwrap_or_default(),
    };
    let reply = client
        .volumes()
        .attach(request)
        .await
        .map_err(words)?
        .into_inner();
    let attachment = reply.attachment.unwrap_or_default();
    let device = open(client, connect, &volume.id, &attachment, front_end)
        .await
        .with_context(|| {
            format!(
                "volume '{}' is attached to node '{}', but its device cannot be made; \
             'lockstep volume detach {}' takes the attachment back",
                volume.name, attachment.node, volume.name
            )
        })?;
    let attached = Attached::new(volume.name, attachment, device);
    output.one(&attached, &attached.text())
}

/// Detaches.
///
/// # Errors
/// It is in use, or the control plane does not answer.
pub async fn detach(args: DetachArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let DetachArgs {
        volume,
        node,
        attachment,
        force,
    } = args;
    let request = proto::DetachVolumeRequest {
        volume: volume.clone(),
        attachment: attachment.clone().unwrap_or_default(),
        node: node.clone().unwrap_or_default(),
        force,
    };
    client.volumes().detach(request).await.map_err(words)?;
    let text = match (&node, &attachment) {
        (None, None) => format!("Volume '{volume}' is detached."),
        (Some(node), _) => format!("Volume '{volume}' is not attached to node '{node}' any more."),
        (None, Some(id)) => format!("Volume '{volume}' is not attached as {id} any more."),
    };
    output.one(&serde_json::json!({ "detached": volume }), &text)
}

/// Makes the device on the attachment's node; none if that node cannot be asked from here.
async fn open(
    client: &Client,
    connect: &ConnectArgs,
    volume: &str,
    attachment: &proto::Attachment,
    front_end: FrontEndArg,
) -> anyhow::Result<Option<proto::Device>> {
    let front_end = match front_end {
        FrontEndArg::Nbd => proto::FrontEnd::Nbd,
        FrontEndArg::Device => proto::FrontEnd::Device,
        FrontEndArg::Ublk => proto::FrontEnd::Ublk,
        FrontEndArg::KernelNbd => proto::FrontEnd::KernelNbd,
        FrontEndArg::Loop => proto::FrontEnd::Loop,
        FrontEndArg::Auto => proto::FrontEnd::Unspecified,
    };
    let request = proto::OpenDeviceRequest {
        volume: volume.to_owned(),
        attachment: attachment.id.clone(),
        front_end: front_end.into(),
    };
    match client.devices().open(request.clone()).await {
        Ok(device) => {
            let device = opened(client, request, device.into_inner()).await;
            return device.map(Some);
        }
        // Devices are the business of the node that the volume is attached to.
        Err(status) if stable_code(&status) == Some("not-attached") => {}
        Err(status) => return Err(words(status)),
    }
    let Some(there) = client_on(connect, &attachment.node).await? else {
        return Ok(None);
    };
    let device = there
        .devices()
        .open(request.clone())
        .await
        .map_err(words)?
        .into_inner();
    opened(&there, request, device).await.map(Some)
}

/// The device once it serves, or after [`OPENING`] as it is: a suspended volume may wait for long.
async fn opened(
    client: &Client,
    request: proto::OpenDeviceRequest,
    mut device: proto::Device,
) -> anyhow::Result<proto::Device> {
    let deadline = Instant::now() + OPENING;
    while !device.waiting.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
        device = client
            .devices()
            .open(request.clone())
            .await
            .map_err(words)?
            .into_inner();
    }
    Ok(device)
}

/// A client of another node's daemon, if that runs on this machine as part of the same cluster.
async fn client_on(connect: &ConnectArgs, node: &str) -> anyhow::Result<Option<Client>> {
    let Some(layout) = Layout::read(&connect.directory())? else {
        return Ok(None);
    };
    match layout.node(node) {
        Ok(node) => {
            let socket = layout.directory(node).admin_socket();
            Ok(Some(lockstep_api::connect(Target::Unix(socket)).await?))
        }
        Err(_) => Ok(None),
    }
}

impl Attached {
    fn new(volume: String, attachment: proto::Attachment, device: Option<proto::Device>) -> Self {
        let is_nbd = device
            .as_ref()
            .is_some_and(|it| it.front_end() == proto::FrontEnd::Nbd);
        let front_end = device.as_ref().and_then(|it| name_of(it.front_end()));
        let (path, waiting, passed_over) = match device {
            Some(device) => (
                Some(device.path).filter(|path| !path.is_empty()),
                device.waiting,
                device.passed_over,
            ),
            None => (None, String::new(), Vec::new()),
        };
        let (socket, device) = if is_nbd { (path, None) } else { (None, path) };
        Self {
            uri: socket.as_ref().map(|socket| uri(&volume, socket)),
            volume,
            node: attachment.node,
            attachment: attachment.id,
            socket,
            device,
            front_end,
            passed_over,
            waiting,
        }
    }

    fn text(&self) -> String {
        let Self { volume, node, .. } = self;
        let mut lines = vec![format!("Volume '{volume}' is attached to node '{node}'.")];
        if let (Some(socket), Some(uri)) = (&self.socket, &self.uri) {
            lines.push(format!("NBD: {socket}"));
            lines.push(format!("URI: {uri}"));
        } else if let Some(device) = &self.device {
            let kind = self.front_end.unwrap_or("a block device");
            lines.push(format!("Device: {device} ({kind})"));
            let reasons = self.passed_over.iter();
            lines.extend(reasons.map(|why| format!("Not {why}")));
        } else if self.waiting.is_empty() {
            lines.push(format!(
                "Its device is there: 'lockstep volume attach {volume}' on that node prints it."
            ));
        }
        if !self.waiting.is_empty() {
            lines.push(format!("Requests wait: {}", self.waiting));
            if self.socket.is_none() && self.device.is_none() {
                lines.push("Its device is made once the volume is open: ask again then.".into());
            }
        }
        lines.join("\n")
    }
}

/// A front-end as programs see it, and as it is asked for.
fn name_of(front_end: proto::FrontEnd) -> Option<&'static str> {
    match front_end {
        proto::FrontEnd::Nbd => Some("nbd"),
        proto::FrontEnd::Loop => Some("loop"),
        proto::FrontEnd::KernelNbd => Some("kernel-nbd"),
        proto::FrontEnd::Ublk => Some("ublk"),
        proto::FrontEnd::Unspecified | proto::FrontEnd::Device => None,
    }
}

/// The URI of an export on a socket, as the NBD specification writes it.
fn uri(export: &str, socket: &str) -> String {
    let mut uri = format!("nbd+unix:///{export}?socket=");
    for byte in socket.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(byte.into());
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(device: Option<proto::Device>) -> Attached {
        let attachment = proto::Attachment {
            id: "att".into(),
            node: "a1".into(),
        };
        Attached::new("pg".into(), attachment, device)
    }

    #[test]
    fn a_socket_is_printed_with_its_uri() {
        let device = proto::Device {
            front_end: proto::FrontEnd::Nbd.into(),
            path: "/my cluster/pg.sock".into(),
            waiting: "being opened".into(),
            ..Default::default()
        };
        let attached = attached(Some(device));
        assert_eq!(
            attached.text(),
            "Volume 'pg' is attached to node 'a1'.\n\
             NBD: /my cluster/pg.sock\n\
             URI: nbd+unix:///pg?socket=/my%20cluster/pg.sock\n\
             Requests wait: being opened"
        );
        let json = serde_json::to_value(&attached).expect("serialises");
        assert_eq!(json["socket"], "/my cluster/pg.sock");
        assert_eq!(json["device"], serde_json::Value::Null);
    }

    #[test]
    fn a_block_device_has_no_socket() {
        let device = proto::Device {
            front_end: proto::FrontEnd::Loop.into(),
            path: "/dev/loop7".into(),
            passed_over: vec!["kernel-nbd: the kernel has no NBD client".into()],
            ..Default::default()
        };
        let attached = attached(Some(device));
        assert_eq!(attached.socket, None);
        let text = attached.text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "Device: /dev/loop7 (loop)",
                "Not kernel-nbd: the kernel has no NBD client"
            ]
        );
        let json = serde_json::to_value(&attached).expect("serialises");
        assert_eq!(json["front_end"], "loop");
        assert_eq!(
            json["passed_over"][0],
            "kernel-nbd: the kernel has no NBD client"
        );
    }

    #[test]
    fn without_the_node_it_says_where_to_look() {
        let attached = attached(None);
        assert!(attached.text().contains("on that node prints it"));
        assert_eq!(attached.uri, None);
    }
}
