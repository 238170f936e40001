//! A volume as people and programs see it.

use lockstep_api::proto;
use lockstep_node::units::Size;
use serde::Serialize;

use crate::output::{Row, table, yes};

/// A volume as programs see it.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// In one word.
    pub status: String,
    /// In one sentence.
    pub headline: String,
    /// How many copies where: the grammar.
    pub copies: String,
    /// The narrowest level that no two copies share.
    pub fault_domain: String,
    /// What is promised when a site is gone.
    pub rpo: String,
    /// How hard pods are kept near a copy.
    pub locality: String,
    /// Decides only what has no live primary.
    pub preferred_site: Option<String>,
    /// `EPOCH`, or `GENERATION.EPOCH`.
    pub epoch: String,
    /// Of the membership record.
    pub version: u64,
    /// The primary's node; empty for none.
    pub primary: String,
    /// Whether the primary only resyncs, for no client.
    pub caretaker: bool,
    /// The node that it is attached to.
    pub attached_to: Option<String>,
    /// The id of the attachment.
    pub attachment: Option<String>,
    /// Nodes whose fenced device may still exist.
    pub fenced: Vec<String>,
    /// Its copies, by node.
    pub replicas: Vec<ReplicaView>,
}

/// A copy as programs see it.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaView {
    /// Its id.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Its pool there.
    pub pool: String,
    /// Its site.
    pub site: String,
    /// Its life.
    pub incarnation: u64,
    /// In the in-sync set.
    pub certified: bool,
    /// Can serve now, as far as is known.
    pub able: bool,
    /// Goes once the volume holds without it.
    pub leaving: bool,
    /// Overwritten by a forced promotion.
    pub sealed_off: bool,
    /// What it is doing.
    pub text: String,
    /// How far, while it is resynced.
    pub resync: Option<ResyncView>,
}

/// A resync as programs see it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ResyncView {
    /// Extents compared and, where they differed, copied.
    pub extents_done: u64,
    /// All there are.
    pub extents: u64,
    /// Bytes that had to be copied.
    pub bytes_copied: u64,
}

impl From<proto::Volume> for VolumeView {
    fn from(volume: proto::Volume) -> Self {
        let status = word(volume.status().as_str_name(), "VOLUME_STATUS_");
        let policy = volume.policy.unwrap_or_default();
        let mut replicas: Vec<ReplicaView> = volume.replicas.into_iter().map(Into::into).collect();
        replicas.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
        let (attached_to, attachment) = volume.attachment.map(|it| (it.node, it.id)).unzip();
        Self {
            id: volume.id,
            name: volume.name,
            bytes: volume.bytes,
            status,
            headline: volume.headline,
            fault_domain: word(policy.fault_domain().as_str_name(), "FAULT_DOMAIN_"),
            rpo: word(policy.rpo().as_str_name(), "RPO_"),
            locality: word(policy.locality().as_str_name(), "LOCALITY_"),
            copies: policy.copies.unwrap_or_default(),
            preferred_site: policy.preferred_site.filter(|site| !site.is_empty()),
            epoch: volume.epoch,
            version: volume.version,
            primary: volume.primary,
            caretaker: volume.caretaker,
            attached_to,
            attachment,
            fenced: volume.fenced.into_iter().map(|it| it.node).collect(),
            replicas,
        }
    }
}

impl From<proto::Replica> for ReplicaView {
    fn from(replica: proto::Replica) -> Self {
        Self {
            id: replica.id,
            node: replica.node,
            pool: replica.pool,
            site: replica.site,
            incarnation: replica.incarnation,
            certified: replica.certified,
            able: replica.able,
            leaving: replica.leaving,
            sealed_off: replica.sealed_off,
            text: replica.text,
            resync: replica.resync.map(|resync| ResyncView {
                extents_done: resync.extents_done,
                extents: resync.extents,
                bytes_copied: resync.bytes_copied,
            }),
        }
    }
}

impl Row for VolumeView {
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "SIZE",
        "STATUS",
        "COPIES",
        "IN SYNC",
        "EPOCH",
        "PRIMARY",
        "ATTACHED TO",
    ];

    fn cells(&self) -> Vec<String> {
        let certified = self.replicas.iter().filter(|replica| replica.certified);
        let certified: Vec<_> = certified.map(|replica| replica.node.as_str()).collect();
        vec![
            self.name.clone(),
            Size(self.bytes).to_string(),
            self.status.clone(),
            self.copies.clone(),
            certified.join(" "),
            self.epoch.clone(),
            self.primary.clone(),
            self.attached_to.clone().unwrap_or_default(),
        ]
    }
}

impl Row for ReplicaView {
    const COLUMNS: &'static [&'static str] =
        &["NODE", "SITE", "POOL", "IN SYNC", "REPLICA", "STATE"];

    fn cells(&self) -> Vec<String> {
        let state = match self.resync {
            Some(resync) => format!("{} ({})", self.text, resync.text()),
            None => self.text.clone(),
        };
        vec![
            self.node.clone(),
            self.site.clone(),
            self.pool.clone(),
            yes(self.certified),
            self.id.clone(),
            state,
        ]
    }
}

impl VolumeView {
    /// For people.
    pub fn text(&self) -> String {
        let primary = match (self.primary.as_str(), self.caretaker) {
            ("", _) => "no primary".to_owned(),
            (node, false) => format!("primary {node}"),
            (node, true) => format!("caretaker {node}"),
        };
        let attached = match (&self.attached_to, &self.attachment) {
            (Some(node), Some(id)) => format!("to {node}, as {id}"),
            _ => "no".into(),
        };
        let mut lines = vec![
            self.headline.clone(),
            format!("id        {}", self.id),
            format!("size      {} ({} bytes)", Size(self.bytes), self.bytes),
            format!(
                "policy    copies {}, no two in a {}, rpo {}, locality {}{}",
                self.copies,
                self.fault_domain,
                self.rpo,
                self.locality,
                self.preferred_site
                    .as_ref()
                    .map_or_else(String::new, |site| format!(", prefers site {site}")),
            ),
            format!("epoch     {}, {primary}", self.epoch),
            format!("attached  {attached}"),
        ];
        if !self.fenced.is_empty() {
            lines.push(format!(
                "fenced    devices may be left on {}",
                self.fenced.join(", ")
            ));
        }
        if !self.replicas.is_empty() {
            lines.push(table(&self.replicas));
        }
        lines.join("\n")
    }
}

impl ResyncView {
    /// In words.
    pub fn text(self) -> String {
        format!(
            "{} of {} extents, {} copied",
            self.extents_done,
            self.extents,
            Size(self.bytes_copied)
        )
    }
}

/// The name of an enum's value as people write it; empty if it is not given.
pub fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => String::new(),
        word => word.to_lowercase().replace('_', "-"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A volume of two copies, one of them being resynced.
    pub fn degraded() -> proto::Volume {
        let replica = |node: &str, certified| proto::Replica {
            id: format!("id-of-{node}"),
            node: node.into(),
            pool: "p0".into(),
            site: node[..1].into(),
            certified,
            able: certified,
            text: if certified { "serves" } else { "is resynced" }.into(),
            resync: (!certified).then_some(proto::Resync {
                extents_done: 3,
                extents: 8,
                bytes_copied: 256 << 10,
            }),
            ..Default::default()
        };
        proto::Volume {
            id: "77".into(),
            name: "pg".into(),
            bytes: 10 << 30,
            policy: Some(proto::Policy {
                copies: Some("*=1".into()),
                fault_domain: proto::FaultDomain::Node.into(),
                preferred_site: Some(String::new()),
                rpo: proto::Rpo::WitnessedDegrade.into(),
                locality: proto::Locality::Prefer.into(),
            }),
            status: proto::VolumeStatus::Degraded.into(),
            headline: "volume 'pg' serves with 1 of 2 copies".into(),
            epoch: "3".into(),
            primary: "a1".into(),
            attachment: Some(proto::Attachment {
                id: "att".into(),
                node: "a1".into(),
            }),
            // Not in order.
            replicas: vec![replica("b1", false), replica("a1", true)],
            ..Default::default()
        }
    }

    #[test]
    fn people_see_the_copies_and_how_far_they_are() {
        let text = VolumeView::from(degraded()).text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "volume 'pg' serves with 1 of 2 copies");
        assert_eq!(lines[2], "size      10GiB (10737418240 bytes)");
        assert_eq!(
            lines[3],
            "policy    copies *=1, no two in a node, rpo witnessed-degrade, locality prefer"
        );
        assert_eq!(lines[5], "attached  to a1, as att");
        assert!(lines[6].contains("IN SYNC"), "{text}");
        assert!(
            lines[7].contains("a1") && lines[7].contains("yes"),
            "{text}"
        );
        assert!(
            lines[8].contains("is resynced (3 of 8 extents, 256KiB copied)"),
            "{text}"
        );
    }

    #[test]
    fn programs_see_all_of_it() {
        let view = serde_json::to_value(VolumeView::from(degraded())).expect("serialises");
        assert_eq!(view["status"], "degraded");
        assert_eq!(view["rpo"], "witnessed-degrade");
        assert_eq!(view["preferred_site"], serde_json::Value::Null);
        assert_eq!(view["attached_to"], "a1");
        assert_eq!(view["replicas"][0]["node"], "a1");
        assert_eq!(view["replicas"][1]["resync"]["extents_done"], 3);
    }

    #[test]
    fn a_list_names_the_in_sync_set() {
        let cells = VolumeView::from(degraded()).cells();
        assert_eq!(cells.len(), VolumeView::COLUMNS.len());
        assert_eq!(cells[4], "a1");
        assert_eq!(cells[1], "10GiB");
    }

    #[test]
    fn what_is_not_given_is_empty() {
        assert_eq!(word("RPO_UNSPECIFIED", "RPO_"), "");
        assert_eq!(
            word("VOLUME_STATUS_REPAIR_ONLY", "VOLUME_STATUS_"),
            "repair-only"
        );
    }
}
