//! Who holds what of a volume, why it waits, and who must return: in words.

use crate::policy;
use crate::record::{Rpo, Volume};
use crate::state::State;
use crate::view::{Report, View};
use lockstep_types::{Gap, NodeId, ReplicaId};
use std::collections::BTreeSet;

/// A volume's state as a person wants to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// In one word.
    pub status: Status,
    /// In one sentence.
    pub headline: String,
    /// Each copy.
    pub replicas: Vec<ReplicaLine>,
    /// What else there is to know: attachment, epoch, ledger, fenced devices.
    pub notes: Vec<String>,
    /// Who must return for the volume to go on, if it waits for someone.
    pub must_return: Vec<String>,
    /// What an operator can do.
    pub remedies: Vec<String>,
}

/// A volume's state in one word, the gravest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Status {
    /// After a forced rebuild: waits for a forced promotion.
    Distrusted,
    /// Requests wait, or would wait if it were attached.
    Suspended,
    /// Open, but not for clients (`strict`).
    RepairOnly,
    /// Serves with fewer certified copies than asked for.
    Degraded,
    /// Its first copies are being made.
    Creating,
    /// Its data is being deleted.
    Deleting,
    /// As asked for.
    Healthy,
}

/// One copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaLine {
    /// Its id.
    pub replica: ReplicaId,
    /// Its node's name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Whether it is in the in-sync set.
    pub certified: bool,
    /// Whether it can serve now, as far as is known.
    pub able: bool,
    /// What it is doing or why it cannot.
    pub text: String,
}

/// Explains a volume from the committed state and one node's view.
pub fn explain(state: &State, volume: &Volume, view: &View) -> Explanation {
    let replicas: Vec<_> = volume
        .replicas
        .keys()
        .map(|id| line(state, volume, *id, view))
        .collect();
    let mut explanation = Explanation {
        status: Status::Healthy,
        headline: String::new(),
        replicas,
        notes: notes(state, volume),
        must_return: Vec::new(),
        remedies: Vec::new(),
    };
    judge(state, volume, view, &mut explanation);
    explanation
}

/// What can a copy do, and if nothing, why.
fn line(state: &State, volume: &Volume, id: ReplicaId, view: &View) -> ReplicaLine {
    let replica = &volume.replicas[&id];
    let certified = volume.membership.in_sync.contains_key(&id);
    let answers = view.answering.contains(&replica.node);
    let report = view.replicas.get(&id);
    let (able, text) = match report {
        _ if replica.sealed_off => (
            false,
            "overwritten by a forced promotion: sealed, read-only until discarded by name"
                .to_owned(),
        ),
        _ if !answers => (false, "its node does not answer".to_owned()),
        None if !replica.ready => (false, "its space is being made".to_owned()),
        None => (
            certified,
            "its node answers and has not reported on it yet".to_owned(),
        ),
        Some(report) => judge_report(volume, id, report),
    };
    let mut text = text;
    if replica.leaving {
        text.push_str("; leaving once the volume holds without it");
    }
    let node = state.nodes.get(&replica.node);
    ReplicaLine {
        replica: id,
        node: state.node_name(replica.node),
        site: node.map_or_else(String::new, |node| node.site.clone()),
        certified,
        able: able && certified,
        text,
    }
}

fn judge_report(volume: &Volume, id: ReplicaId, report: &Report) -> (bool, String) {
    let replica = &volume.replicas[&id];
    let certified = volume.membership.in_sync.contains_key(&id);
    if let Some(why) = &report.failed {
        return (false, format!("its pool failed: {why}"));
    }
    if report.incarnation != replica.incarnation {
        let (has, wants) = (report.incarnation, replica.incarnation);
        return (
            false,
            format!("its data is another life ({has}) than the recorded one ({wants}): no member"),
        );
    }
    match (report.gap, certified, report.resync) {
        (Gap::Corrupt, _, _) => (
            false,
            format!("journal damaged below its mark, up to {}", report.last),
        ),
        (Gap::Suspect, true, _) => (
            true,
            format!(
                "certified, holds {}; its device failed in an earlier life: it leaves to be compared whole",
                report.last
            ),
        ),
        (Gap::Torn, true, _) => (
            true,
            format!(
                "certified, holds {}, waits to have a torn tail filled",
                report.last
            ),
        ),
        (_, true, _) => (true, format!("certified, holds {}", report.last)),
        (_, false, Some(progress)) => {
            let (done, total) = (progress.done, progress.total.max(1));
            let per_cent = u128::from(done) * 100 / u128::from(total);
            (
                false,
                format!("resync: {done} of {} extents, {per_cent} %", progress.total),
            )
        }
        (_, false, None) => (
            false,
            format!(
                "not certified, holds {}; waits for a primary to resync it",
                report.last
            ),
        ),
    }
}

/// Status, headline, who must return, what helps.
fn judge(state: &State, volume: &Volume, view: &View, to: &mut Explanation) {
    let name = &volume.name;
    let membership = &volume.membership;
    if volume.deleting {
        let left = state
            .tombstones
            .values()
            .filter(|tombstone| tombstone.volume == volume.id);
        let nodes: BTreeSet<_> = left
            .map(|tombstone| state.node_name(tombstone.node))
            .collect();
        let nodes: Vec<_> = nodes.into_iter().collect();
        to.status = Status::Deleting;
        to.headline = format!(
            "volume '{name}' is being deleted; data is left on: {}",
            nodes.join(", ")
        );
        return;
    }
    if membership.distrusted {
        to.status = Status::Distrusted;
        to.headline = format!(
            "volume '{name}' waits for an operator: the control plane was rebuilt by force"
        );
        to.remedies.push(format!(
            "lockstep recover promote-replica {name} (lists the copies and takes the newest)"
        ));
        return;
    }
    if !volume.is_ready() {
        let missing = volume.replicas.values().filter(|replica| !replica.ready);
        to.must_return = missing
            .map(|replica| state.node_name(replica.node))
            .collect();
        to.status = Status::Creating;
        to.headline = format!(
            "volume '{name}' is being made; waiting for: {}",
            to.must_return.join(", ")
        );
        return;
    }
    if !view.quorum {
        to.notes.push(
            "the control plane has no majority: nothing can be opened, attached or changed; I/O goes on only \
             while every certified copy answers"
                .into(),
        );
        to.remedies
            .push("bring back voters until a majority answers".into());
        to.remedies.push(
            "only if they are lost for good: lockstep recover rebuild-quorum, on a stopped node that is left"
                .into(),
        );
    }
    let lost: Vec<_> = to
        .replicas
        .iter()
        .filter(|line| line.certified && !line.able)
        .cloned()
        .collect();
    if !lost.is_empty() {
        judge_lost(state, volume, view, &lost, to);
    } else if let Some((status, headline)) = judge_primary(state, volume, view) {
        to.status = status;
        to.headline = headline;
    } else {
        judge_policy(state, volume, to);
    }
}

/// Certified copies that cannot serve: whether the volume can go on without them.
fn judge_lost(
    state: &State,
    volume: &Volume,
    view: &View,
    lost: &[ReplicaLine],
    to: &mut Explanation,
) {
    let name = &volume.name;
    let names: Vec<_> = lost
        .iter()
        .map(|line| format!("{} (site {})", line.node, line.site))
        .collect();
    let members: BTreeSet<_> = volume.membership.in_sync.keys().copied().collect();
    let left: BTreeSet<_> = members
        .iter()
        .copied()
        .filter(|id| lost.iter().all(|line| line.replica != *id))
        .collect();
    to.status = Status::Suspended;
    to.must_return.clone_from(&names);
    let all = names.join(", ");
    if left.is_empty() {
        to.headline = format!(
            "volume '{name}' is suspended: no certified copy can serve; one of {all} must return"
        );
        to.remedies.push(format!(
            "only if they are lost for good: lockstep recover promote-replica {name} (loses what only they hold)"
        ));
    } else if let Some(site) = policy::emptied_site(volume, &state.nodes, &members, &left) {
        to.headline = format!(
            "volume '{name}' is suspended: rpo 'strict' keeps a copy in site '{site}', and {all} does not serve"
        );
        to.remedies.push(format!(
            "add a copy in site '{site}': it is exchanged for the lost one once verified"
        ));
        to.remedies.push(format!(
            "or give up the promise: lockstep volume set-policy {name} --rpo witnessed-degrade"
        ));
    } else if !view.quorum {
        to.headline = format!(
            "volume '{name}' is suspended: {all} does not serve, and without a majority of voters it cannot be \
             removed from the in-sync set"
        );
    } else if let Some(node) = silent_attachment(volume, view) {
        let node = state.node_name(node);
        to.headline = format!(
            "volume '{name}' is suspended: it is attached to node '{node}', which does not answer; the other \
             certified copies can serve once it is detached"
        );
        to.remedies.push(format!(
            "lockstep volume detach {name}, then attach it to another node"
        ));
    } else {
        to.status = Status::Degraded;
        to.must_return.clear();
        let then = match volume.membership.primary {
            Some(_) => "it is leaving the in-sync set, I/O goes on then",
            None => "the rest can be opened",
        };
        to.headline = format!("volume '{name}': {all} does not serve; {then}");
    }
}

fn silent_attachment(volume: &Volume, view: &View) -> Option<NodeId> {
    let node = volume.membership.attachment?.node;
    (!view.answering.contains(&node)).then_some(node)
}

/// What the primary says, or its silence.
fn judge_primary(state: &State, volume: &Volume, view: &View) -> Option<(Status, String)> {
    let (name, membership) = (&volume.name, &volume.membership);
    let attachment = membership.attachment?;
    let node = state.node_name(attachment.node);
    let suspended = |why: String| {
        Some((
            Status::Suspended,
            format!("volume '{name}' is suspended: {why}"),
        ))
    };
    if !view.answering.contains(&attachment.node) {
        return suspended(format!(
            "it is attached to node '{node}', which does not answer; detach it to use it elsewhere"
        ));
    }
    if membership.primary != Some(attachment.node) || membership.caretaker {
        return suspended(format!("node '{node}' has not opened it yet"));
    }
    let report = view
        .primary
        .as_ref()
        .filter(|report| report.epoch == membership.epoch)?;
    if membership.repair_only {
        let why = report
            .waiting
            .clone()
            .unwrap_or_else(|| "a lost copy is being replaced".into());
        return Some((
            Status::RepairOnly,
            format!("volume '{name}' is open for repair only (rpo 'strict'): {why}"),
        ));
    }
    if report.open {
        return None;
    }
    suspended(
        report
            .waiting
            .clone()
            .unwrap_or_else(|| format!("node '{node}' is opening it")),
    )
}

/// All certified copies serve: whether they are as many as asked for.
fn judge_policy(state: &State, volume: &Volume, to: &mut Explanation) {
    let name = &volume.name;
    let staying = volume
        .membership
        .in_sync
        .keys()
        .filter(|id| !volume.replicas[id].leaving);
    let copies = volume.membership.in_sync.len();
    if policy::holds(
        &volume.policy,
        volume,
        &state.nodes,
        &staying.copied().collect(),
    ) {
        to.headline = format!(
            "volume '{name}' is healthy: {copies} certified copies, as '{}' asks",
            volume.policy.copies
        );
        return;
    }
    to.status = Status::Degraded;
    to.headline = format!(
        "volume '{name}' serves with {copies} certified copies; '{}' asks for more",
        volume.policy.copies
    );
    let sealed = |line: &&ReplicaLine| volume.replicas[&line.replica].sealed_off;
    let joining: Vec<_> = to
        .replicas
        .iter()
        .filter(|line| !line.certified && !sealed(line))
        .map(|line| line.node.clone())
        .collect();
    for line in to.replicas.iter().filter(sealed) {
        to.remedies.push(format!(
            "lockstep recover discard {name} --replica {}, once nothing in the overwritten copy is wanted",
            line.node
        ));
    }
    if joining.is_empty() {
        to.remedies
            .push(format!("lockstep volume add-replica {name}"));
    } else {
        to.notes
            .push(format!("not certified yet: {}", joining.join(", ")));
    }
}

fn notes(state: &State, volume: &Volume) -> Vec<String> {
    let membership = &volume.membership;
    let mut notes = Vec::new();
    let node = |id: NodeId| state.node_name(id);
    if let Some(attachment) = membership.attachment {
        notes.push(format!(
            "attached to node '{}' under {}",
            node(attachment.node),
            attachment.id
        ));
    }
    match membership.primary {
        Some(primary) if membership.caretaker => {
            notes.push(format!(
                "node '{}' is its caretaker in epoch {}",
                node(primary),
                membership.epoch
            ));
        }
        Some(primary) => notes.push(format!(
            "node '{}' is its primary in epoch {}",
            node(primary),
            membership.epoch
        )),
        None => notes.push(format!(
            "no primary; the last epoch was {}",
            membership.epoch
        )),
    }
    for (attachment, at) in &volume.fenced {
        notes.push(format!(
            "a fenced device of attachment {attachment} may still exist on node '{}'",
            node(*at)
        ));
    }
    if let Some(interval) = state.ledger.open(volume.id) {
        let since = interval
            .begin
            .map_or_else(String::new, |stamp| format!(" from stamp {stamp}"));
        notes.push(format!(
            "acknowledged writes{since} stand in site '{}' only",
            interval.site
        ));
    }
    if volume.policy.rpo == Rpo::Strict {
        notes.push(
            "rpo 'strict': writes wait rather than stand in fewer sites than promised".into(),
        );
    }
    notes
}
