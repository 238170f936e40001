//! Forced recovery of volumes: audited, and only with names typed. That of the quorum works on a
//! stopped node: [`crate::rebuild`].

use lockstep_api::error::{self, status};
use lockstep_api::proto::recovery_server::Recovery;
use lockstep_api::{proto, wish};
use lockstep_control::candidates::{Ranked, may_rejoin};
use lockstep_control::{Command, Volume};
use lockstep_types::{Gap, VolumeId};
use tonic::{Code, Request, Response, Status};

use super::Shared;
use super::survey::{Survey, put};

#[tonic::async_trait]
impl Recovery for Shared {
    async fn list_candidates(
        &self,
        request: Request<proto::ListCandidatesRequest>,
    ) -> Result<Response<proto::ListCandidatesReply>, Status> {
        let id = self.named(&request.into_inner().volume)?;
        let volume = self.volume_now(id)?;
        let survey = self.survey(&volume).await?;
        let shown = self.shown(id)?;
        let mut unreachable = shown.replicas;
        let mut candidates = Vec::new();
        for ranked in &survey.ranked {
            let name = ranked.held.replica.to_string();
            let at = unreachable.iter().position(|replica| replica.id == name);
            if let Some(at) = at {
                let replica = unreachable.remove(at);
                candidates.push(candidate(&volume, ranked, survey.heard, replica));
            }
        }
        Ok(Response::new(proto::ListCandidatesReply {
            candidates,
            unreachable,
            refused: survey.refused,
        }))
    }

    async fn promote_replica(
        &self,
        request: Request<proto::PromoteReplicaRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let id = self.named(&request.volume)?;
        let volume = self.volume_now(id)?;
        confirm(&request.volume_name, &volume.name)?;
        let survey = self.survey(&volume).await?;
        if !survey.refused.is_empty() {
            return Err(status(
                Code::FailedPrecondition,
                "certified-copy",
                survey.refused,
            ));
        }
        let chosen = self.chosen(&volume, &survey, &request)?;
        let command = Command::ForcePromote {
            volume: id,
            // What was surveyed is what is overridden: a record that changed meanwhile refuses it.
            expected: volume.membership.expected(),
            replica: chosen.held.replica,
            incarnation: chosen.held.incarnation,
            may_rejoin: may_rejoin(&chosen.held, &survey.held()),
            operator: request.operator.clone(),
        };
        self.propose(command).await?;
        Ok(Response::new(self.shown(id)?))
    }

    async fn held_copies(
        &self,
        request: Request<proto::HeldCopiesRequest>,
    ) -> Result<Response<proto::HeldCopiesReply>, Status> {
        let volume: VolumeId = request
            .into_inner()
            .volume
            .parse()
            .map_err(|_| error::invalid("the volume's id is malformed"))?;
        let held = self.held_here(volume).await?;
        Ok(Response::new(proto::HeldCopiesReply {
            copies: held.iter().map(put).collect(),
        }))
    }

    async fn discard_sealed(
        &self,
        request: Request<proto::DiscardSealedRequest>,
    ) -> Result<Response<proto::DiscardSealedReply>, Status> {
        let request = request.into_inner();
        self.catch_up().await?;
        let command = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            confirm(&request.volume_name, &volume.name)?;
            Command::DiscardSealed {
                volume: volume.id,
                replica: wish::replica(&state, volume, &request.replica)?,
                operator: request.operator.clone(),
            }
        };
        self.propose(command).await?;
        Ok(Response::new(proto::DiscardSealedReply {}))
    }
}

impl Shared {
    fn volume_now(&self, id: VolumeId) -> Result<Volume, Status> {
        let state = self.control().state();
        Ok(state.volume(id).map_err(|e| error::rejected(&e))?.clone())
    }

    /// The copy named, or the newest; one that is not the newest wants its id typed.
    fn chosen(
        &self,
        volume: &Volume,
        survey: &Survey,
        request: &proto::PromoteReplicaRequest,
    ) -> Result<Ranked, Status> {
        let found = if request.replica.is_empty() {
            survey.ranked.iter().find(|one| one.newest)
        } else {
            let replica = wish::replica(&self.control().state(), volume, &request.replica)?;
            let mut all = survey.ranked.iter();
            all.find(|one| one.held.replica == replica)
        };
        let Some(found) = found else {
            let words = "no copy of that name can be reached and opened: 'lockstep recover candidates' lists those that can";
            return Err(status(Code::FailedPrecondition, "unreachable", words));
        };
        // It would never open, and everything else would be sealed off for it.
        if !found.held.is_whole() {
            let words = "that copy is no image of any moment: it lost journal records, was being resynced, or its device failed";
            return Err(status(Code::FailedPrecondition, "not-whole", words));
        }
        let id = found.held.replica.to_string();
        if found.newest || request.not_newest == id {
            return Ok(found.clone());
        }
        let words = format!(
            "the copy {id} is not the newest that can be reached: type its id once more to give up what it lacks"
        );
        Err(status(Code::FailedPrecondition, error::UNCONFIRMED, words))
    }
}

/// `heard` is what an unreachable copy was once heard to hold: by so much this one is behind at least.
fn candidate(
    volume: &Volume,
    ranked: &Ranked,
    heard: u64,
    replica: proto::Replica,
) -> proto::Candidate {
    let held = &ranked.held;
    let behind_heard = heard.saturating_sub(held.last.sequence.0);
    let recorded = volume.replicas.get(&held.replica);
    let history = held.history.iter();
    proto::Candidate {
        replica: Some(replica),
        last: held.last.to_string(),
        history: history
            .map(|start| format!("{}:{}", start.epoch, start.base))
            .collect(),
        behind: ranked.behind.max(behind_heard),
        ahead: ranked.ahead,
        since_unix_ms: recorded.and_then(|recorded| recorded.left_unix_ms),
        newest: ranked.newest,
        gapped: held.gap == Gap::Corrupt,
        mixed: held.cut.is_some(),
        failed: held.failed,
    }
}

fn confirm(typed: &str, name: &str) -> Result<(), Status> {
    if typed == name {
        return Ok(());
    }
    let words =
        format!("this overrides the rules of safety: type the volume's name, '{name}', to confirm");
    Err(status(Code::FailedPrecondition, error::UNCONFIRMED, words))
}
