//! NodePublishVolume and NodeUnpublishVolume: what is staged, shown to a pod.

use std::os::fd::AsFd;
use tonic::Status;

use super::NodeService;
use super::stage::{blocking, missing};
use crate::capability::{self, Access};
use crate::host::luks;
use crate::host::mountinfo;
use crate::host::mounts;
use crate::host::paths::{Kind, Place};
use crate::{names, parameters, proto};

impl NodeService {
    pub(super) async fn node_publish_volume(
        &self,
        request: proto::NodePublishVolumeRequest,
    ) -> Result<proto::NodePublishVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let capability = capability::read(request.volume_capability.as_ref())?;
        let target = self.place(&request.target_path, "target path")?;
        let staged = self.place(&request.staging_target_path, "staging target path")?;
        let id = names::known_id(&request.volume_id)?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        let target = target.ok_or_else(|| missing(&request.target_path))?;
        let here = volume.attachment.filter(|it| *it.node == *self.name);
        let Some(here) = here else {
            let words = format!("volume {id} is not published to '{}'", self.name);
            return Err(Status::failed_precondition(words));
        };
        let read_only = request.readonly || capability.read_only;
        let raw = self.open(id, &here.id).await?;
        let device = if parameters::is_encrypted(&request.volume_context)? {
            luks::opened(id).ok_or_else(|| {
                Status::failed_precondition(format!("volume {id} is encrypted and not staged"))
            })?
        } else {
            raw
        };
        let one_pod = capability.one_pod;
        match capability.access {
            Access::Block => {
                blocking(move || publish_block(&device, &target, read_only, one_pod)).await?;
            }
            Access::Mount { .. } => {
                let staged = staged.ok_or_else(|| missing(&request.staging_target_path))?;
                blocking(move || publish_mount(&device, &staged, &target, read_only, one_pod))
                    .await?;
            }
        }
        Ok(proto::NodePublishVolumeResponse {})
    }

    pub(super) async fn node_unpublish_volume(
        &self,
        request: proto::NodeUnpublishVolumeRequest,
    ) -> Result<proto::NodeUnpublishVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let target = self.place(&request.target_path, "target path")?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        if let Some(target) = target {
            blocking(move || {
                mounts::unmount_all(&target)?;
                Ok(target.remove()?)
            })
            .await?;
        }
        Ok(proto::NodeUnpublishVolumeResponse {})
    }
}

fn publish_mount(
    device: &std::path::Path,
    staged: &Place,
    target: &Place,
    read_only: bool,
    one_pod: bool,
) -> Result<(), Status> {
    let source = staged.mounted()?.filter(|mount| mount.source == device);
    if source.is_none() {
        let words = format!(
            "nothing of this volume is staged at {}",
            staged.path().display()
        );
        return Err(Status::failed_precondition(words));
    }
    if let Some(there) = target.mounted()? {
        return is_same(
            there.source == device && there.read_only == read_only,
            target,
        );
    }
    if one_pod {
        let all = mountinfo::read().map_err(Status::from)?;
        let of_device = all.iter().filter(|mount| mount.source == device);
        // The staging mount is one.
        if of_device.count() > 1 {
            return Err(taken(target));
        }
    }
    let root = staged
        .open()?
        .ok_or_else(|| Status::internal("a mount without a folder"))?;
    let folder = target.make_folder()?;
    Ok(mounts::bind(root.as_fd(), target, &folder, read_only)?)
}

fn publish_block(
    device: &std::path::Path,
    target: &Place,
    read_only: bool,
    one_pod: bool,
) -> Result<(), Status> {
    let opened = mounts::open_device(device)?;
    let number = number_of(device)?;
    if let Some(there) = target.mounted()? {
        let same = target.kind()? == Some(Kind::Device { number });
        return is_same(same && there.read_only == read_only, target);
    }
    if one_pod {
        let name = device.file_name().unwrap_or_default();
        let all = mountinfo::read().map_err(Status::from)?;
        let bound =
            |mount: &&mountinfo::Mount| mount.root.file_name() == Some(name) && mount.at != device;
        if all.iter().find(bound).is_some() {
            return Err(taken(target));
        }
    }
    let file = target.make_file()?;
    Ok(mounts::bind(opened.as_fd(), target, &file, read_only)?)
}

fn number_of(device: &std::path::Path) -> Result<(u32, u32), Status> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(device)
        .map_err(|error| Status::internal(format!("{}: {error}", device.display())))?;
    let number = metadata.rdev();
    Ok((rustix::fs::major(number), rustix::fs::minor(number)))
}

fn is_same(same: bool, target: &Place) -> Result<(), Status> {
    if same {
        return Ok(());
    }
    let words = format!(
        "{} is a mount already, with other properties",
        target.path().display()
    );
    Err(Status::already_exists(words))
}

fn taken(target: &Place) -> Status {
    Status::failed_precondition(format!(
        "the volume is for one pod at a time, and another has it: {} must wait",
        target.path().display()
    ))
}
