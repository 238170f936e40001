//! What no command may do, whoever proposes it: each rule told again in the plainest words, by what
//! the state was before and is after, and by nothing that the core itself computed.

use lockstep_control::{Command, Node, Rpo, State, Volume};
use lockstep_placement::Grammar;
use lockstep_types::{NodeId, NodeRole, ReplicaId, VolumeId};
use std::collections::BTreeSet;

/// A broken rule, and how.
pub type Broken = (&'static str, String);

/// What is remembered of the past.
#[derive(Default)]
pub struct Seen {
    volumes: BTreeSet<VolumeId>,
}

impl Seen {
    /// Looks at what a command did.
    pub fn after(
        &mut self,
        before: &State,
        command: &Command,
        good: bool,
        after: &State,
    ) -> Result<(), Broken> {
        for (id, volume) in &after.volumes {
            if let Some(was) = before.volumes.get(id) {
                never_back(was, volume)?;
                must(
                    !was.is_ready() || volume.is_ready() || volume.deleting,
                    "R11",
                    "the in-sync set became empty",
                )?;
            }
        }
        only_what_was_to_go(before, command, after)?;
        if !good {
            return Ok(());
        }
        // Asked again under the name of one that is there, the answer is that one, and nothing is made.
        if let Command::CreateVolume { volume, .. } = command
            && after.volumes.contains_key(volume)
            && !before.volumes.contains_key(volume)
        {
            must(
                self.volumes.insert(*volume),
                "R18",
                "a volume's id is used again",
            )?;
        }
        who_may_write(before, command, after)?;
        publications(before, command, after)?;
        by_force(command, after)
    }
}

fn must(holds: bool, rule: &'static str, why: &str) -> Result<(), Broken> {
    match holds {
        true => Ok(()),
        false => Err((rule, why.to_string())),
    }
}

fn never_back(was: &Volume, is: &Volume) -> Result<(), Broken> {
    must(
        is.membership.epoch >= was.membership.epoch,
        "R9",
        "an epoch went back",
    )?;
    must(is.blocks >= was.blocks, "R8", "the volume shrank")?;
    for (id, replica) in &was.replicas {
        let now = is.replicas.get(id).map(|now| now.incarnation);
        must(
            now.is_none_or(|now| now >= replica.incarnation),
            "R4",
            "an incarnation went back",
        )?;
    }
    Ok(())
}

/// R18: data is deleted only where somebody asked for that.
fn only_what_was_to_go(before: &State, command: &Command, after: &State) -> Result<(), Broken> {
    for (id, tombstone) in &after.tombstones {
        if before.tombstones.contains_key(id) {
            continue;
        }
        let leaving = before
            .volumes
            .get(&tombstone.volume)
            .and_then(|volume| volume.replicas.get(id))
            .is_some_and(|replica| replica.leaving);
        let asked = matches!(
            command,
            Command::DeleteVolume { .. }
                | Command::RemoveReplica { .. }
                | Command::MoveReplica { .. }
                | Command::DiscardSealed { .. }
        );
        must(
            leaving || asked,
            "R18",
            "a copy that nobody took away is to be deleted",
        )?;
    }
    Ok(())
}

/// R1, R4, R5, R9, R12: epochs and in-sync sets.
fn who_may_write(before: &State, command: &Command, after: &State) -> Result<(), Broken> {
    match command {
        Command::ChangeInSync { volume, .. } => {
            let (was, is) = (&before.volumes[volume], &after.volumes[volume]);
            change_of_members(before, command, was, is)?;
            let strict = was.policy.rpo == Rpo::Strict;
            let kept = owed_sites(before, was);
            let gone = &(&sites(before, was) - &sites(after, is)) & &kept;
            must(
                !strict || gone.is_empty(),
                "R9",
                "`strict` lost the last copy of a site that it keeps",
            )
        }
        Command::Promote { volume, .. } => {
            promotion(command, &before.volumes[volume], &after.volumes[volume])
        }
        _ => Ok(()),
    }
}

fn change_of_members(
    before: &State,
    command: &Command,
    was: &Volume,
    is: &Volume,
) -> Result<(), Broken> {
    let Command::ChangeInSync {
        expected,
        node,
        remove,
        add,
        ..
    } = command
    else {
        unreachable!("the caller looked");
    };
    must(
        was.membership.expected() == *expected,
        "R1",
        "made from another record than this",
    )?;
    must(
        was.membership.primary == Some(*node),
        "R1",
        "made by another than the epoch's primary",
    )?;
    for (id, incarnation) in add {
        let replica = &was.replicas[id];
        must(
            replica.incarnation == *incarnation,
            "R4",
            "another life was certified",
        )?;
        must(replica.ready, "R5", "a copy without space was certified")?;
        let site = site_of(before, replica.node);
        must(
            !before.voters.voterless_sites.contains(&site),
            "two sites",
            "a copy was certified in a site without a voter",
        )?;
    }
    let mut proposed = was.membership.in_sync.clone();
    proposed.retain(|id, _| !remove.contains(id));
    proposed.extend(add);
    must(
        is.membership.in_sync == proposed,
        "R1",
        "the in-sync set is another than the one proposed",
    )
}

fn promotion(command: &Command, was: &Volume, is: &Volume) -> Result<(), Broken> {
    let Command::Promote {
        expected,
        node,
        attachment,
        primary_silent,
        ..
    } = command
    else {
        unreachable!("the caller looked");
    };
    let record = was.membership.attachment;
    must(
        was.membership.expected() == *expected,
        "R9",
        "made from another record than this",
    )?;
    must(
        is.membership.epoch > was.membership.epoch,
        "R9",
        "a promotion without a new epoch",
    )?;
    must(
        is.membership.primary == Some(*node),
        "R9",
        "another became primary than was proposed",
    )?;
    must(
        is.membership.caretaker == attachment.is_none(),
        "R12",
        "a primary of an attachment counts as a caretaker, or the other way round",
    )?;
    let Some(named) = attachment else {
        let mut here = was.membership.in_sync.keys();
        must(
            here.any(|id| was.replicas[id].node == *node),
            "R9",
            "a caretaker without a certified copy",
        )?;
        return must(
            record.is_none() || *primary_silent,
            "R9",
            "a caretaker while the attached primary answers",
        );
    };
    must(
        record.is_some_and(|record| record.id == *named && record.node == *node),
        "R12",
        "another attachment than the record's opened the volume",
    )
}

/// R12: a device is fenced before another exists.
fn publications(before: &State, command: &Command, after: &State) -> Result<(), Broken> {
    match command {
        Command::Attach { volume, attachment } => {
            // Asked again, the same node is told of the publication that it has.
            let (was, is) = (&before.volumes[volume], &after.volumes[volume]);
            let taken = was.membership.attachment != is.membership.attachment;
            must(
                !taken || was.membership.attachment.is_none(),
                "R12",
                "a second attachment beside the first",
            )?;
            must(
                !taken || !was.fenced.values().any(|node| *node == attachment.node),
                "R12",
                "published where a fenced device still exists",
            )
        }
        Command::Detach {
            volume, attachment, ..
        } => {
            let (was, is) = (&before.volumes[volume], &after.volumes[volume]);
            let attached = was.membership.attachment;
            let ended = attached.is_some_and(|attached| attached.id == *attachment);
            let gone = is.membership.primary.is_none()
                || is.membership.epoch > was.membership.epoch
                || was.membership.caretaker;
            must(
                !ended || gone,
                "R12",
                "the epoch stays with the detached primary",
            )
        }
        _ => Ok(()),
    }
}

/// Forced recovery trusts no record and no device.
fn by_force(command: &Command, after: &State) -> Result<(), Broken> {
    match command {
        Command::RebuildGeneration { .. } => {
            for volume in after.volumes.values().filter(|volume| !volume.deleting) {
                must(
                    volume.membership.distrusted,
                    "R9",
                    "a recorded in-sync set is trusted after a rebuild",
                )?;
                must(
                    volume.membership.attachment.is_none(),
                    "R12",
                    "a device goes on after a rebuild",
                )?;
            }
            Ok(())
        }
        Command::ForcePromote {
            volume,
            replica,
            may_rejoin,
            ..
        } => {
            let is = &after.volumes[volume];
            must(
                is.membership.attachment.is_none(),
                "R12",
                "a device goes on after a forced promotion",
            )?;
            for (id, other) in &is.replicas {
                let spared = id == replica || may_rejoin.contains(id) || !other.ready;
                must(
                    spared || other.sealed_off,
                    "R9",
                    "an overwritten side may rejoin",
                )?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn site_of(state: &State, node: NodeId) -> String {
    state
        .nodes
        .get(&node)
        .map(|node| node.site.clone())
        .unwrap_or_default()
}

/// The sites that were promised a copy: those named; where copies are only counted, those of copies that
/// nobody gave up. Who takes a copy away gives it up when fewer are accepted, or once as many others as
/// were promised are certified; being marked is not enough (decision 0008).
fn owed_sites(state: &State, volume: &Volume) -> BTreeSet<String> {
    let promised = match &volume.policy.copies {
        Grammar::Sites(named) => return named.keys().cloned().collect(),
        Grammar::EachSite(_) => {
            let data = |node: &&Node| node.role == NodeRole::Data;
            return state
                .nodes
                .values()
                .filter(data)
                .map(|node| node.site.clone())
                .collect();
        }
        Grammar::Count(promised) => *promised as usize,
    };
    let stays = |id: &ReplicaId| volume.replicas.get(id).filter(|copy| !copy.leaving);
    let certified = volume.membership.in_sync.keys().filter_map(stays);
    let nodes: BTreeSet<NodeId> = certified.map(|copy| copy.node).collect();
    let enough = nodes.len() >= promised;
    volume
        .replicas
        .values()
        .filter(|copy| !copy.sealed_off)
        .filter(|copy| !copy.leaving || !copy.even_below_policy && !enough)
        .map(|copy| site_of(state, copy.node))
        .collect()
}

fn sites(state: &State, volume: &Volume) -> BTreeSet<String> {
    let members = volume.membership.in_sync.keys();
    members
        .filter_map(|id| volume.replicas.get(id))
        .map(|replica| site_of(state, replica.node))
        .collect()
}
