//! A primary's events as the node's.

use crate::io::NodeEvent;
use lockstep_protocol::PrimaryEvent;
use lockstep_types::VolumeId;

pub(crate) fn of_volume(volume: VolumeId, event: PrimaryEvent) -> NodeEvent {
    match event {
        PrimaryEvent::Opened {
            epoch,
            rolled,
            took,
        } => NodeEvent::Opened {
            volume,
            epoch,
            rolled,
            took,
        },
        PrimaryEvent::Closed { epoch } => NodeEvent::Closed { volume, epoch },
        PrimaryEvent::Evicting { replica, why } => NodeEvent::Evicting {
            volume,
            replica,
            why,
        },
        PrimaryEvent::ResyncStarted {
            replica,
            cut,
            extents,
        } => NodeEvent::ResyncStarted {
            volume,
            replica,
            cut,
            extents,
        },
        PrimaryEvent::ResyncProgress {
            replica,
            done,
            total,
            bytes,
        } => NodeEvent::ResyncProgress {
            volume,
            replica,
            done,
            total,
            bytes,
        },
        PrimaryEvent::ResyncVerified { replica, bytes } => NodeEvent::ResyncVerified {
            volume,
            replica,
            bytes,
        },
        PrimaryEvent::Repaired {
            replica,
            start,
            count,
        } => NodeEvent::Repaired {
            volume,
            replica,
            start,
            count,
        },
        PrimaryEvent::Comparison(found) => NodeEvent::Comparison { volume, found },
        PrimaryEvent::Waiting { reason } => NodeEvent::Waiting { volume, reason },
    }
}
