//! Which pools' devices have failed: `pools/DEVICE.failed` in the data directory, beside the disks and
//! not on them. Whoever opens such a pool again treats what is on it as suspect, until each replica
//! durably says so itself (docs/decisions/0014).

use std::io;
use std::path::PathBuf;

use lockstep_logic::io::NodeEvent;
use lockstep_types::DeviceId;

use crate::directory::{self, Directory};

/// The marks of one data directory.
#[derive(Clone, Debug)]
pub struct Failures {
    place: PathBuf,
}

impl Failures {
    /// Of this data directory.
    pub fn of(directory: &Directory) -> Self {
        Self {
            place: directory.pools(),
        }
    }

    /// Whether the device failed, and nothing that was on it has been noted as suspect since. A mark
    /// that cannot be looked for counts as there.
    pub fn has(&self, device: DeviceId) -> bool {
        self.path(device).try_exists().unwrap_or(true)
    }

    /// Keeps what the data plane says of its devices, by a thread that may wait for a disk.
    pub fn follow(&self, event: &NodeEvent) {
        let (marks, event) = (self.clone(), event.clone());
        let told = match &event {
            NodeEvent::PoolFailed { .. } | NodeEvent::FailureNoted { .. } => {
                tokio::task::spawn_blocking(move || marks.keep(&event))
            }
            _ => return,
        };
        drop(told); // it says itself what went wrong
    }

    fn keep(&self, event: &NodeEvent) {
        let (device, kept) = match event {
            NodeEvent::PoolFailed { device, what, .. } => (*device, self.mark(*device, what)),
            NodeEvent::FailureNoted { device } => (*device, self.forget(*device)),
            _ => unreachable!("asked for these only"),
        };
        if let Err(error) = kept {
            tracing::error!(
                %device, %error,
                "whether the pool's device failed cannot be kept in the data directory: before this daemon is started again, remove the pool's replicas or replace the device"
            );
        }
    }

    fn mark(&self, device: DeviceId, what: &str) -> io::Result<()> {
        let text = format!(
            "The device of this pool failed: {what}.\nWhat is on it is compared whole before it counts again.\n"
        );
        directory::replace(&self.path(device), text.as_bytes())
    }

    fn forget(&self, device: DeviceId) -> io::Result<()> {
        match std::fs::remove_file(self.path(device)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()), // one that comes back after a power cut costs a comparison
        }
    }

    fn path(&self, device: DeviceId) -> PathBuf {
        self.place.join(format!("{device}.failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_kept_until_it_is_noted() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path());
        directory.create().expect("creates");
        let device = DeviceId::from_u128(7);
        let failed = NodeEvent::PoolFailed {
            device,
            errno: 5,
            what: "a flush failed".into(),
        };
        Failures::of(&directory).keep(&failed);
        // As a later life reads it.
        let failures = Failures::of(&directory);
        assert!(failures.has(device));
        assert!(!failures.has(DeviceId::from_u128(8)));
        for _ in 0..2 {
            failures.keep(&NodeEvent::FailureNoted { device });
            assert!(!failures.has(device));
        }
    }
}
