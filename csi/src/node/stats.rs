//! NodeGetVolumeStats, NodeGetVolumeHealth, NodeGetStorageHealth: answered in time even if the volume takes no
//! request.

use std::time::Duration;

use tonic::Status;

use super::NodeService;
use super::stage::device_bytes;
use crate::controller::health;
use crate::host::paths::{Kind, Place};
use crate::{names, proto};
use proto::volume_usage::Unit;

/// How long a file system may take to say how full it is.
const PATIENCE: Duration = Duration::from_secs(4);

impl NodeService {
    pub(super) async fn node_get_volume_stats(
        &self,
        request: proto::NodeGetVolumeStatsRequest,
    ) -> Result<proto::NodeGetVolumeStatsResponse, Status> {
        names::given_id(&request.volume_id)?;
        let place = self.published(&request.volume_path)?;
        let id = names::known_id(&request.volume_id)?;
        self.daemon.volume(id).await?;
        let nothing =
            || Status::not_found(format!("no volume is published at {}", request.volume_path));
        let place = place.ok_or_else(nothing)?;
        let asked = tokio::task::spawn_blocking(move || usage(&place));
        let usage = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(usage)) => usage?.ok_or_else(nothing)?,
            Ok(Err(error)) => return Err(Status::internal(format!("it ended early: {error}"))),
            Err(_) => {
                let words = format!(
                    "volume {id} takes no request now; 'lockstep explain volume {id}' says why"
                );
                return Err(Status::unavailable(words));
            }
        };
        Ok(proto::NodeGetVolumeStatsResponse { usage })
    }

    pub(super) async fn node_get_volume_health(
        &self,
        request: proto::NodeGetVolumeHealthRequest,
    ) -> Result<proto::NodeGetVolumeHealthResponse, Status> {
        let id = names::known_id(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        Ok(proto::NodeGetVolumeHealthResponse {
            volume_health: Some(health(&volume)),
        })
    }

    /// Nothing when the daemon here is well.
    pub(super) async fn storage_health(&self) -> proto::NodeGetStorageHealthResponse {
        use proto::node_get_storage_health_response::StorageBackendHealth;
        let ill = (!self.daemon.is_healthy().await).then(|| StorageBackendHealth {
            status: proto::StorageHealthErrorType::StorageUnreachable.into(),
            reason: "DaemonNotWell".into(),
            message: format!(
                "the daemon of node '{}' does not answer, or says that it is not well",
                self.name
            ),
            volume_capability: None,
        });
        proto::NodeGetStorageHealthResponse {
            backend_health: ill.into_iter().collect(),
        }
    }
}

/// How full what is published there is; none if nothing is.
fn usage(place: &Place) -> Result<Option<Vec<proto::VolumeUsage>>, Status> {
    if place.mounted()?.is_none() {
        return Ok(None);
    }
    let bytes = |total: u64, available: Option<u64>, used: Option<u64>, unit: Unit| {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        proto::VolumeUsage {
            available: signed(available.unwrap_or(0)),
            total: signed(total),
            used: signed(used.unwrap_or(0)),
            unit: unit.into(),
        }
    };
    if let Some(Kind::Device { .. }) = place.kind()? {
        let total = device_bytes(&place.pinned())?;
        return Ok(Some(vec![bytes(total, None, None, Unit::Bytes)]));
    }
    let failed =
        |error: rustix::io::Errno| Status::internal(format!("{}: {error}", place.path().display()));
    let all = rustix::fs::statvfs(place.pinned()).map_err(failed)?;
    let block = all.f_frsize;
    Ok(Some(vec![
        bytes(
            all.f_blocks * block,
            Some(all.f_bavail * block),
            Some((all.f_blocks - all.f_bfree) * block),
            Unit::Bytes,
        ),
        bytes(
            all.f_files,
            Some(all.f_favail),
            Some(all.f_files - all.f_ffree),
            Unit::Inodes,
        ),
    ]))
}
