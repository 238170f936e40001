//! The copies that a volume could be opened with, and which of them to take.

use anyhow::{Context, bail};
use lockstep_api::{Client, proto};
use serde::Serialize;

use crate::connect::words;
use crate::output::{Row, table, yes};
use crate::volume::ReplicaView;
use crate::when::utc;

/// The copies of a volume as programs see them.
#[derive(Debug, Serialize)]
pub struct Candidates {
    /// Those that can be reached, the newest first.
    pub candidates: Vec<Candidate>,
    /// Those that cannot.
    pub unreachable: Vec<ReplicaView>,
    /// Why a forced promotion would be refused now; empty if it would not.
    pub refused: String,
}

/// A copy that can be reached.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The copy.
    #[serde(flatten)]
    pub copy: ReplicaView,
    /// `EPOCH:SEQUENCE` that it holds durably; empty if it has not said.
    pub last: String,
    /// Where its epochs start, oldest first.
    pub history: Vec<String>,
    /// Records that the newest has and this one lacks; none if that is not known.
    pub behind: Option<u64>,
    /// Since when it is outside the in-sync set.
    pub since_unix_ms: Option<u64>,
    /// No copy that can be reached is newer.
    pub newest: bool,
    /// Recovery lost records of it.
    pub gapped: bool,
    /// Records that it has and the newest lacks, or has otherwise.
    pub ahead: u64,
    /// Its resync was interrupted: it is a mixture of old and new.
    pub mixed: bool,
    /// Its device failed: it cannot be opened.
    pub failed: bool,
}

impl Candidates {
    /// Asks for them.
    ///
    /// # Errors
    /// There is no such volume.
    pub async fn ask(client: &Client, volume: String) -> anyhow::Result<Self> {
        let request = proto::ListCandidatesRequest { volume };
        let reply = client
            .recovery()
            .list_candidates(request)
            .await
            .map_err(words)?;
        Ok(reply.into_inner().into())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = table(&self.rows());
        if !self.refused.is_empty() {
            text.push_str(&format!(
                "\nA forced promotion would be refused: {}",
                self.refused
            ));
        }
        text
    }

    /// All copies, those that can be reached first.
    pub fn rows(&self) -> Vec<CandidateRow<'_>> {
        let reached = self.candidates.iter().map(CandidateRow::Reached);
        reached
            .chain(self.unreachable.iter().map(CandidateRow::Lost))
            .collect()
    }
}

impl From<proto::ListCandidatesReply> for Candidates {
    fn from(reply: proto::ListCandidatesReply) -> Self {
        let candidate = |candidate: proto::Candidate| Candidate {
            copy: candidate.replica.unwrap_or_default().into(),
            behind: (!candidate.last.is_empty()).then_some(candidate.behind),
            last: candidate.last,
            history: candidate.history,
            since_unix_ms: candidate.since_unix_ms,
            newest: candidate.newest,
            gapped: candidate.gapped,
            ahead: candidate.ahead,
            mixed: candidate.mixed,
            failed: candidate.failed,
        };
        Self {
            candidates: reply.candidates.into_iter().map(candidate).collect(),
            unreachable: reply.unreachable.into_iter().map(Into::into).collect(),
            refused: reply.refused,
        }
    }
}

/// The copy that is named, or the newest.
///
/// # Errors
/// It cannot be reached, or which it is is not clear.
pub fn choose<'a>(
    listed: &'a Candidates,
    volume: &str,
    named: Option<&str>,
) -> anyhow::Result<&'a Candidate> {
    if listed.candidates.is_empty() {
        bail!(
            "no copy of volume '{volume}' can be reached: start the daemon of a node that holds one"
        );
    }
    let Some(named) = named else {
        let mut newest = listed
            .candidates
            .iter()
            .filter(|candidate| candidate.newest);
        let unclear = || {
            format!(
                "which copy of volume '{volume}' is the newest is not known: name one with --replica; \
                 'lockstep recover candidates {volume}' lists them"
            )
        };
        // Copies that are equally new are equal.
        return newest.next().with_context(unclear);
    };
    let is_it = |copy: &ReplicaView| copy.id == named || copy.node == named;
    let mut found = listed
        .candidates
        .iter()
        .filter(|candidate| is_it(&candidate.copy));
    match (found.next(), found.next()) {
        (Some(candidate), None) => Ok(candidate),
        (Some(_), Some(_)) => {
            bail!("node '{named}' holds two copies of volume '{volume}': give the replica's id")
        }
        (None, _) if listed.unreachable.iter().any(is_it) => {
            bail!(
                "the copy '{named}' of volume '{volume}' cannot be reached: start its node's daemon"
            )
        }
        (None, _) => bail!(
            "volume '{volume}' has no copy '{named}': 'lockstep recover candidates {volume}' lists what there is"
        ),
    }
}

impl Candidate {
    /// What opening the volume with it means.
    pub fn warning(&self, volume: &str) -> String {
        let mut text = format!(
            "Volume '{volume}' will be what the copy on node '{}' holds. Acknowledged writes that only other\n\
             copies hold are lost; those copies stay sealed until 'lockstep recover discard' names them.",
            self.copy.node
        );
        if let Some(since) = self.since_unix_ms {
            text.push_str(&format!(
                "\nIt is outside the in-sync set since {}.",
                utc(since)
            ));
        }
        match self.behind {
            Some(behind) if behind > 0 => {
                text.push_str(&format!(
                    "\nIt lacks at least {behind} records that another copy has."
                ));
            }
            Some(_) => {}
            None => text.push_str("\nBy how much it is behind is not known."),
        }
        if self.ahead > 0 {
            text.push_str(&format!(
                "\nIt has {} records that the newest copy lacks or has otherwise.",
                self.ahead
            ));
        }
        if self.gapped {
            text.push_str("\nRecovery lost records in the middle of it.");
        }
        if self.mixed {
            text.push_str(
                "\nIts resync was interrupted: it is a mixture of old and new blocks, no image of any moment.",
            );
        }
        if !self.newest {
            text.push_str("\nIt is not the newest.");
        }
        text
    }
}

/// A copy in the table.
#[derive(Serialize)]
#[serde(untagged)]
pub enum CandidateRow<'a> {
    /// Can be reached.
    Reached(&'a Candidate),
    /// Cannot.
    Lost(&'a ReplicaView),
}

impl Row for CandidateRow<'_> {
    const COLUMNS: &'static [&'static str] = &[
        "NODE",
        "SITE",
        "REACHED",
        "IN SYNC",
        "NEWEST",
        "LAST",
        "BEHIND",
        "OUTSIDE SINCE",
        "REPLICA",
        "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        let (copy, candidate) = match self {
            Self::Reached(candidate) => (&candidate.copy, Some(*candidate)),
            Self::Lost(copy) => (*copy, None),
        };
        let known = |text: Option<String>| {
            text.filter(|text| !text.is_empty())
                .unwrap_or_else(|| "?".into())
        };
        vec![
            copy.node.clone(),
            copy.site.clone(),
            yes(candidate.is_some()),
            yes(copy.certified),
            known(candidate.map(|it| yes(it.newest))),
            known(candidate.map(|it| it.last.clone())),
            known(
                candidate
                    .and_then(|it| it.behind)
                    .map(|behind| behind.to_string()),
            ),
            candidate
                .and_then(|it| it.since_unix_ms)
                .map(utc)
                .unwrap_or_default(),
            copy.id.clone(),
            copy.text.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: &str) -> proto::Replica {
        proto::Replica {
            id: format!("id-{node}"),
            node: node.into(),
            ..Default::default()
        }
    }

    fn reply() -> proto::ListCandidatesReply {
        let candidate = |node, behind, newest| proto::Candidate {
            replica: Some(replica(node)),
            last: "4:120".into(),
            behind,
            newest,
            ..Default::default()
        };
        proto::ListCandidatesReply {
            candidates: vec![candidate("b1", 0, true), candidate("b2", 17, false)],
            unreachable: vec![replica("a1")],
            refused: String::new(),
        }
    }

    #[test]
    fn the_newest_is_taken_unless_another_is_named() {
        let listed = Candidates::from(reply());
        assert_eq!(choose(&listed, "pg", None).expect("clear").copy.node, "b1");
        assert_eq!(
            choose(&listed, "pg", Some("b2")).expect("named").copy.id,
            "id-b2"
        );
        assert_eq!(
            choose(&listed, "pg", Some("id-b1"))
                .expect("named")
                .copy
                .node,
            "b1"
        );
        for (named, expected) in [("a1", "cannot be reached"), ("c9", "has no copy 'c9'")] {
            let error = choose(&listed, "pg", Some(named))
                .expect_err(named)
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn where_the_newest_is_not_known_one_must_be_named() {
        let mut unknown = reply();
        unknown.candidates[0].newest = false;
        unknown.candidates[0].gapped = true;
        let error = choose(&Candidates::from(unknown), "pg", None)
            .expect_err("unclear")
            .to_string();
        assert!(error.contains("--replica"), "{error}");
        let mut two = reply();
        two.candidates[1].newest = true;
        let two = Candidates::from(two);
        assert_eq!(choose(&two, "pg", None).expect("equal").copy.node, "b1");
        let mut none = reply();
        none.candidates.clear();
        let error = choose(&Candidates::from(none), "pg", None)
            .expect_err("none")
            .to_string();
        assert!(
            error.contains("no copy of volume 'pg' can be reached"),
            "{error}"
        );
    }

    #[test]
    fn a_single_copy_that_is_damaged_must_be_named() {
        let mut alone = reply();
        alone.candidates.remove(0);
        alone.candidates[0].gapped = true;
        let listed = Candidates::from(alone);
        assert!(choose(&listed, "pg", None).is_err());
        let chosen = choose(&listed, "pg", Some("b2")).expect("named");
        assert!(chosen.warning("pg").contains("lost records"));
    }

    #[test]
    fn what_is_lost_is_said_before() {
        let listed = Candidates::from(reply());
        let text = listed.candidates[1].warning("pg");
        assert!(
            text.contains("lacks at least 17 records") && text.contains("It is not the newest"),
            "{text}"
        );
        let text = listed.candidates[0].warning("pg");
        assert!(
            !text.contains("lacks") && !text.contains("not the newest"),
            "{text}"
        );
        let table = listed.text();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(
            table
                .lines()
                .nth(3)
                .is_some_and(|line| line.contains("a1") && line.contains('?')),
            "{table}"
        );
    }

    #[test]
    fn what_is_not_known_is_not_said_to_be_zero() {
        let mut silent = reply();
        silent.candidates[0].last = String::new();
        let listed = Candidates::from(silent);
        assert_eq!(listed.candidates[0].behind, None);
        assert!(listed.candidates[0].warning("pg").contains("is not known"));
        let json = serde_json::to_value(&listed).expect("serialises");
        assert_eq!(json["candidates"][0]["node"], "b1");
        assert_eq!(json["candidates"][0]["behind"], serde_json::Value::Null);
    }
}
