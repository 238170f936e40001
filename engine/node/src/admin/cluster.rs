//! The cluster as a whole.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use lockstep_api::proto::cluster_server::Cluster;
use lockstep_api::{error, proto, show, wish};
use lockstep_consensus::ConfState;
use lockstep_control::{Command, Settings, State, Status as VolumeStatus, View, explain};
use lockstep_types::NodeId;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::view::Beats;
use super::{Shared, not_proposed, view};
use crate::join::token;

/// Events waiting for a slow reader.
const WAITING: usize = 256;

type EventStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<proto::Event, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for Shared {
    async fn status(
        &self,
        _: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        // Not caught up first: status must be had when there is no majority, and says so.
        let conf = self
            .control()
            .status()
            .await
            .map(|status| status.conf)
            .unwrap_or_default();
        let role = *self.control().role().borrow();
        let view = view::of_cluster(self.control());
        let state = self.control().state();
        let (counts, mut attention) = judge_volumes(self, &state);
        let voters_changing = !conf.voters_outgoing.is_empty();
        attention.extend(concerns(
            &state,
            &view,
            &self.control().without_log(),
            voters_changing,
        ));
        if !view.quorum {
            let words =
                "the control plane has no leader: nothing can be opened, attached or changed";
            attention.insert(0, words.into());
        }
        let cluster = state.cluster.as_ref();
        Ok(Response::new(proto::StatusReply {
            cluster_id: cluster.map_or_else(String::new, |cluster| cluster.id.to_string()),
            cluster_name: cluster.map_or_else(String::new, |cluster| cluster.name.clone()),
            generation: state.generation,
            version: state.version,
            node: state.node_name(self.control().node()),
            quorum: view.quorum,
            leader: role
                .leader
                .map_or_else(String::new, |id| state.node_name(id)),
            voters: voters(&conf, &state, &view),
            nodes: state.nodes.len() as u32,
            nodes_answering: state
                .nodes
                .keys()
                .filter(|id| view.answering.contains(id))
                .count() as u32,
            volumes: counts,
            attention,
            voters_changing,
        }))
    }

    async fn health(
        &self,
        _: Request<proto::HealthRequest>,
    ) -> Result<Response<proto::HealthReply>, Status> {
        let mut reasons = Vec::new();
        if self.control().role().borrow().leader_id == 0 {
            reasons.push("the control plane has no leader".to_owned());
        }
        if let Ok(bridge) = self.bridge() {
            let view = bridge.view();
            let view = view.borrow();
            let failed = view
                .pools
                .iter()
                .filter_map(|(id, failed)| Some((id, failed.as_ref()?)));
            reasons.extend(failed.map(|(id, why)| format!("pool {id} failed: {why}")));
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(proto::HealthReply {
            healthy: reasons.is_empty(),
            reasons,
            version,
        }))
    }

    async fn create_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenReply>, Status> {
        let request = request.into_inner();
        let role = wish::role(request.role)?;
        let seconds = u64::from(request.valid_seconds);
        if !(60..=604_800).contains(&seconds) {
            return Err(error::invalid(format!(
                "a token lasts 60 to 604800 seconds, not {seconds}"
            )));
        }
        let token = token::create(self.control(), role, seconds)
            .await
            .map_err(|e| {
                e.downcast().map_or_else(
                    |e: anyhow::Error| Status::internal(format!("{e:#}")),
                    not_proposed,
                )
            })?;
        let expires_unix = crate::join::found::unix_now() + seconds;
        Ok(Response::new(proto::CreateTokenReply {
            token: token.to_string(),
            expires_unix,
        }))
    }

    async fn set_settings(
        &self,
        request: Request<proto::SetSettingsRequest>,
    ) -> Result<Response<proto::SetSettingsReply>, Status> {
        self.catch_up().await?;
        let mut settings: Settings = self.control().state().settings;
        if let Some(per_cent) = request.into_inner().overprovision_per_cent {
            settings.overprovision_per_cent = per_cent;
            self.propose(Command::SetSettings(settings)).await?;
        }
        Ok(Response::new(proto::SetSettingsReply {
            overprovision_per_cent: settings.overprovision_per_cent,
        }))
    }

    type EventsStream = EventStream;

    async fn events(
        &self,
        request: Request<proto::EventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let request = request.into_inner();
        let volume = match request.volume.as_str() {
            "" => None,
            named => Some(wish::volume(&self.control().state(), named)?.id),
        };
        let (events, received) = mpsc::channel(WAITING);
        let control = self.control().clone();
        tokio::spawn(async move {
            let mut after = request.after_index;
            let mut applied = control.watch();
            loop {
                applied.borrow_and_update();
                let fresh: Vec<_> = {
                    let state = control.state();
                    let ring = if request.audit {
                        &state.audit
                    } else {
                        &state.events
                    };
                    let wanted = ring
                        .after(after)
                        .filter(|event| volume.is_none() || event.volume == volume);
                    wanted.map(|event| show::event(&state, event)).collect()
                };
                for event in fresh {
                    after = after.max(event.index);
                    if events.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if !request.follow {
                    return;
                }
                tokio::select! {
                    () = events.closed() => return,
                    changed = applied.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(Box::pin(super::volumes::Received(received))))
    }

    async fn ledger(
        &self,
        request: Request<proto::LedgerRequest>,
    ) -> Result<Response<proto::LedgerReply>, Status> {
        let named = request.into_inner().volume;
        let state = self.control().state();
        let of = match named.as_str() {
            "" => None,
            named => Some(wish::volume(&state, named)?.id),
        };
        Ok(Response::new(show::ledger(&state, of)))
    }

    async fn list_sites(
        &self,
        _: Request<proto::ListSitesRequest>,
    ) -> Result<Response<proto::ListSitesReply>, Status> {
        let view = view::of_cluster(self.control());
        let sites = show::sites(&self.control().state(), &view);
        Ok(Response::new(proto::ListSitesReply { sites }))
    }
}

/// Volumes by status, and a sentence for each that is not healthy.
fn judge_volumes(shared: &Shared, state: &State) -> (Vec<proto::StatusCount>, Vec<String>) {
    let mut counts: BTreeMap<VolumeStatus, u32> = BTreeMap::new();
    let mut attention: Vec<(VolumeStatus, String)> = Vec::new();
    let beats = Beats::of(shared.control());
    for volume in state.volumes.values() {
        let explained = explain(state, volume, &beats.volume(volume));
        *counts.entry(explained.status).or_default() += 1;
        if explained.status != VolumeStatus::Healthy {
            attention.push((explained.status, explained.headline));
        }
    }
    attention.sort();
    let counts = counts
        .into_iter()
        .map(|(status, count)| proto::StatusCount {
            status: show::status(status).into(),
            count,
        })
        .collect();
    (
        counts,
        attention.into_iter().map(|(_, text)| text).collect(),
    )
}

/// How often a watcher looks when nothing is committed.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Voters, then learners.
fn voters(conf: &ConfState, state: &State, view: &View) -> Vec<proto::Voter> {
    let voter = |raft_id: &u64, learner| {
        let bound = state.voters.bound.get(raft_id);
        let node = bound.and_then(|id| state.nodes.get(id));
        proto::Voter {
            raft_id: *raft_id,
            node: node.map_or_else(String::new, |node| node.name.clone()),
            site: node.map_or_else(String::new, |node| node.site.clone()),
            answering: node.is_some_and(|node| view.answering.contains(&node.id)),
            learner,
        }
    };
    let voters = conf.voters.iter().map(|id| voter(id, false));
    let learners = conf.learners.iter().map(|id| voter(id, true));
    voters.chain(learners).collect()
}

/// What wants attention beside volumes and a quorum that is lost.
fn concerns(
    state: &State,
    view: &View,
    without_log: &BTreeMap<NodeId, String>,
    voters_changing: bool,
) -> Vec<String> {
    let troubled = state
        .nodes
        .values()
        .filter(|node| !view.answering.contains(&node.id) || without_log.contains_key(&node.id));
    let mut concerns: Vec<String> = troubled
        .map(|node| {
            let (name, site) = (&node.name, &node.site);
            match without_log.get(&node.id) {
                None => format!("node '{name}' (site {site}) does not answer"),
                Some(why) => format!(
                    "node '{name}' (site {site}) serves its copies without its raft log ({why}): mend the disk of its data directory and restart its daemon"
                ),
            }
        })
        .collect();
    if voters_changing {
        concerns.push(
            "the voters are being exchanged: until that is done, stop none of the old ones".into(),
        );
    }
    concerns
}
