//! V10: windows and queues stay inside their bounds.

use lockstep_logic::Inspection;

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
