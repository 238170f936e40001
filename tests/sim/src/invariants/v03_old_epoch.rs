//! V3: no acknowledgement and no read under epoch e after e+1 has opened.

use crate::net::NodeIndex;
use lockstep_types::{Epoch, VolumeId};
use std::collections::BTreeMap;

/// Which epochs were opened where.
#[derive(Default)]
pub struct Epochs {
    newest: BTreeMap<VolumeId, Epoch>,
    open: BTreeMap<(NodeIndex, VolumeId), Epoch>,
}

impl Epochs {
    pub fn opened(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        epoch: Epoch,
    ) -> Result<(), String> {
        let newest = self.newest.entry(volume).or_default();
        if *newest == epoch {
            return Err(format!("epoch {epoch} of {volume:?} was opened twice"));
        }
        *newest = epoch.max(*newest);
        self.open.insert((node, volume), epoch);
        Ok(())
    }

    pub fn closed(&mut self, node: NodeIndex, volume: VolumeId) {
        self.open.remove(&(node, volume));
    }

    pub fn process_gone(&mut self, node: NodeIndex) {
        self.open.retain(|(whose, _), _| *whose != node);
    }

    pub fn answered(&self, node: NodeIndex, volume: VolumeId) -> Result<(), String> {
        let newest = self.newest.get(&volume).copied().unwrap_or_default();
        match self.open.get(&(node, volume)) {
            Some(epoch) if *epoch == newest => Ok(()),
            Some(epoch) => Err(format!(
                "answered a request of {volume:?} under epoch {epoch} although {newest} has opened"
            )),
            None => Err(format!(
                "answered a request of {volume:?} without having opened an epoch"
            )),
        }
    }
}
