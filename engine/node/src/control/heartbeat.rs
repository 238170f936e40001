//! What every node tells every other once a second: that it answers, which log it follows, and what
//! its data plane sees. Shown to people and used to choose nodes; never to decide who may write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lockstep_types::NodeId;
use serde::{Deserialize, Serialize};

/// How often a node beats.
pub const EVERY: Duration = Duration::from_secs(1);
/// After a change of the state, for whatever else changes with it.
pub const SOON: Duration = Duration::from_millis(200);
/// A node not heard for so long does not answer.
const FRESH: Duration = Duration::from_millis(3500);

/// A health monitor that has not asked for so long is gone.
pub const MONITOR_GONE: Duration = Duration::from_millis(3500);

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The id of its raft log (R20).
    pub raft_id: u64,
    /// Minted at its start.
    pub boot: u64,
    /// The cluster generation of its state; none before it has one.
    #[serde(default)]
    pub generation: Option<u32>,
    /// When that generation was made by force; 0 if it is the first.
    #[serde(default)]
    pub rebuilt: u64,
    /// Logs that it hears from and that its generation has barred: their nodes set them aside.
    #[serde(default)]
    pub barred: Vec<u64>,
    /// Its pools.
    #[serde(default)]
    pub pools: Vec<PoolBeat>,
    /// The volumes it is primary of.
    #[serde(default)]
    pub primaries: Vec<PrimaryBeat>,
    /// The copies it holds.
    #[serde(default)]
    pub replicas: Vec<ReplicaBeat>,
    /// Why it goes on without its raft log, if it does (decision 0009). It says nothing else then, and
    /// does not count as a node that answers.
    #[serde(default)]
    pub without_log: Option<String>,
    /// The nodes that it hears, on the control plane's links or the data plane's, itself among them; empty if
    /// it does not say, as a daemon of the last release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hears: Vec<String>,
    /// A health monitor asks it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub monitored: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

/// A copy, as its node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaBeat {
    /// Its id.
    pub replica: String,
    /// Its life.
    pub incarnation: u64,
    /// The highest epoch promised, raw.
    pub promised: u64,
    /// The epoch of the last stamp durable without a gap, raw.
    pub last_epoch: u64,
    /// The sequence of that stamp.
    pub last_sequence: u64,
    /// What recovery lost: 0 nothing, 1 a torn tail, 2 flushed records.
    pub gap: u8,
    /// Its device failed.
    pub failed: bool,
}

/// A pool of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolBeat {
    /// Its id.
    pub device: String,
    /// Whether it serves; if not, why.
    pub failed: Option<String>,
}

/// A volume as its primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrimaryBeat {
    /// Its id.
    pub volume: String,
    /// The epoch, raw.
    pub epoch: u64,
    /// Whether it serves requests.
    pub open: bool,
    /// Why it does not.
    pub waiting: Option<String>,
    /// Replicas being resynced.
    #[serde(default)]
    pub resyncs: Vec<ResyncBeat>,
}

/// A resync under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResyncBeat {
    /// The replica.
    pub replica: String,
    /// Extents done.
    pub done: u64,
    /// Extents in all.
    pub total: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// All is copied and compared.
    pub verified: bool,
}

/// What was heard of every node.
#[derive(Debug)]
pub struct Heard {
    me: NodeId,
    last: BTreeMap<NodeId, Beat>,
    /// Nodes that go on without their raft log: when they said so last, and why.
    without_log: BTreeMap<NodeId, (Instant, String)>,
}

#[derive(Debug)]
struct Beat {
    at: Instant,
    /// Since when without a break.
    since: Instant,
    heartbeat: Heartbeat,
}

/// When a node was heard.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// Last.
    pub last: Instant,
    /// Since when without a break.
    pub since: Instant,
    /// The log it follows.
    pub raft_id: u64,
    /// The cluster generation of its state, if it has one, and when that was made.
    pub generation: Option<u32>,
    /// As in its heartbeat.
    pub rebuilt: u64,
}

impl Heard {
    /// Nothing yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            last: BTreeMap::new(),
            without_log: BTreeMap::new(),
        }
    }

    /// A heartbeat came.
    pub fn note(&mut self, from: NodeId, heartbeat: Heartbeat) {
        let now = Instant::now();
        if let Some(why) = heartbeat.without_log {
            self.without_log.insert(from, (now, why));
            return self.forget(from);
        }
        self.without_log.remove(&from);
        let since = match self.last.get(&from) {
            Some(beat) if now - beat.at < FRESH && beat.heartbeat.boot == heartbeat.boot => {
                beat.since
            }
            _ => now,
        };
        self.last.insert(
            from,
            Beat {
                at: now,
                since,
                heartbeat,
            },
        );
    }

    /// The link is down: what it said last no longer counts as an answer.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(beat) = self.last.get_mut(&node) {
            beat.at = beat.at.checked_sub(FRESH).unwrap_or(beat.at);
        }
    }

    /// Nodes that answer, this one among them.
    pub fn answering(&self) -> BTreeSet<NodeId> {
        let fresh = self
            .last
            .iter()
            .filter(|(_, beat)| beat.at.elapsed() < FRESH)
            .map(|(id, _)| *id);
        fresh.chain([self.me]).collect()
    }

    /// By which nodes that answer each node is heard. A node that says whom it hears hears itself.
    pub fn heard_by(&self) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let mut heard_by: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for (from, heartbeat) in self.heartbeats() {
            for node in heartbeat.hears.iter().flat_map(|it| it.parse()) {
                heard_by.entry(node).or_default().insert(from);
            }
        }
        // What this node hears itself needs no heartbeat.
        for node in self.answering().into_iter().filter(|it| *it != self.me) {
            heard_by.entry(node).or_default().insert(self.me);
        }
        heard_by
    }

    /// Nodes that run, and go on without their raft log; why.
    pub fn without_log(&self) -> BTreeMap<NodeId, String> {
        let fresh = self.without_log.iter();
        fresh
            .filter(|(_, (at, _))| at.elapsed() < FRESH)
            .map(|(node, (_, why))| (*node, why.clone()))
            .collect()
    }

    /// What a node said last, however long ago.
    pub fn last_of(&self, node: NodeId) -> Option<&Heartbeat> {
        self.last.get(&node).map(|beat| &beat.heartbeat)
    }

    /// What nodes that answer said last.
    pub fn heartbeats(&self) -> BTreeMap<NodeId, Heartbeat> {
        let fresh = self
            .last
            .iter()
            .filter(|(_, beat)| beat.at.elapsed() < FRESH);
        fresh
            .map(|(id, beat)| (*id, beat.heartbeat.clone()))
            .collect()
    }

    /// When each node was heard, those included that no longer answer.
    pub fn when(&self) -> BTreeMap<NodeId, When> {
        let when = |beat: &Beat| When {
            last: beat.at,
            since: beat.since,
            raft_id: beat.heartbeat.raft_id,
            generation: beat.heartbeat.generation,
            rebuilt: beat.heartbeat.rebuilt,
        };
        self.last
            .iter()
            .map(|(id, beat)| (*id, when(beat)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen;

    const FROZEN: &str = r#"{"raft_id":5,"boot":6,"generation":2,"rebuilt":7,"barred":[8],"pools":[{"device":"d","failed":"EIO"}],"primaries":[{"volume":"v","epoch":9,"open":true,"waiting":null,"resyncs":[{"replica":"r","done":1,"total":2,"bytes":3,"verified":false}]}],"replicas":[{"replica":"r","incarnation":10,"promised":11,"last_epoch":12,"last_sequence":13,"gap":1,"failed":false}],"without_log":null}"#;

    const FROZEN_MORE: &str = r#"{"raft_id":5,"boot":0,"generation":null,"rebuilt":0,"barred":[],"pools":[],"primaries":[],"replicas":[],"without_log":null,"hears":["n"],"monitored":true}"#;

    /// Another node may be a release behind or ahead.
    #[test]
    fn golden_text_of_a_heartbeat() {
        let heartbeat = Heartbeat {
            raft_id: 5,
            boot: 6,
            generation: Some(2),
            rebuilt: 7,
            barred: vec![8],
            pools: vec![PoolBeat {
                device: "d".into(),
                failed: Some("EIO".into()),
            }],
            primaries: vec![PrimaryBeat {
                volume: "v".into(),
                epoch: 9,
                open: true,
                waiting: None,
                resyncs: vec![ResyncBeat {
                    replica: "r".into(),
                    done: 1,
                    total: 2,
                    bytes: 3,
                    verified: false,
                }],
            }],
            replicas: vec![ReplicaBeat {
                replica: "r".into(),
                incarnation: 10,
                promised: 11,
                last_epoch: 12,
                last_sequence: 13,
                gap: 1,
                failed: false,
            }],
            without_log: None,
            ..Heartbeat::default()
        };
        let now = serde_json::to_string(&heartbeat).expect("JSON");
        frozen::assert_frozen("a heartbeat", &now, FROZEN);
        let read: Heartbeat = frozen::read("a heartbeat", serde_json::from_str(FROZEN));
        assert_eq!(read, heartbeat);
        let more = Heartbeat {
            raft_id: 5,
            hears: vec!["n".into()],
            monitored: true,
            ..Heartbeat::default()
        };
        let now = serde_json::to_string(&more).expect("JSON");
        frozen::assert_frozen("a heartbeat that says whom it hears", &now, FROZEN_MORE);
        let read: Heartbeat = frozen::read("a heartbeat", serde_json::from_str(FROZEN_MORE));
        assert_eq!(read, more);
        // The first nodes said no more, and later ones may say more.
        for text in [
            r#"{"raft_id":5,"boot":6}"#,
            r#"{"raft_id":5,"boot":6,"new":1}"#,
        ] {
            let read: Heartbeat = frozen::read("a heartbeat", serde_json::from_str(text));
            assert_eq!((read.raft_id, read.boot), (5, 6));
        }
    }

    #[test]
    fn a_node_without_its_log_is_told_of_and_does_not_answer() {
        let (me, other) = (NodeId::from_u128(1), NodeId::from_u128(2));
        let mut heard = Heard::new(me);
        heard.note(other, Heartbeat::default());
        assert_eq!(heard.answering(), [me, other].into());
        let without = Heartbeat {
            without_log: Some("EIO".into()),
            ..Heartbeat::default()
        };
        heard.note(other, without);
        assert_eq!(heard.answering(), [me].into());
        assert_eq!(heard.without_log(), [(other, "EIO".into())].into());
        // It was started again.
        heard.note(other, Heartbeat::default());
        assert_eq!(heard.answering(), [me, other].into());
        assert_eq!(heard.without_log(), BTreeMap::new());
    }

    #[test]
    fn a_node_is_heard_by_those_that_answer_and_say_so() {
        let [me, near, far] = [1, 2, 3].map(NodeId::from_u128);
        let hearing = |nodes: &[NodeId]| Heartbeat {
            hears: nodes.iter().map(ToString::to_string).collect(),
            ..Heartbeat::default()
        };
        let mut heard = Heard::new(me);
        heard.note(me, hearing(&[me]));
        heard.note(near, hearing(&[near, far]));
        let all = [
            (me, [me].into()),
            (near, [me, near].into()),
            (far, [near].into()),
        ];
        assert_eq!(heard.heard_by(), all.into());
        // One of the last release answers, and says of nobody anything, not of itself either.
        heard.note(near, Heartbeat::default());
        let two = [(me, [me].into()), (near, [me].into())];
        assert_eq!(heard.heard_by(), two.into());
        heard.note(near, hearing(&[near, far]));
        heard.forget(near);
        assert_eq!(heard.heard_by(), [(me, [me].into())].into());
    }
}
