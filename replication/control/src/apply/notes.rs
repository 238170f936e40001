//! What is told to people of what was decided elsewhere: by raft's configuration, and by nodes that
//! look at certificates.

use super::{Apply, Applying, Outcome, plain};
use crate::command::Fate;
use crate::event::Severity;
use lockstep_types::NodeId;
use std::collections::BTreeMap;

/// Characters of a text of somebody else's at most.
const MOST: usize = 200;

impl Apply<'_> {
    /// Says who votes now and who did when this was last said.
    pub(super) fn note_voters(&mut self) -> Applying {
        let voters = &self.state.voters;
        let bound = voters.voting.iter();
        let now: BTreeMap<u64, NodeId> = bound
            .filter_map(|id| Some((*id, *voters.bound.get(id)?)))
            .collect();
        if now.len() != voters.voting.len() || now == voters.told {
            return Ok(Outcome::Unchanged);
        }
        let was = std::mem::replace(&mut self.state.voters.told, now.clone());
        let text = self.voters_text(&was, &now);
        let severity = match now.len() < was.len() {
            true => Severity::Warning,
            false => Severity::Info,
        };
        self.tell(severity, None, None, text);
        Ok(Outcome::Done)
    }

    fn voters_text(&self, was: &BTreeMap<u64, NodeId>, now: &BTreeMap<u64, NodeId>) -> String {
        let name = |node: &NodeId| format!("'{}'", self.state.node_name(*node));
        let votes = |node: &NodeId, them: &BTreeMap<u64, NodeId>| them.values().any(|n| n == node);
        let mut parts = Vec::new();
        for (_, node) in now.iter().filter(|(id, _)| !was.contains_key(id)) {
            parts.push(match votes(node, was) {
                true => format!("{} votes with a new log", name(node)),
                false => format!("{} votes now", name(node)),
            });
        }
        for (_, node) in was.iter().filter(|(id, _)| !now.contains_key(id)) {
            if !votes(node, now) {
                parts.push(format!("{} votes no longer", name(node)));
            }
        }
        let all: Vec<String> = now.values().map(name).collect();
        format!(
            "voters of the control plane: {}; they are {}",
            parts.join(", "),
            all.join(", ")
        )
    }

    pub(super) fn note_certificate(
        &mut self,
        teller: NodeId,
        fate: Fate,
        whose: &str,
        detail: &str,
    ) -> Applying {
        let node = self.state.node(teller)?.name.clone();
        let (whose, detail) = (plain(whose, MOST), plain(detail, MOST));
        let (severity, text) = match fate {
            Fate::Issued => (
                Severity::Info,
                format!("node '{node}' issued a certificate to {whose}, {detail}"),
            ),
            Fate::Renewed => (
                Severity::Info,
                format!("the certificate of {whose} was renewed, {detail}"),
            ),
            Fate::Refused => (
                Severity::Warning,
                format!("node '{node}' refused the certificate of {whose}: {detail}"),
            ),
            Fate::Denied => (
                Severity::Warning,
                format!("node '{node}' issued no certificate to {whose}: {detail}"),
            ),
        };
        self.tell(severity, None, Some(teller), text);
        Ok(Outcome::Done)
    }
}
