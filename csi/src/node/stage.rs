//! NodeStageVolume and NodeUnstageVolume: the block device of a publication, and its file system mounted once
//! for all pods of this node.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockstep_api::proto as admin;
use lockstep_types::VolumeId;
use tokio::task::spawn_blocking;
use tonic::{Code, Status};

use super::NodeService;
use crate::capability::{self, Access, FileSystem};
use crate::controller::ATTACHMENT;
use crate::host::filesystem::{self, Candidate, Content};
use crate::host::luks;
use crate::host::mounts::{self, Options};
use crate::host::paths::Place;
use crate::{names, parameters, proto};

/// How long the volume may take to be open here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is.
const AGAIN: Duration = Duration::from_millis(200);

impl NodeService {
    pub(super) async fn node_stage_volume(
        &self,
        request: proto::NodeStageVolumeRequest,
    ) -> Result<proto::NodeStageVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let capability = capability::read(request.volume_capability.as_ref())?;
        let place = self.place(&request.staging_target_path, "staging target path")?;
        let id = names::known_id(&request.volume_id)?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        let attachment = self.attachment(&volume, request.publish_context.get(ATTACHMENT))?;
        let raw = self.open(id, &attachment).await?;
        let candidate = Candidate {
            volume: id,
            device: &raw,
            bytes: device_bytes(&raw)?,
        };
        let unlocked = if parameters::is_encrypted(&request.volume_context)? {
            Some(self.unlock(candidate, &request.secrets).await?)
        } else {
            None
        };
        let fresh = unlocked.as_ref().is_some_and(|it| it.fresh);
        let device = unlocked.map_or_else(|| raw.clone(), |it| it.path);
        let Access::Mount {
            filesystem,
            options,
        } = capability.access
        else {
            if fresh {
                luks::done(candidate)?;
            }
            return Ok(proto::NodeStageVolumeResponse {});
        };
        let place = place.ok_or_else(|| missing(&request.staging_target_path))?;
        let options = Options::new(filesystem, &options, capability.read_only);
        if let Some(mounted) = place.mounted()? {
            let same = mounted.source == device && mounted.filesystem == filesystem.name();
            if same && mounted.read_only == options.is_read_only() {
                return Ok(proto::NodeStageVolumeResponse {});
            }
            let words = format!(
                "{} is a mount of {} already, with other properties",
                place.path().display(),
                mounted.source.display()
            );
            return Err(Status::already_exists(words));
        }
        if !options.is_read_only() {
            self.prepare(candidate, (&device, fresh), filesystem)
                .await?;
        }
        let read_only = options.is_read_only();
        mount(device.clone(), filesystem, options, place).await?;
        // A volume may have grown while it was nowhere mounted; ext4 has followed before.
        if !read_only && filesystem != FileSystem::Ext4 {
            let at = PathBuf::from(&request.staging_target_path);
            filesystem::grow(&device, filesystem, &at).await?;
        }
        Ok(proto::NodeStageVolumeResponse {})
    }

    pub(super) async fn node_unstage_volume(
        &self,
        request: proto::NodeUnstageVolumeRequest,
    ) -> Result<proto::NodeUnstageVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let place = self.place(&request.staging_target_path, "staging target path")?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        if let Some(place) = place {
            blocking(move || Ok(mounts::unmount_all(&place)?)).await?;
        }
        let done = proto::NodeUnstageVolumeResponse {};
        let Some(id) = names::id(&request.volume_id) else {
            return Ok(done); // never ours
        };
        luks::close(id).await?;
        let close = |client: lockstep_api::Client| {
            let request = admin::CloseDeviceRequest {
                volume: id.to_string(),
                attachment: String::new(),
            };
            async move { client.devices().close(request).await }
        };
        match self.daemon.ask(close).await {
            Ok(_) => Ok(done),
            Err(status) if status.code() == Code::NotFound => Ok(done),
            Err(status) => Err(status),
        }
    }

    /// Makes sure of the file system on `device`: the volume's own, or what is inside it where it is encrypted; `fresh`: that
    /// is certainly blank.
    async fn prepare(
        &self,
        candidate: Candidate<'_>,
        (device, fresh): (&Path, bool),
        filesystem: FileSystem,
    ) -> Result<(), Status> {
        let inside = Candidate {
            device,
            bytes: device_bytes(device)?,
            ..candidate
        };
        if fresh {
            filesystem::make(inside, filesystem).await?;
            luks::done(candidate)?;
        } else {
            let found = filesystem::probe(device).await?;
            // What is inside an encrypted volume that was used once is never blank.
            let blank = device == candidate.device
                && found == Content::Unknown
                && self.daemon.is_blank(candidate.volume).await?;
            filesystem::ensure(inside, found, blank, filesystem).await?;
        }
        filesystem::check(device, filesystem).await?;
        Ok(filesystem::grow_unmounted(inside, filesystem).await?)
    }

    /// Opens an encrypted volume with the keys of a call; formats one that is blank.
    async fn unlock(
        &self,
        candidate: Candidate<'_>,
        secrets: &HashMap<String, String>,
    ) -> Result<luks::Opened, Status> {
        let keys = luks::Keys::of(secrets).map_err(Status::invalid_argument)?;
        let found = filesystem::probe(candidate.device).await?;
        let blank = found == Content::Unknown && self.daemon.is_blank(candidate.volume).await?;
        Ok(luks::open(candidate, found, blank, &keys).await?)
    }

    /// The publication to this node, which must be the one that the caller was told of.
    fn attachment(&self, volume: &admin::Volume, told: Option<&String>) -> Result<String, Status> {
        let here = volume
            .attachment
            .as_ref()
            .filter(|it| *it.node == *self.name);
        let here = here.ok_or_else(|| {
            let at = volume
                .attachment
                .as_ref()
                .map_or("nowhere", |it| it.node.as_str());
            Status::failed_precondition(format!(
                "volume {} is not published to '{}' but to {at}",
                volume.id, self.name
            ))
        })?;
        if told.is_some_and(|told| *told != here.id) {
            return Err(Status::failed_precondition(format!(
                "that publication of volume {} is over; it has been published anew since",
                volume.id
            )));
        }
        Ok(here.id.clone())
    }

    /// The path of a publication's block device, once the volume is open.
    pub(super) async fn open(&self, id: VolumeId, attachment: &str) -> Result<PathBuf, Status> {
        let begin = Instant::now();
        loop {
            let open = |client: lockstep_api::Client| {
                let request = admin::OpenDeviceRequest {
                    volume: id.to_string(),
                    attachment: attachment.to_owned(),
                    front_end: admin::FrontEnd::Device.into(),
                };
                async move { client.devices().open(request).await }
            };
            let device = self.daemon.ask(open).await?;
            if device.waiting.is_empty() && !device.path.is_empty() {
                // The link in /dev/lockstep leads to the name that the kernel knows it by.
                return std::fs::canonicalize(&device.path).map_err(|error| {
                    Status::internal(format!("the device {} is gone: {error}", device.path))
                });
            }
            if begin.elapsed() > PATIENCE {
                let words = format!("volume {id} is not open here yet: {}", device.waiting);
                return Err(Status::unavailable(words));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn mount(
    device: PathBuf,
    filesystem: FileSystem,
    options: Options,
    place: Place,
) -> Result<(), Status> {
    blocking(move || {
        let target = place.make_folder()?;
        Ok(mounts::mount(&device, filesystem, &options, &target)?)
    })
    .await
}

/// Runs what may wait for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Status::internal(format!("a call ended early: {error}"))))
}

pub(super) fn missing(path: &str) -> Status {
    Status::failed_precondition(format!(
        "the folder of {path} is not there; kubelet makes it"
    ))
}

/// Bytes of a block device, as the kernel has them now.
pub(super) fn device_bytes(device: &std::path::Path) -> Result<u64, Status> {
    use std::os::unix::fs::MetadataExt;
    let failed = |error: &dyn std::fmt::Display| {
        Status::internal(format!(
            "cannot tell the size of {}: {error}",
            device.display()
        ))
    };
    let number = std::fs::metadata(device)
        .map_err(|error| failed(&error))?
        .rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let size = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"));
    let sectors = size.map_err(|error| failed(&error))?;
    let sectors: u64 = sectors.trim().parse().map_err(|error| failed(&error))?;
    // Always counted in sectors of 512 bytes.
    Ok(sectors * 512)
}
