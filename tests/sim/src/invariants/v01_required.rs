//! V1: the committed in-sync set is a subset of required(P), for the primary of the committed epoch (R1).

use lockstep_control::State;
use lockstep_logic::Inspection;

pub fn subset(committed: &State, seen: &Inspection) -> Result<(), String> {
    for here in &seen.volumes {
        let Some(record) = committed.volumes.get(&here.volume) else {
            continue;
        };
        if !here.primary.open || here.primary.epoch != record.membership.epoch {
            continue;
        }
        if let Some(member) = record
            .membership
            .in_sync
            .keys()
            .find(|id| !here.primary.required.contains(id))
        {
            return Err(format!(
                "{:?}: {member:?} is certified, and the primary of epoch {} does not wait for it",
                here.volume, here.primary.epoch
            ));
        }
    }
    Ok(())
}
