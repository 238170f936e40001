//! Nodes.

use lockstep_api::proto::nodes_server::Nodes;
use lockstep_api::{error, proto, show, wish};
use lockstep_control::Command;
use tonic::{Request, Response, Status};

use super::server::Caller;
use super::{Shared, view};

#[tonic::async_trait]
impl Nodes for Shared {
    async fn list(
        &self,
        _: Request<proto::ListNodesRequest>,
    ) -> Result<Response<proto::ListNodesReply>, Status> {
        let view = view::of_cluster(self.control());
        let voters = self
            .control()
            .status()
            .await
            .map(|status| status.conf.voters)
            .unwrap_or_default();
        let state = self.control().state();
        let nodes = state.nodes.values().map(|node| {
            let mut shown = show::node(&state, node, &view);
            shown.voter = voters
                .iter()
                .any(|raft_id| state.voters.bound.get(raft_id) == Some(&node.id));
            shown
        });
        Ok(Response::new(proto::ListNodesReply {
            nodes: nodes.collect(),
        }))
    }

    async fn liveness(
        &self,
        request: Request<proto::LivenessRequest>,
    ) -> Result<Response<proto::LivenessReply>, Status> {
        let control = self.control();
        if request.into_inner().monitor {
            control.note_monitor();
        }
        let conf = control.status().await.map(|status| status.conf);
        let conf = conf.unwrap_or_default();
        let role = *control.role().borrow();
        let (heard_by, heartbeats) = (control.heard_by(), control.heartbeats());
        let me = control.node();
        let state = control.state();
        let names = |ids: &[u64]| -> Vec<String> {
            // One that has no name, because its node is gone, is heard by nobody.
            let name = |id| {
                state
                    .voters
                    .bound
                    .get(id)
                    .map(|node| state.node_name(*node))
            };
            ids.iter().map(|id| name(id).unwrap_or_default()).collect()
        };
        let nodes = state.nodes.values().map(|node| {
            let by = heard_by.get(&node.id).into_iter().flatten();
            proto::NodeLife {
                name: node.name.clone(),
                heard_by: by.map(|by| state.node_name(*by)).collect(),
                monitored: match node.id == me {
                    true => control.is_monitored(),
                    false => heartbeats.get(&node.id).is_some_and(|it| it.monitored),
                },
                cordoned: node.cordoned,
            }
        });
        Ok(Response::new(proto::LivenessReply {
            node: state.node_name(me),
            leader: role
                .leader
                .map_or_else(String::new, |id| state.node_name(id)),
            quorum: role.leader_id != 0,
            voters: names(&conf.voters),
            voters_outgoing: names(&conf.voters_outgoing),
            nodes: nodes.collect(),
        }))
    }

    async fn cordon(
        &self,
        request: Request<proto::CordonNodeRequest>,
    ) -> Result<Response<proto::CordonNodeReply>, Status> {
        let request = request.into_inner();
        let node = wish::node(&self.control().state(), &request.node)?.id;
        self.propose(Command::CordonNode {
            node,
            cordoned: request.cordoned,
        })
        .await?;
        let view = view::of_cluster(self.control());
        let state = self.control().state();
        let node = state
            .nodes
            .get(&node)
            .map(|node| show::node(&state, node, &view));
        Ok(Response::new(proto::CordonNodeReply { node }))
    }

    async fn remove(
        &self,
        request: Request<proto::RemoveNodeRequest>,
    ) -> Result<Response<proto::RemoveNodeReply>, Status> {
        let node = wish::node(&self.control().state(), &request.into_inner().node)?.id;
        // While it still has a name: who votes, now that it does not.
        self.propose(Command::NoteVoters).await?;
        self.propose(Command::RemoveNode { node }).await?;
        Ok(Response::new(proto::RemoveNodeReply {}))
    }

    async fn renew_certificate(
        &self,
        request: Request<proto::RenewCertificateRequest>,
    ) -> Result<Response<proto::RenewCertificateReply>, Status> {
        let caller = request.extensions().get::<Caller>();
        let Some(identity) = caller.and_then(|caller| caller.0) else {
            return Err(error::invalid(
                "only a node with a certificate of this cluster can have it renewed",
            ));
        };
        // One that was removed gets no new life.
        self.control()
            .state()
            .node(identity.node)
            .map_err(|e| error::rejected(&e))?;
        let (ca_certificate, certificate) =
            self.sign_for(identity, &request.into_inner().certificate_request)?;
        tracing::info!(%identity, "a certificate was renewed");
        Ok(Response::new(proto::RenewCertificateReply {
            ca_certificate,
            certificate,
        }))
    }
}
