//! What a pod uses: whose its volumes are, and whether they are for one node at a time.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1::{self, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt};
use lockstep_evict::scene::Use;
use lockstep_verdict::claims::Persistent;
use tokio::sync::Mutex;

use crate::objects;

/// Claims and PersistentVolumes, looked up once for one reading.
pub struct Handles {
    client: Client,
    seen: Mutex<BTreeMap<String, Use>>,
}

impl Handles {
    /// Nothing looked up yet.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            seen: Mutex::default(),
        }
    }

    /// The API server.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Whose a PersistentVolume is. One that is not there may be anybody's.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn of_persistent(&self, name: &str) -> anyhow::Result<Use> {
        if let Some(seen) = self.seen.lock().await.get(name) {
            return Ok(seen.clone());
        }
        let all: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = all.get_opt(name).await;
        let found = found.with_context(|| format!("reading the PersistentVolume {name}"))?;
        let used = found.as_ref().map_or(Use::Exclusive, whose);
        self.seen.lock().await.insert(name.to_owned(), used.clone());
        Ok(used)
    }

    async fn of_claim(&self, namespace: &str, name: &str) -> anyhow::Result<Use> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let found = claims.get_opt(name).await;
        let found = found.with_context(|| format!("reading the claim {namespace}/{name}"))?;
        let Some(claim) = found else {
            return Ok(Use::Exclusive);
        };
        match claim.spec.and_then(|it| it.volume_name) {
            Some(volume) if !volume.is_empty() => self.of_persistent(&volume).await,
            // Nothing is in what is not there yet.
            _ => Ok(Use::Shared),
        }
    }
}

/// What a pod uses.
///
/// # Errors
/// The API server does not answer.
pub async fn of(handles: &Handles, pod: &Pod) -> anyhow::Result<Vec<Use>> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut uses = Vec::new();
    for claim in objects::claims_of(pod) {
        uses.push(handles.of_claim(&namespace, &claim).await?);
    }
    let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter()).flatten();
    if volumes.into_iter().any(is_disk) {
        uses.push(Use::Exclusive);
    }
    Ok(uses)
}

fn whose(volume: &PersistentVolume) -> Use {
    let spec = volume.spec.as_ref();
    if let (_, Persistent::Ours(Some(_))) = objects::persistent(volume)
        && let Some(csi) = spec.and_then(|it| it.csi.as_ref())
    {
        return Use::Ours(csi.volume_handle.clone());
    }
    let mut modes = spec.iter().flat_map(|it| it.access_modes.iter()).flatten();
    match modes.any(|it| objects::ON_ONE_NODE.contains(&it.as_str())) {
        true => Use::Exclusive,
        false => Use::Shared,
    }
}

/// A disk that a pod names without a claim.
fn is_disk(volume: &v1::Volume) -> bool {
    volume.aws_elastic_block_store.is_some()
        || volume.azure_disk.is_some()
        || volume.cinder.is_some()
        || volume.fc.is_some()
        || volume.flex_volume.is_some()
        || volume.gce_persistent_disk.is_some()
        || volume.iscsi.is_some()
        || volume.photon_persistent_disk.is_some()
        || volume.portworx_volume.is_some()
        || volume.rbd.is_some()
        || volume.scale_io.is_some()
        || volume.storageos.is_some()
        || volume.vsphere_volume.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_csi::DRIVER;
    use serde_json::{Value, json};

    #[test]
    fn a_persistent_volume_is_ours_or_for_one_node_or_for_many() {
        let of = |spec: Value| {
            let volume = json!({"metadata": {"name": "pv"}, "spec": spec});
            whose(&serde_json::from_value(volume).expect("a PersistentVolume"))
        };
        let id = lockstep_types::VolumeId::from_u128(7).to_string();
        let csi = |driver: &str, handle: &str, mode: &str| {
            of(json!({"accessModes": [mode], "csi": {"driver": driver, "volumeHandle": handle}}))
        };
        assert_eq!(csi(DRIVER, &id, "ReadWriteOnce"), Use::Ours(id.clone()));
        assert_eq!(csi("other", &id, "ReadWriteOncePod"), Use::Exclusive);
        assert_eq!(csi("other", &id, "ReadWriteMany"), Use::Shared);
        // Not an id of ours: whatever it is, nothing of it can be fenced.
        assert_eq!(csi(DRIVER, "x", "ReadWriteOnce"), Use::Exclusive);
        assert_eq!(
            of(json!({"accessModes": ["ReadWriteOnce"]})),
            Use::Exclusive
        );
    }

    #[test]
    fn a_disk_without_a_claim_is_a_disk() {
        let volume = |value: Value| serde_json::from_value::<v1::Volume>(value).expect("a volume");
        let disk = json!({"name": "x", "iscsi": {"iqn": "i", "lun": 0, "targetPortal": "t"}});
        assert!(is_disk(&volume(disk)));
        assert!(!is_disk(&volume(json!({"name": "x", "emptyDir": {}}))));
    }
}
