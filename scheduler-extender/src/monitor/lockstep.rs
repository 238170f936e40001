//! What Lockstep says: who is heard, and what is attached to a node.

use lockstep_api::{Client, proto};
use lockstep_csi::daemon::Daemon;
use lockstep_evict::evidence::{Life, Member};
use lockstep_evict::scene::Attachment;
use tonic::Status;

/// Volumes in one answer.
const PAGE: u32 = 1000;

/// Who is heard. The daemon asked tells the others that it has a monitor.
///
/// # Errors
/// It does not answer.
pub async fn life(daemon: &Daemon) -> Result<Life, Status> {
    let ask = |client: Client| async move {
        let request = proto::LivenessRequest { monitor: true };
        client.nodes().liveness(request).await
    };
    let reply = daemon.ask(ask).await?;
    let member = |node: proto::NodeLife| {
        let member = Member {
            heard_by: node.heard_by.into_iter().collect(),
            monitored: node.monitored,
            cordoned: node.cordoned,
        };
        (node.name, member)
    };
    Ok(Life {
        node: reply.node,
        leader: reply.leader,
        quorum: reply.quorum,
        voters: reply.voters,
        voters_outgoing: reply.voters_outgoing,
        members: reply.nodes.into_iter().map(member).collect(),
    })
}

/// What is attached to a node, as a majority has it.
///
/// # Errors
/// The daemon does not answer, or has no majority behind it.
pub async fn attachments(daemon: &Daemon, node: &str) -> Result<Vec<Attachment>, Status> {
    let (mut attachments, mut page) = (Vec::new(), String::new());
    loop {
        let from = page.clone();
        let list = |client: Client| {
            let request = proto::ListVolumesRequest {
                page: from.clone(),
                limit: PAGE,
            };
            async move { client.volumes().list(request).await }
        };
        let reply = daemon.ask(list).await?;
        for volume in reply.volumes {
            if let Some(attachment) = volume.attachment.filter(|it| it.node == node) {
                attachments.push(Attachment {
                    volume: volume.id,
                    id: attachment.id,
                });
            }
        }
        if reply.next_page.is_empty() {
            return Ok(attachments);
        }
        page = reply.next_page;
    }
}

/// Ends a publication whether or not its node helps: what ControllerUnpublishVolume does.
///
/// # Errors
/// The daemon's.
pub async fn fence(
    daemon: &Daemon,
    node: &str,
    volume: &str,
    attachment: &str,
) -> Result<(), Status> {
    let detach = |client: Client| {
        let request = proto::DetachVolumeRequest {
            volume: volume.to_owned(),
            attachment: attachment.to_owned(),
            node: node.to_owned(),
            force: true,
        };
        async move { client.volumes().detach(request).await }
    };
    daemon.ask(detach).await.map(drop)
}
