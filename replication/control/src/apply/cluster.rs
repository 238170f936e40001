//! The cluster, its tokens, its voters, its version.

use super::{Apply, Applying, Change, Outcome, label};
use crate::Rejected;
use crate::command::Settings;
use crate::event::Severity;
use crate::state::{Cluster, MAX_TOKENS, State, Token};
use lockstep_types::{ClusterId, NodeId, NodeRole};
use std::collections::BTreeSet;

/// The longest certificate or wrapped key.
const MAX_PEM: usize = 64 * 1024;

impl State {
    /// Takes note of the raft configuration that the entry at `index` put in force: `voting` are its
    /// voters, both halves of a joint one. A data site that loses its last voter gets no replica
    /// certified before it has one again.
    ///
    /// # Panics
    /// If `index` is not above the last one applied.
    pub fn apply_configuration(&mut self, index: u64, voting: BTreeSet<u64>) {
        assert!(index > self.applied, "entries are applied once, in order");
        self.applied = index;
        self.set_voting(voting);
    }

    pub(super) fn set_voting(&mut self, voting: BTreeSet<u64>) {
        let sites = |state: &Self, ids: &BTreeSet<u64>| -> BTreeSet<String> {
            let nodes = ids
                .iter()
                .filter_map(|id| state.nodes.get(state.voters.bound.get(id)?));
            nodes.map(|node| node.site.clone()).collect()
        };
        let (before, after) = (sites(self, &self.voters.voting), sites(self, &voting));
        self.voters.voterless_sites.extend(before);
        self.voters
            .voterless_sites
            .retain(|site| !after.contains(site));
        self.voters.voting = voting;
    }
}

impl Apply<'_> {
    pub(super) fn init_cluster(
        &mut self,
        id: ClusterId,
        name: &str,
        ca_certificate: &[u8],
        sealed_ca_key: &[u8],
    ) -> Applying {
        if let Some(cluster) = &self.state.cluster {
            let same = cluster.id == id;
            let name = cluster.name.clone();
            return if same {
                Ok(Outcome::Unchanged)
            } else {
                Err(Rejected::ClusterExists { name })
            };
        }
        label("cluster name", name)?;
        self.fresh(id.as_u128(), false)?;
        if ca_certificate.len() > MAX_PEM || sealed_ca_key.len() > MAX_PEM {
            let why = format!("it has more than {MAX_PEM} bytes");
            return Err(Rejected::Bad {
                what: "certificate authority",
                text: String::new(),
                why,
            });
        }
        self.state.cluster = Some(Cluster {
            id,
            name: name.to_owned(),
            ca_certificate: ca_certificate.to_vec(),
            sealed_ca_key: sealed_ca_key.to_vec(),
        });
        self.changes.push(self.state.cluster_change());
        self.tell(
            Severity::Info,
            None,
            None,
            format!("cluster '{name}' was made"),
        );
        Ok(Outcome::Done)
    }

    pub(super) fn put_token(
        &mut self,
        id: u64,
        secret_hash: [u8; 32],
        expires_unix: u64,
        role: NodeRole,
    ) -> Applying {
        if self.state.tokens.contains_key(&id) {
            return Err(Rejected::IdUsed { id: id.into() });
        }
        let now = self.at_unix_ms / 1000;
        let live = |token: &Token| token.expires_unix > now;
        if self
            .state
            .tokens
            .values()
            .filter(|token| live(token))
            .count()
            >= MAX_TOKENS
        {
            return Err(Rejected::Limit {
                what: "join tokens",
                max: MAX_TOKENS,
            });
        }
        self.state.tokens.retain(|_, token| live(token));
        self.state.tokens.insert(
            id,
            Token {
                secret_hash,
                expires_unix,
                role,
                used_by: None,
            },
        );
        Ok(Outcome::Done)
    }

    pub(super) fn use_token(&mut self, id: u64, node: NodeId) -> Applying {
        let now = self.at_unix_ms / 1000;
        let token = self.state.tokens.get_mut(&id).ok_or(Rejected::Token)?;
        match token.used_by {
            // A joiner that lost the answer asks again.
            Some(by) if by == node => Ok(Outcome::Unchanged),
            Some(_) => Err(Rejected::Token),
            None if token.expires_unix <= now => Err(Rejected::Token),
            None => {
                token.used_by = Some(node);
                Ok(Outcome::Done)
            }
        }
    }

    /// Accepts versions this build does not know: an old voter must not decide otherwise than a new
    /// one. Its shell sees `state.version > VERSION` and stops.
    pub(super) fn set_cluster_version(&mut self, version: u32) -> Applying {
        if version < self.state.version {
            return Err(Rejected::Version {
                needed: version,
                active: self.state.version,
            });
        }
        if version == self.state.version {
            return Ok(Outcome::Unchanged);
        }
        self.state.version = version;
        self.changes.push(self.state.cluster_change());
        self.tell(
            Severity::Info,
            None,
            None,
            format!("cluster version {version} is active"),
        );
        Ok(Outcome::Done)
    }

    pub(super) fn set_settings(&mut self, settings: Settings) -> Applying {
        let share = settings.overprovision_per_cent;
        if !(10..=10_000).contains(&share) {
            let why = "10 to 10000 per cent are possible".into();
            return Err(Rejected::Bad {
                what: "over-provisioning",
                text: share.to_string(),
                why,
            });
        }
        if self.state.settings == settings {
            return Ok(Outcome::Unchanged);
        }
        self.state.settings = settings;
        self.changes.push(self.state.cluster_change());
        Ok(Outcome::Done)
    }

    /// R20: a raft id belongs to one life of one node's log.
    pub(super) fn put_voter(&mut self, raft_id: u64, node: NodeId) -> Applying {
        self.state.node(node)?;
        match self.state.voters.bound.get(&raft_id) {
            Some(bound) if *bound == node => return Ok(Outcome::Unchanged),
            Some(_) => return Err(Rejected::VoterBarred { raft_id }),
            None => {}
        }
        if raft_id == 0 || self.state.voters.barred.contains(&raft_id) {
            return Err(Rejected::VoterBarred { raft_id });
        }
        self.state.voters.bound.insert(raft_id, node);
        self.changes.push(Change::Voter { raft_id, node });
        Ok(Outcome::Done)
    }

    pub(super) fn remove_voter(&mut self, raft_id: u64) -> Applying {
        if self.state.voters.voting.contains(&raft_id) {
            let (what, by) = (format!("voter {raft_id}"), "the raft configuration".into());
            return Err(Rejected::InUse { what, by });
        }
        self.state.voters.barred.insert(raft_id);
        if self.state.voters.bound.remove(&raft_id).is_none() {
            return Ok(Outcome::Unchanged);
        }
        self.changes.push(Change::VoterGone { raft_id });
        Ok(Outcome::Done)
    }
}
