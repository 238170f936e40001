//! NodeExpandVolume: the device has grown with its volume; its file system follows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tonic::Status;

use super::NodeService;
use super::stage::device_bytes;
use crate::host::filesystem;
use crate::host::luks;
use crate::host::paths::Kind;
use crate::{capability, names, proto};

/// How long the device may take to show the volume's size.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(100);

impl NodeService {
    pub(super) async fn node_expand_volume(
        &self,
        request: proto::NodeExpandVolumeRequest,
    ) -> Result<proto::NodeExpandVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let place = self.published(&request.volume_path)?;
        if request.volume_capability.is_some() {
            capability::read(request.volume_capability.as_ref())?;
        }
        let id = names::known_id(&request.volume_id)?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        let nothing =
            || Status::not_found(format!("no volume is published at {}", request.volume_path));
        let place = place.ok_or_else(nothing)?;
        let mounted = place.mounted()?.ok_or_else(nothing)?;
        let is_device = matches!(place.kind()?, Some(Kind::Device { .. }));
        let device = if is_device {
            place.pinned()
        } else {
            mounted.source.clone()
        };
        // An encrypted volume is a little smaller than its device, which it must be told to follow.
        let opened = luks::opened(id);
        let raw = match (&opened, &volume.attachment) {
            (Some(_), Some(here)) => self.open(id, &here.id).await?,
            _ => device.clone(),
        };
        let begin = Instant::now();
        while device_bytes(&raw)? < volume.bytes {
            if begin.elapsed() > PATIENCE {
                let words = format!(
                    "{} has not grown to {} bytes yet; ask again",
                    device.display(),
                    volume.bytes
                );
                return Err(Status::unavailable(words));
            }
            tokio::time::sleep(AGAIN).await;
        }
        if opened.is_some() {
            luks::grow(id).await?;
        }
        if !is_device && !mounted.read_only {
            let found = capability::FileSystem::of(&mounted.filesystem).ok_or_else(|| {
                Status::failed_precondition(format!("{} cannot be grown", mounted.filesystem))
            })?;
            let at = PathBuf::from(&request.volume_path);
            filesystem::grow(&device, found, &at).await?;
        }
        Ok(proto::NodeExpandVolumeResponse {
            capacity_bytes: i64::try_from(volume.bytes).unwrap_or(i64::MAX),
        })
    }
}
