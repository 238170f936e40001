//! Volumes: made, listed, attached, detached, grown, deleted, explained, watched.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lockstep_api::error::{self, status};
use lockstep_api::proto::volumes_server::Volumes;
use lockstep_api::{proto, show, wish};
use lockstep_control::{Attachment, Command, NewReplica, Outcome};
use lockstep_types::{AttachmentId, Incarnation, LineageId, NodeId, ReplicaId, VolumeId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::cluster::LOOK;
use super::view::{self, Beats};
use super::{Shared, forward};
use crate::mint;

type ProgressStream =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<proto::VolumeProgress, Status>> + Send>>;

/// A client that has just closed its connection is gone by then.
const LEAVING: Duration = Duration::from_secs(1);

/// A channel as a stream of replies.
pub(super) struct Received<T>(pub(super) mpsc::Receiver<T>);

impl<T> tokio_stream::Stream for Received<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

#[tonic::async_trait]
impl Volumes for Shared {
    async fn create(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeReply>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let command = self.new_volume(&request)?;
        let Outcome::Volume { id, created } = self.propose(command).await? else {
            return Err(Status::internal(
                "a volume was made and its id is not known",
            ));
        };
        let wait = Duration::from_secs(request.wait_seconds.into());
        self.wait(wait, |shared| {
            let state = shared.control().state();
            state
                .volumes
                .get(&id)
                .is_none_or(lockstep_control::Volume::is_ready)
        })
        .await;
        Ok(Response::new(proto::CreateVolumeReply {
            volume: Some(self.shown(id)?),
            created,
        }))
    }

    async fn list(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesReply>, Status> {
        let request = request.into_inner();
        let after = match request.page.as_str() {
            "" => None,
            page => Some(
                page.parse::<VolumeId>()
                    .map_err(|e| error::invalid(e.to_string()))?,
            ),
        };
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit as usize
        };
        let ids: Vec<VolumeId> = {
            let state = self.control().state();
            state
                .volumes
                .keys()
                .filter(|id| after.is_none_or(|after| **id > after))
                .copied()
                .collect()
        };
        let next_page = ids
            .get(limit)
            .map_or_else(String::new, |_| ids[limit - 1].to_string());
        let beats = Beats::of(self.control());
        let volumes = ids
            .into_iter()
            .take(limit)
            .filter_map(|id| self.shown_by(&beats, id).ok())
            .collect();
        Ok(Response::new(proto::ListVolumesReply {
            volumes,
            next_page,
        }))
    }

    async fn show(
        &self,
        request: Request<proto::ShowVolumeRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let id = self.named(&request.into_inner().volume)?;
        Ok(Response::new(self.shown(id)?))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeReply>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let volume = self.named(&request.volume)?;
        self.propose(Command::DeleteVolume { volume }).await?;
        let wait = Duration::from_secs(request.wait_seconds.into());
        self.wait(wait, |shared| {
            !shared.control().state().volumes.contains_key(&volume)
        })
        .await;
        Ok(Response::new(proto::DeleteVolumeReply {}))
    }

    async fn attach(
        &self,
        request: Request<proto::AttachVolumeRequest>,
    ) -> Result<Response<proto::AttachVolumeReply>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let volume = self.named(&request.volume)?;
        let node = match request.node.as_str() {
            "" => self.control().node(),
            named => wish::node(&self.control().state(), named)?.id,
        };
        if node != self.control().node() {
            let target = self
                .control()
                .state()
                .node(node)
                .map_err(|e| error::rejected(&e))?
                .clone();
            let there = proto::AttachVolumeRequest {
                volume: volume.to_string(),
                node: node.to_string(),
            };
            return forward::client_of(self, &target)
                .await?
                .volumes()
                .attach(there)
                .await;
        }
        let attachment = self.attach_here(volume).await?;
        let shown = proto::Attachment {
            id: attachment.id.to_string(),
            node: self.control().state().node_name(attachment.node),
        };
        Ok(Response::new(proto::AttachVolumeReply {
            attachment: Some(shown),
        }))
    }

    async fn detach(
        &self,
        request: Request<proto::DetachVolumeRequest>,
    ) -> Result<Response<proto::DetachVolumeReply>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let volume = self.named(&request.volume)?;
        let current = self
            .control()
            .state()
            .volumes
            .get(&volume)
            .and_then(|v| v.membership.attachment);
        let wanted = |attachment: &Attachment| {
            let id = attachment.id.to_string();
            let node = attachment.node.to_string();
            let name = self.control().state().node_name(attachment.node);
            (request.attachment.is_empty() || request.attachment == id)
                && (request.node.is_empty() || request.node == node || request.node == name)
        };
        let Some(attachment) = current.filter(wanted) else {
            // It is so already.
            return Ok(Response::new(proto::DetachVolumeReply {}));
        };
        self.detach_from(volume, attachment, request.force).await?;
        Ok(Response::new(proto::DetachVolumeReply {}))
    }

    async fn is_blank(
        &self,
        request: Request<proto::IsBlankRequest>,
    ) -> Result<Response<proto::IsBlankReply>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let volume = self.named(&request.volume)?;
        let blank = match request.here {
            true => self.blank_here(volume).await?,
            false => Some(self.blank_anywhere(volume).await?),
        };
        Ok(Response::new(proto::IsBlankReply { blank }))
    }

    async fn capacity(
        &self,
        request: Request<proto::CapacityRequest>,
    ) -> Result<Response<proto::CapacityReply>, Status> {
        self.largest(&request.into_inner()).map(Response::new)
    }

    async fn resize(
        &self,
        request: Request<proto::ResizeVolumeRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let volume = self.named(&request.volume)?;
        let blocks = wish::blocks(request.bytes)?;
        self.propose(Command::ResizeVolume { volume, blocks })
            .await?;
        Ok(Response::new(self.shown(volume)?))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainVolumeRequest>,
    ) -> Result<Response<proto::Explanation>, Status> {
        let id = self.named(&request.into_inner().volume)?;
        let state = self.control().state();
        let volume = state.volume(id).map_err(|e| error::rejected(&e))?;
        let view = view::of_volume(self.control(), volume);
        Ok(Response::new(show::explanation(&state, volume, &view)))
    }

    async fn set_policy(
        &self,
        request: Request<proto::SetPolicyRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let (volume, policy) = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            (
                volume.id,
                wish::changed_policy(&volume.policy, &request.policy.unwrap_or_default())?,
            )
        };
        self.propose(Command::SetPolicy { volume, policy }).await?;
        self.add_what_lacks(volume).await?;
        Ok(Response::new(self.shown(volume)?))
    }

    async fn add_replica(
        &self,
        request: Request<proto::AddReplicaRequest>,
    ) -> Result<Response<proto::ReplicaReply>, Status> {
        self.add_one(request.into_inner()).await.map(Response::new)
    }

    async fn move_replica(
        &self,
        request: Request<proto::MoveReplicaRequest>,
    ) -> Result<Response<proto::ReplicaReply>, Status> {
        self.move_one(request.into_inner()).await.map(Response::new)
    }

    async fn remove_replica(
        &self,
        request: Request<proto::RemoveReplicaRequest>,
    ) -> Result<Response<proto::ReplicaReply>, Status> {
        self.remove_one(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn keep_replica(
        &self,
        request: Request<proto::KeepReplicaRequest>,
    ) -> Result<Response<proto::ReplicaReply>, Status> {
        self.keep_one(request.into_inner()).await.map(Response::new)
    }

    type WatchStream = ProgressStream;

    async fn watch(
        &self,
        request: Request<proto::WatchVolumeRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        let request = request.into_inner();
        let id = self.named(&request.volume)?;
        let (progress, received) = mpsc::channel(16);
        let shared = self.clone();
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let volume = shared.shown(id);
                let ended = volume.is_err();
                let healthy =
                    matches!(&volume, Ok(v) if v.status() == proto::VolumeStatus::Healthy);
                let item = volume.map(|volume| proto::VolumeProgress {
                    at_unix_ms: crate::join::found::unix_now() * 1000,
                    volume: Some(volume),
                });
                let shown = item.as_ref().ok().and_then(|item| item.volume.clone());
                if (shown != last || ended) && progress.send(item).await.is_err() {
                    return;
                }
                last = shown;
                if ended || (healthy && request.until_healthy) {
                    return;
                }
                tokio::select! {
                    () = progress.closed() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Ok(Response::new(Box::pin(Received(received))))
    }
}

impl Shared {
    /// The volume called so.
    pub(super) fn named(&self, named: &str) -> Result<VolumeId, Status> {
        Ok(wish::volume(&self.control().state(), named)?.id)
    }

    /// A volume with what is known of it.
    pub(super) fn shown(&self, id: VolumeId) -> Result<proto::Volume, Status> {
        self.shown_by(&Beats::of(self.control()), id)
    }

    fn shown_by(&self, beats: &Beats, id: VolumeId) -> Result<proto::Volume, Status> {
        let state = self.control().state();
        let volume = state.volume(id).map_err(|e| error::rejected(&e))?;
        Ok(show::volume(&state, volume, &beats.volume(volume)))
    }

    /// Waits for at most `patience` until the state satisfies.
    pub(super) async fn wait(&self, patience: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + patience;
        let mut applied = self.control().watch();
        loop {
            applied.borrow_and_update();
            if done(self)
                || tokio::time::timeout_at(deadline, applied.changed())
                    .await
                    .is_err()
            {
                return;
            }
        }
    }

    /// The command that makes a volume as wished, with its copies placed.
    fn new_volume(&self, request: &proto::CreateVolumeRequest) -> Result<Command, Status> {
        let blocks = wish::blocks(request.bytes)?;
        let policy = wish::new_policy(&request.policy.clone().unwrap_or_default())?;
        let state = self.control().state();
        let local = wish::local(&state, &request.local_node, request.local_required)?;
        // The same name and wish give the same volume, wherever its copies are.
        let existing = state.volume_named(&request.name);
        let replicas = match existing {
            Some(volume) => volume
                .replicas
                .iter()
                .map(|(id, held)| NewReplica {
                    replica: *id,
                    node: held.node,
                    device: held.device,
                    incarnation: held.incarnation,
                })
                .collect(),
            None => state
                .place(&policy, blocks, local, &self.control().answering())
                .map_err(|refusal| error::unplaced(&refusal))?
                .into_iter()
                .map(|choice| new_replica(choice.node, choice.device))
                .collect(),
        };
        Ok(Command::CreateVolume {
            volume: VolumeId::from_u128(mint::id()),
            name: request.name.clone(),
            blocks,
            lineage: LineageId::from_u128(mint::id()),
            policy,
            replicas,
        })
    }

    async fn attach_here(&self, volume: VolumeId) -> Result<Attachment, Status> {
        let bridge = self.bridge()?;
        let me = self.control().node();
        let current = self
            .control()
            .state()
            .volumes
            .get(&volume)
            .and_then(|v| v.membership.attachment);
        match current {
            Some(attachment) if attachment.node == me => return Ok(attachment),
            Some(attachment) => {
                let node = self.control().state().node_name(attachment.node);
                return Err(error::rejected(&lockstep_control::Rejected::Attached {
                    node,
                }));
            }
            None => {}
        }
        let id = AttachmentId::from_u128(mint::id());
        bridge
            .attach(volume, id)
            .await
            .map_err(|why| status(Code::FailedPrecondition, "not-attached", why))?;
        Ok(Attachment { id, node: me })
    }

    async fn detach_from(
        &self,
        volume: VolumeId,
        attachment: Attachment,
        force: bool,
    ) -> Result<(), Status> {
        let me = self.control().node();
        if attachment.node == me
            && let Ok(bridge) = self.bridge()
        {
            self.end_use(volume, attachment.id, force).await?;
            return bridge
                .detach(volume, attachment.id)
                .await
                .map_err(|why| status(Code::FailedPrecondition, "not-detached", why));
        }
        let answers = self.control().answering().contains(&attachment.node);
        let target = self.control().state().nodes.get(&attachment.node).cloned();
        if answers && let Some(target) = target {
            let there = proto::DetachVolumeRequest {
                volume: volume.to_string(),
                attachment: attachment.id.to_string(),
                node: String::new(),
                force,
            };
            match forward::client_of(self, &target).await {
                Ok(client) => match client.volumes().detach(there).await {
                    Err(status) if status.code() == Code::Unavailable => {}
                    other => return other.map(drop),
                },
                Err(status) => tracing::info!(%status, "detaching without the node's help"),
            }
        }
        // Without the node's help: its device may still exist, and is fenced (R12).
        self.propose(Command::Detach {
            volume,
            attachment: attachment.id,
            device_gone: false,
        })
        .await
        .map(drop)
    }
}

impl Shared {
    /// Until nobody uses what is to be detached from this node; refused while somebody does, unless
    /// forced: then their I/O fails.
    async fn end_use(
        &self,
        volume: VolumeId,
        attachment: AttachmentId,
        force: bool,
    ) -> Result<(), Status> {
        if force {
            self.devices()?.force_close(attachment).await;
            return Ok(());
        }
        self.close_device(attachment).await?;
        let deadline = Instant::now() + LEAVING;
        loop {
            let clients = self.bridge()?.clients(volume).await;
            if clients == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                let words = format!(
                    "the volume is in use: {clients} NBD client(s) have it open; end them first, or detach with --force, which fails their I/O"
                );
                return Err(status(Code::FailedPrecondition, "in-use", words));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A copy to be made.
pub(super) fn new_replica(node: NodeId, device: lockstep_types::DeviceId) -> NewReplica {
    NewReplica {
        replica: ReplicaId::from_u128(mint::id()),
        node,
        device,
        incarnation: Incarnation(mint::number()),
    }
}
