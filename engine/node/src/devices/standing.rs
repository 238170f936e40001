//! Devices that the kernel itself holds while no daemon is there: they need no keeper. What is known of one lies
//! in a file beside the mounts of the others, `devices/ATTACHMENT.json`, from before its first request (R12); which
//! device it is, the kernel says.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lockstep_logic::io::AttachmentState;
use lockstep_types::{AttachmentId, BLOCK, VolumeId};
use lockstep_ublk::Control;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::choose::FrontEnd;
use super::record::label;
use super::steps::{self, CloseError};
use super::{Devices, kernel_nbd, ublk};
use crate::directory::Directory;

/// How long somebody who only looks, as udev does, may have a device open that is being closed.
const LOOKERS: Duration = Duration::from_secs(5);
/// How long the last who hold a device that has ended may take to let go of it.
const CLEAR: Duration = Duration::from_secs(10);
/// Between two looks at those who look.
const LOOK: Duration = Duration::from_millis(100);

/// A device that is made, or being made.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) record: StandingRecord,
    /// Its number in the kernel; none while it is being made.
    pub(super) number: Option<u32>,
    /// What users open; none while it is being made.
    pub(super) path: Option<PathBuf>,
    /// This daemon serves it, as far as this side knows.
    pub(super) served: bool,
    /// The size that the kernel would not give it.
    pub(super) refused: u64,
}

/// What lies in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StandingRecord {
    /// The volume's id.
    pub(super) volume: String,
    /// The publication's id.
    pub(super) attachment: String,
    /// The volume's name: the link in /dev/lockstep.
    pub(super) name: String,
    /// What kind of device it is.
    pub(super) front_end: FrontEnd,
}

impl StandingRecord {
    /// The ids.
    ///
    /// # Errors
    /// They are malformed.
    pub(super) fn ids(&self) -> anyhow::Result<(VolumeId, AttachmentId)> {
        Ok((self.volume.parse()?, self.attachment.parse()?))
    }

    /// What the kernel calls what is behind the device.
    pub(super) fn label(&self) -> String {
        label(&self.attachment)
    }

    fn file(&self, directory: &Directory) -> PathBuf {
        directory
            .devices()
            .join(format!("{}.json", self.attachment))
    }

    /// Its number in the kernel; none if it is not there.
    fn find(&self) -> Option<u32> {
        match self.front_end {
            FrontEnd::Ublk => ublk::find(self),
            FrontEnd::KernelNbd => lockstep_kernel_nbd::find(&self.label()),
            FrontEnd::Loop => None,
        }
    }

    /// Its node in /dev.
    pub(super) fn node(&self, number: u32) -> PathBuf {
        match self.front_end {
            FrontEnd::Ublk => lockstep_ublk::control::path(number),
            FrontEnd::KernelNbd => lockstep_kernel_nbd::path(number),
            FrontEnd::Loop => steps::loop_path(number),
        }
    }

    /// Ends the device in the kernel: what is still asked of it fails.
    fn end(&self, number: u32) -> anyhow::Result<()> {
        match self.front_end {
            FrontEnd::Ublk => Ok(Control::open()?.stop(number)?),
            FrontEnd::KernelNbd => Ok(lockstep_kernel_nbd::disconnect(number)?),
            FrontEnd::Loop => Ok(()),
        }
    }

    /// Removes what is left in the kernel of a device that has ended and is not served any more.
    fn clear(&self, number: u32) {
        if self.front_end == FrontEnd::Ublk
            && let Err(error) = Control::open().and_then(|mut control| control.remove(number))
        {
            tracing::warn!(volume = %self.name, %error, "a device that has ended is still there");
        }
    }
}

impl Devices {
    /// Makes the device of a volume that is open here; nothing is left if that fails.
    pub(super) async fn open_standing(
        &self,
        (volume, attachment): (VolumeId, AttachmentId),
        name: &str,
        (front_end, bytes): (FrontEnd, u64),
    ) -> anyhow::Result<PathBuf> {
        let record = StandingRecord {
            volume: volume.to_string(),
            attachment: attachment.to_string(),
            name: name.to_owned(),
            front_end,
        };
        // R12: the id is kept before the first request.
        write(&record, &self.inner.directory)?;
        let standing = Standing {
            record: record.clone(),
            number: None,
            path: None,
            served: true,
            refused: 0,
        };
        self.inner.standing.lock().insert(attachment, standing);
        let made = match front_end {
            FrontEnd::Ublk => ublk::make(&self.inner.bridge, &record, bytes).await,
            FrontEnd::KernelNbd => kernel_nbd::make(&self.inner.bridge, &record).await,
            FrontEnd::Loop => Err(anyhow::anyhow!("a loop device is not of this kind")),
        };
        let number = match made {
            Ok(number) => number,
            Err(error) => {
                self.give_up_standing(attachment).await;
                return Err(error);
            }
        };
        let node = record.node(number);
        let path = steps::link(&record.name, &node);
        tracing::info!(volume = %record.name, device = %node.display(), "a block device is there");
        self.note(attachment, |standing| {
            standing.number = Some(number);
            standing.path = Some(path.clone());
        });
        Ok(path)
    }

    /// Closes a device that nobody uses, after all is written back.
    pub(super) async fn close_standing(&self, attachment: AttachmentId) -> Result<(), CloseError> {
        let standing = self.inner.standing.lock().get(&attachment).cloned();
        let Some((record, number)) = standing.and_then(|it| Some((it.record, it.number?))) else {
            return Ok(());
        };
        let path = record.node(number);
        unused(&path).await?;
        let name = record.name.clone();
        self.bounded(&name, move || steps::write_back_node(&path))
            .await?;
        let ending = record.clone();
        self.bounded(&name, move || Ok(ending.end(number)?)).await?;
        self.forget_standing(attachment, &record, Some(number))
            .await;
        tracing::info!(volume = %record.name, "the device is closed");
        Ok(())
    }

    /// Fails everything that still asks through a device, and removes it; whether there was one.
    pub(super) async fn give_up_standing(&self, attachment: AttachmentId) -> bool {
        let standing = self.inner.standing.lock().get(&attachment).cloned();
        let Some(record) = standing.map(|it| it.record) else {
            return false;
        };
        self.inner.bridge.fail_device(attachment).await;
        let ending = record.clone();
        let ended = spawn_blocking(move || {
            let number = ending.find();
            let ended = number.map_or(Ok(()), |number| ending.end(number));
            (number, ended)
        });
        let number = match ended.await {
            Ok((number, Ok(()))) => number,
            Ok((number, Err(error))) => {
                tracing::warn!(volume = %record.name, error = %format!("{error:#}"), "a device that is no longer served");
                number
            }
            Err(_) => None,
        };
        self.forget_standing(attachment, &record, number).await;
        true
    }

    /// Finds what an earlier daemon made and the kernel still has. It is served once its volume is open.
    pub(super) fn take_over_standing(&self) {
        for record in records(&self.inner.directory) {
            let Ok((_, attachment)) = record.ids() else {
                continue;
            };
            let Some(number) = record.find() else {
                // The host was started anew, or the device was never complete.
                remove(&record, &self.inner.directory);
                continue;
            };
            tracing::info!(volume = %record.name, %attachment, "a device of the daemon before waits to be served");
            let path = Some(steps::link(&record.name, &record.node(number)));
            let standing = Standing {
                record,
                number: Some(number),
                path,
                served: false,
                refused: 0,
            };
            self.inner.standing.lock().insert(attachment, standing);
        }
    }

    /// Serves again what lost its server, as soon as its volume is open under its attachment; whether nothing is left
    /// to be done.
    pub(super) async fn serve_standing(&self) -> bool {
        let waiting: Vec<(AttachmentId, Standing, u64)> = {
            let view = self.inner.bridge.view();
            let view = view.borrow();
            let mut standing = self.inner.standing.lock();
            for (attachment, it) in standing.iter_mut().filter(|(_, it)| it.path.is_some()) {
                it.served &= !view.ended.contains(attachment);
            }
            let open = |attachment: &AttachmentId| {
                let mut states = view.attachments.values();
                states.find_map(|(id, state)| match state {
                    AttachmentState::Open { blocks } if id == attachment => {
                        Some(blocks * BLOCK as u64)
                    }
                    _ => None,
                })
            };
            // Not before: what would be asked again and again meanwhile had to be kept each time.
            let unserved = standing.iter().filter(|(_, it)| !it.served);
            unserved
                .filter_map(|(attachment, it)| Some((*attachment, it.clone(), open(attachment)?)))
                .collect()
        };
        let mut all = true;
        for (attachment, standing, bytes) in waiting {
            let _alone = self.inner.work.lock().await;
            let looked_for = standing.record.clone();
            let found = spawn_blocking(move || looked_for.find())
                .await
                .ok()
                .flatten();
            let Some(number) = found else {
                tracing::warn!(volume = %standing.record.name, "a device is given up: somebody else has ended it");
                self.give_up_standing(attachment).await;
                continue;
            };
            // Whatever ends from here on is another connection's end.
            self.note(attachment, |standing| standing.served = true);
            let record = &standing.record;
            let served = match record.front_end {
                FrontEnd::Ublk => ublk::take_over(&self.inner.bridge, record, number, bytes).await,
                FrontEnd::KernelNbd => {
                    kernel_nbd::reconnect(&self.inner.bridge, record, number).await
                }
                FrontEnd::Loop => Ok(()),
            };
            match served {
                Ok(()) => tracing::info!(volume = %record.name, "the device is served"),
                Err(error) => {
                    tracing::debug!(volume = %record.name, error = %format!("{error:#}"), "the device is not served yet");
                    // What was begun would be in the way of the next attempt.
                    self.inner.bridge.unserve(attachment).await;
                    self.note(attachment, |standing| standing.served = false);
                    all = false;
                }
            }
        }
        all
    }

    /// The kernel takes the new size of a volume that has grown to `bytes`.
    pub(super) async fn grow_standing(&self, attachment: AttachmentId, bytes: u64) {
        let standing = self.inner.standing.lock().get(&attachment).cloned();
        let Some(standing) = standing.filter(|it| it.served && it.refused != bytes) else {
            return;
        };
        let Some(number) = standing.number else {
            return;
        };
        let record = standing.record;
        let name = record.name.clone();
        let grown = spawn_blocking(move || -> anyhow::Result<bool> {
            if steps::size_of(&record.node(number))? >= bytes {
                return Ok(false);
            }
            match record.front_end {
                FrontEnd::Ublk => Control::open()?.resize(number, bytes)?,
                FrontEnd::KernelNbd => lockstep_kernel_nbd::resize(number, &record.label(), bytes)?,
                FrontEnd::Loop => {}
            }
            Ok(true)
        });
        match grown
            .await
            .map_err(anyhow::Error::from)
            .and_then(|done| done)
        {
            Ok(true) => tracing::info!(volume = %name, bytes, "the device has grown"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(volume = %name, error = %format!("{error:#}"), "the device keeps its old size: detach the volume and attach it again");
                self.note(attachment, |standing| standing.refused = bytes);
            }
        }
    }

    fn note(&self, attachment: AttachmentId, change: impl FnOnce(&mut Standing)) {
        if let Some(standing) = self.inner.standing.lock().get_mut(&attachment) {
            change(standing);
        }
    }

    async fn forget_standing(
        &self,
        attachment: AttachmentId,
        record: &StandingRecord,
        number: Option<u32>,
    ) {
        self.inner.bridge.unserve(attachment).await;
        if let Some(number) = number {
            steps::unlink(&record.name, &record.node(number));
            let ended = record.clone();
            let cleared = spawn_blocking(move || ended.clear(number));
            if tokio::time::timeout(CLEAR, cleared).await.is_err() {
                tracing::warn!(volume = %record.name, "a device that has ended is still held by somebody");
            }
        }
        remove(record, &self.inner.directory);
        self.inner.standing.lock().remove(&attachment);
    }
}

/// Ends the devices of a node whose daemon is not running; the names of volumes whose device was in use.
pub(super) fn let_go(directory: &Directory) -> Vec<String> {
    let mut used = Vec::new();
    for record in records(directory) {
        if let Some(number) = record.find() {
            let path = record.node(number);
            if steps::is_claimed(&path) {
                used.push(record.name.clone());
            }
            if let Err(error) = record.end(number) {
                tracing::warn!(volume = %record.name, error = %format!("{error:#}"), "a device that is no longer served");
            }
            steps::unlink(&record.name, &path);
            record.clear(number);
        }
        remove(&record, directory);
    }
    used
}

/// Waits a little for those who only look, and refuses if somebody uses the device.
async fn unused(path: &Path) -> Result<(), CloseError> {
    let path = path.to_owned();
    if steps::is_claimed(&path) {
        return Err(CloseError::InUse { path });
    }
    let deadline = tokio::time::Instant::now() + LOOKERS;
    while steps::is_open(&path) {
        if tokio::time::Instant::now() > deadline {
            return Err(CloseError::Open { path });
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn write(record: &StandingRecord, directory: &Directory) -> anyhow::Result<()> {
    let path = record.file(directory);
    fs::create_dir_all(directory.devices())
        .and_then(|()| fs::write(&path, serde_json::to_vec(record).expect("plain data")))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn remove(record: &StandingRecord, directory: &Directory) {
    let path = record.file(directory);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "what was known of a device cannot be removed");
    }
}

/// The files of a node; one that cannot be read is told of, and left.
fn records(directory: &Directory) -> Vec<StandingRecord> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.devices())
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let read = fs::read(&path).map_err(anyhow::Error::from);
        match read.and_then(|text| Ok(serde_json::from_slice(&text)?)) {
            Ok(record) => found.push(record),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "what is known of a device cannot be read: it is not served");
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen;

    /// The file is read by the next daemon, which may be a newer or an older one.
    const FROZEN: &str = r#"{"volume":"00000000000000000000000000000001","attachment":"00000000000000000000000000000002","name":"pg","front_end":"kernel-nbd"}"#;

    fn record() -> StandingRecord {
        StandingRecord {
            volume: VolumeId::from_u128(1).to_string(),
            attachment: AttachmentId::from_u128(2).to_string(),
            name: "pg".into(),
            front_end: FrontEnd::KernelNbd,
        }
    }

    #[test]
    fn golden_text_of_a_device() {
        let now = serde_json::to_string(&record()).expect("plain data");
        frozen::assert_frozen("a device that the kernel holds", &now, FROZEN);
        let read = serde_json::from_str::<StandingRecord>(FROZEN);
        let read = frozen::read("a device that the kernel holds", read);
        assert_eq!(read, record());
    }

    #[test]
    fn what_was_written_is_found_and_what_is_strange_is_left() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(root.path());
        assert!(records(&directory).is_empty());
        write(&record(), &directory).expect("written");
        fs::write(directory.devices().join("strange.json"), b"{}").expect("written");
        fs::create_dir(directory.devices().join("a mount")).expect("made");
        assert_eq!(records(&directory), [record()]);
        // No kernel has this device: nothing is ended, and what was known of it is gone.
        assert!(let_go(&directory).is_empty());
        assert!(records(&directory).is_empty());
        assert!(directory.devices().join("strange.json").exists());
    }
}
