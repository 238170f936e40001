//! V10: windows and queues stay inside their bounds.

use crate::world::SimDisk;
use lockstep_logic::Inspection;

/// Operations under way on a device: all that clients, peers, destaging, scrub and a comparison ask for at
/// once in a small world, several times over.
const MOST_OPERATIONS: usize = 2048;

/// Bytes sequenced and not answered: the window, and one record of the largest size above it.
fn most_in_flight() -> u64 {
    crate::world::window() + lockstep_types::EXTENT as u64
}

pub fn inside(seen: &Inspection) -> Result<(), String> {
    for here in &seen.volumes {
        if here.primary.in_flight > most_in_flight() {
            return Err(format!(
                "{:?}: {} bytes in flight, at most {} may be",
                here.volume,
                here.primary.in_flight,
                most_in_flight()
            ));
        }
    }
    for pool in &seen.pools {
        if pool.fill > 65536 {
            return Err(format!("{:?}: the ring is fuller than full", pool.device));
        }
    }
    Ok(())
}

/// What a node has asked of its devices and not had back.
pub fn devices(disks: &[SimDisk]) -> Result<(), String> {
    let busy = |slot: &&SimDisk| slot.disk.in_flight() > MOST_OPERATIONS;
    match disks.iter().find(busy) {
        Some(slot) => Err(format!(
            "{:?}: {} operations under way, at most {MOST_OPERATIONS} may be",
            slot.device,
            slot.disk.in_flight()
        )),
        None => Ok(()),
    }
}
