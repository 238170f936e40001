//! `lockstep status`.

use clap::Args;
use lockstep_api::proto;
use serde::Serialize;

use crate::connect::{ConnectArgs, block_on, words};
use crate::output::Output;
use crate::volume::word;

/// `lockstep status`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockstep status
  lockstep status -o json
  lockstep status -o json | jq -e '.attention == []'      fails unless all is well")]
pub struct StatusArgs {}

#[derive(Serialize)]
struct StatusView {
    cluster: String,
    cluster_id: String,
    generation: u32,
    version: u32,
    asked: String,
    quorum: bool,
    leader: String,
    voters: Vec<VoterView>,
    voters_changing: bool,
    nodes: u32,
    nodes_answering: u32,
    volumes: Vec<CountView>,
    attention: Vec<String>,
}

#[derive(Serialize)]
struct VoterView {
    raft_id: u64,
    node: String,
    site: String,
    answering: bool,
    learner: bool,
}

#[derive(Serialize)]
struct CountView {
    status: String,
    count: u32,
}

/// Runs it.
pub fn run(
    StatusArgs {}: StatusArgs,
    connect: &ConnectArgs,
    output: &Output,
) -> anyhow::Result<()> {
    block_on(async {
        let client = connect.connect().await?;
        let reply = client
            .cluster()
            .status(proto::StatusRequest {})
            .await
            .map_err(words)?;
        let view = StatusView::from(reply.into_inner());
        output.one(&view, &view.text())
    })
}

impl From<proto::StatusReply> for StatusView {
    fn from(reply: proto::StatusReply) -> Self {
        let voter = |voter: proto::Voter| VoterView {
            raft_id: voter.raft_id,
            node: voter.node,
            site: voter.site,
            answering: voter.answering,
            learner: voter.learner,
        };
        let count = |count: proto::StatusCount| CountView {
            status: word(count.status().as_str_name(), "VOLUME_STATUS_"),
            count: count.count,
        };
        Self {
            cluster: reply.cluster_name,
            cluster_id: reply.cluster_id,
            generation: reply.generation,
            version: reply.version,
            asked: reply.node,
            quorum: reply.quorum,
            leader: reply.leader,
            voters: reply.voters.into_iter().map(voter).collect(),
            voters_changing: reply.voters_changing,
            nodes: reply.nodes,
            nodes_answering: reply.nodes_answering,
            volumes: reply.volumes.into_iter().map(count).collect(),
            attention: reply.attention,
        }
    }
}

impl StatusView {
    fn text(&self) -> String {
        let voters = self.voters.iter().filter(|voter| !voter.learner);
        let voters: Vec<String> = voters
            .map(|voter| {
                format!(
                    "{}{}",
                    voter.node,
                    if voter.answering { "" } else { " (silent)" }
                )
            })
            .collect();
        let leads = match self.quorum {
            true => format!("{} leads", self.leader),
            false => "no leader".into(),
        };
        let volumes: Vec<String> = self
            .volumes
            .iter()
            .map(|it| format!("{} {}", it.count, it.status))
            .collect();
        let generation = match self.generation {
            0 => String::new(),
            generation => format!(", generation {generation} after a forced rebuild"),
        };
        let mut lines = vec![
            format!(
                "cluster  {} ({}){generation}",
                self.cluster, self.cluster_id
            ),
            format!("nodes    {} of {} answer", self.nodes_answering, self.nodes),
            format!("voters   {}; {leads}", voters.join(" ")),
            format!(
                "volumes  {}",
                if volumes.is_empty() {
                    "none".into()
                } else {
                    volumes.join(", ")
                }
            ),
        ];
        if self.attention.is_empty() {
            lines.push("all is well".into());
        } else {
            lines.push("needs attention:".into());
            lines.extend(self.attention.iter().map(|text| format!("  {text}")));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> proto::StatusReply {
        let voter = |node: &str, answering, learner| proto::Voter {
            node: node.into(),
            answering,
            learner,
            ..Default::default()
        };
        proto::StatusReply {
            cluster_id: "c1".into(),
            cluster_name: "prod".into(),
            quorum: true,
            leader: "a1".into(),
            voters: vec![
                voter("a1", true, false),
                voter("b1", false, false),
                voter("a2", true, true),
            ],
            nodes: 3,
            nodes_answering: 2,
            volumes: vec![proto::StatusCount {
                status: proto::VolumeStatus::RepairOnly.into(),
                count: 2,
            }],
            attention: vec!["node 'b1' (site b) does not answer".into()],
            ..Default::default()
        }
    }

    #[test]
    fn people_see_who_is_silent_and_what_to_look_at() {
        assert_eq!(
            StatusView::from(reply()).text(),
            "cluster  prod (c1)\n\
             nodes    2 of 3 answer\n\
             voters   a1 b1 (silent); a1 leads\n\
             volumes  2 repair-only\n\
             needs attention:\n  \
             node 'b1' (site b) does not answer"
        );
    }

    #[test]
    fn a_rebuilt_or_leaderless_cluster_says_so() {
        let well = StatusView::from(proto::StatusReply {
            attention: Vec::new(),
            volumes: Vec::new(),
            ..reply()
        });
        let text = well.text();
        assert!(text.ends_with("volumes  none\nall is well"), "{text}");
        let rebuilt = StatusView::from(proto::StatusReply {
            generation: 2,
            quorum: false,
            ..reply()
        });
        let text = rebuilt.text();
        assert!(
            text.contains("generation 2 after a forced rebuild"),
            "{text}"
        );
        assert!(text.contains("; no leader"), "{text}");
    }

    #[test]
    fn programs_see_counts_by_name() {
        let json = serde_json::to_value(StatusView::from(reply())).expect("serialises");
        assert_eq!(json["volumes"][0]["status"], "repair-only");
        assert_eq!(json["volumes"][0]["count"], 2);
        assert_eq!(json["voters"][2]["learner"], true);
    }
}
