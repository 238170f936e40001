//! Block devices of the volumes attached to this node: a FUSE mount with the volume as its only file,
//! a loop device on that, and a link in /dev/lockstep. The data plane's thread serves the mount; here
//! it is made, kept for the next daemon, grown, closed, and given up when its publication is no more.
//!
//! | job | module |
//! |---|---|
//! | what is kept of a device | [`record`] |
//! | a keeper that has ended, and the next | [`rekeep`] |
//! | what waits for the kernel | [`steps`] |
//!
//! A device belongs to one attachment id for its whole life (R12). The keeper holds its descriptors,
//! so that a daemon that ends, however it does, costs its users a pause and no error: the next one
//! serves the same device as soon as the volume is open again under that id, and is given every
//! unanswered request anew. A device whose publication has ended meanwhile fails for good.

pub mod record;
mod rekeep;
mod steps;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lockstep_control::Command;
use lockstep_fuse::{Device, Mount, Negotiated};
use lockstep_keeper::{Entry, Keeper};
use lockstep_logic::io::AttachmentState;
use lockstep_types::{AttachmentId, BLOCK, VolumeId};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::bridge::Bridge;
use crate::config::KeeperFrom;
use crate::control::Control;
use crate::directory::Directory;
use crate::plane::ServeDevice;
use record::Record;
pub use steps::CloseError;

/// How long the kernel may take to agree on a new mount.
const AGREE: Duration = Duration::from_secs(10);
/// How long a keeper may take to listen.
const LISTEN: Duration = Duration::from_secs(5);
/// How long closing may wait for what the kernel still has to write: a suspended volume takes nothing.
const CLOSE: Duration = Duration::from_secs(20);
/// Between two looks whether the keeper is there.
const LOOK: Duration = Duration::from_secs(2);
/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// The devices of this node. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    inner: Arc<Inner>,
}

struct Inner {
    control: Control,
    bridge: Bridge,
    directory: Directory,
    keeper: KeeperFrom,
    /// Held while a device is made or taken apart: one at a time.
    work: tokio::sync::Mutex<()>,
    held: Mutex<BTreeMap<AttachmentId, Held>>,
    /// The keeper that has all of them, for its end to be noticed.
    watched: Mutex<Option<Keeper>>,
}

/// A device that is made, or being made.
#[derive(Clone, Debug)]
struct Held {
    record: Record,
    /// What users open; none while it is being made.
    path: Option<PathBuf>,
    /// What the keeper has of it, for the next one; none while it is being made.
    connection: Option<Arc<OwnedFd>>,
    /// The loop device: it goes when nobody has it open, so that a keeper's end would be its end too. None
    /// while it is being made or taken apart.
    looped: Option<Arc<OwnedFd>>,
}

impl Devices {
    /// Takes over what an earlier daemon left with the keeper, and looks after all devices from then
    /// on.
    pub async fn start(
        control: Control,
        bridge: Bridge,
        directory: Directory,
        keeper: KeeperFrom,
    ) -> Self {
        let inner = Inner {
            control,
            bridge,
            directory,
            keeper,
            work: tokio::sync::Mutex::new(()),
            held: Mutex::default(),
            watched: Mutex::default(),
        };
        let devices = Self {
            inner: Arc::new(inner),
        };
        devices.take_over().await;
        devices
    }

    /// The device of a publication: its node in /dev, if it has one.
    pub fn path(&self, attachment: AttachmentId) -> Option<PathBuf> {
        let held = self.inner.held.lock();
        held.get(&attachment).and_then(|held| held.path.clone())
    }

    /// Makes the device of a volume that is open here, or gives the one that is there.
    ///
    /// # Errors
    /// This host or user cannot have one, or the kernel refuses a step; nothing is left then.
    pub async fn open(
        &self,
        volume: VolumeId,
        attachment: AttachmentId,
        name: &str,
    ) -> anyhow::Result<PathBuf> {
        let _alone = self.inner.work.lock().await;
        if let Some(path) = self.path(attachment) {
            return Ok(path);
        }
        if let Some(why) = lockstep_fuse::unavailable() {
            anyhow::bail!("this node offers no block device: {why}; take the NBD socket");
        }
        let bytes = self.size(volume, attachment)?;
        let record = Record {
            volume: volume.to_string(),
            attachment: attachment.to_string(),
            name: name.to_owned(),
            bytes,
            mount: std::path::absolute(self.inner.directory.devices())?
                .join(attachment.to_string()),
            agreed: None,
            number: None,
        };
        let held = Held {
            record: record.clone(),
            path: None,
            connection: None,
            looped: None,
        };
        self.inner.held.lock().insert(attachment, held);
        match self.make(attachment, record.clone()).await {
            Ok(path) => Ok(path),
            Err(error) => {
                self.give_up(attachment).await;
                Err(error)
            }
        }
    }

    /// Takes a device apart after everything written to it is written back; nothing happens if there
    /// is none.
    ///
    /// # Errors
    /// [`CloseError`]; the device is as it was, or still open somewhere.
    pub async fn close(&self, attachment: AttachmentId) -> Result<(), CloseError> {
        let _alone = self.inner.work.lock().await;
        let record = {
            let held = self.inner.held.lock();
            held.get(&attachment).map(|held| held.record.clone())
        };
        let Some(record) = record else {
            return Ok(());
        };
        if let Some(path) = record.number.map(steps::loop_path)
            && steps::is_claimed(&path)
        {
            return Err(CloseError::InUse { path });
        }
        self.bounded(&record, steps::write_back).await?;
        let keeper = self.keeper().await?;
        // The keeper lets go of the loop device, as this daemon does, and keeps the connection while it may be asked.
        self.keep_connection_only(&keeper, &record)?;
        if let Some(held) = self.inner.held.lock().get_mut(&attachment) {
            held.looped = None;
        }
        self.bounded(&record, steps::detach_loop).await?;
        self.bounded(&record, steps::unmount).await?;
        keeper
            .remove(&record.attachment)
            .map_err(anyhow::Error::from)?;
        self.inner.bridge.unserve(attachment).await;
        self.inner.held.lock().remove(&attachment);
        tracing::info!(volume = %record.name, "the device is closed");
        Ok(())
    }

    /// Takes a device apart whoever uses it: their I/O fails.
    pub async fn force_close(&self, attachment: AttachmentId) {
        let _alone = self.inner.work.lock().await;
        self.give_up(attachment).await;
    }

    /// Looks after the devices until the daemon ends: gives up those whose publication has ended, and
    /// says so of every fenced one of this node (R12); grows those whose volume has grown.
    pub async fn look_after(self) {
        let mut applied = self.inner.control.watch();
        let mut view = self.inner.bridge.view();
        loop {
            applied.borrow_and_update();
            view.borrow_and_update();
            let done = self.give_up_ended().await & self.release_fenced().await;
            self.grow_all().await;
            self.give_to_next_keeper().await;
            if !done {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            let (applied, viewed) = (applied.changed(), view.changed());
            let ended = tokio::select! {
                changed = applied => changed.is_err(),
                changed = viewed => changed.is_err(),
                () = tokio::time::sleep(LOOK) => false,
            };
            if ended {
                return;
            }
        }
    }

    async fn take_over(&self) {
        let Ok(keeper) = Keeper::connect(&self.inner.directory.keeper_socket()) else {
            return remove_leftovers(&self.inner.directory, &[]);
        };
        let entries = match keeper.list() {
            Ok(entries) => entries,
            Err(error) => {
                return tracing::error!(%error, "the devices of the daemon before are lost");
            }
        };
        let keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        for entry in entries {
            let key = entry.key.clone();
            if let Err(error) = self.take_over_one(entry).await {
                tracing::warn!(attachment = %key, error = %format!("{error:#}"), "a device cannot be served again");
                let _ = keeper.remove(&key);
            }
        }
        remove_leftovers(&self.inner.directory, &keys);
    }

    async fn take_over_one(&self, entry: Entry) -> anyhow::Result<()> {
        let record = Record::parse(&entry.text)?;
        let (volume, attachment) = record.ids()?;
        let agreed = record.agreed.map(Negotiated::from);
        let mut descriptors = entry.descriptors.into_iter().map(Arc::new);
        let (connection, looped) = (descriptors.next(), descriptors.next());
        let served = match (agreed, &connection, record.number) {
            (Some(agreed), Some(connection), Some(_)) if agreed.can_resend() => {
                let device = Device::adopt(connection.try_clone()?)?;
                let serve = ServeDevice {
                    volume,
                    attachment,
                    device,
                    file: record.file(),
                    agreed: Some(agreed),
                };
                self.inner.bridge.serve(serve).await;
                true
            }
            _ => false,
        };
        if !served {
            let gone = record.clone();
            spawn_blocking(move || steps::abandon(&gone)).await?;
            anyhow::bail!(
                "it was not complete, or this kernel does not send requests again (before 6.9)"
            );
        }
        let path = Some(steps::link(&record));
        tracing::info!(volume = %record.name, attachment = %record.attachment, "serving a device of the daemon before");
        let held = Held {
            record,
            path,
            connection,
            looped,
        };
        self.inner.held.lock().insert(attachment, held);
        Ok(())
    }

    async fn make(&self, attachment: AttachmentId, mut record: Record) -> anyhow::Result<PathBuf> {
        let keeper = self.keeper().await?;
        std::fs::create_dir_all(&record.mount)
            .with_context(|| format!("cannot create {}", record.mount.display()))?;
        let device = Device::open().context("cannot open /dev/fuse")?;
        let connection = Arc::new(device.duplicate()?);
        // R12: the id is kept beside the device before its first request.
        keeper.put(&record.attachment, &record.text(), &[connection.as_fd()])?;
        Mount::new(&device, &record.mount)?;
        let (volume, _) = record.ids()?;
        let ready = self.inner.bridge.expect_device(attachment);
        let serve = ServeDevice {
            volume,
            attachment,
            device,
            file: record.file(),
            agreed: None,
        };
        self.inner.bridge.serve(serve).await;
        let agreed = tokio::time::timeout(AGREE, ready)
            .await
            .context("the kernel did not ask for the new mount within 10 s")?
            .context("the kernel let go of the new mount")?;
        record.agreed = Some(agreed.into());
        keeper.put(&record.attachment, &record.text(), &[])?;
        let attaching = record.clone();
        let attached = spawn_blocking(move || steps::attach_loop(&attaching)).await??;
        record.number = Some(attached.number());
        // From here on the loop device lives as long as the keeper, or whoever uses it, has it open.
        let descriptors = [connection.as_fd(), attached.file().as_fd()];
        keeper.put(&record.attachment, &record.text(), &descriptors)?;
        let path = steps::link(&record);
        tracing::info!(volume = %record.name, device = %attached.path().display(), "a block device is there");
        let held = Held {
            record,
            path: Some(path.clone()),
            connection: Some(connection),
            looped: Some(Arc::new(attached.file().try_clone()?.into())),
        };
        self.inner.held.lock().insert(attachment, held);
        Ok(path)
    }

    /// The keeper; started if none listens and that is this daemon's to do.
    async fn keeper(&self) -> anyhow::Result<Keeper> {
        let path = self.inner.directory.keeper_socket();
        match Keeper::connect(&path) {
            Ok(keeper) => return Ok(keeper),
            Err(error) if self.inner.keeper == KeeperFrom::External => {
                let words = "no block device without a keeper, and it is not this daemon's to start one (devices.keeper is external): see that 'lockstep-keeper' runs for this data directory";
                return Err(anyhow::Error::from(error).context(words));
            }
            Err(_) => {}
        }
        let program = std::env::current_exe().context("this binary's own path is unknown")?;
        let mut child = tokio::process::Command::new(program)
            .arg("keeper")
            .arg(&path)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .context("the keeper cannot be started")?;
        tokio::spawn(async move { child.wait().await });
        let deadline = tokio::time::Instant::now() + LISTEN;
        loop {
            match Keeper::connect(&path) {
                Ok(keeper) => return Ok(keeper),
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The size under which the volume is open here: the committed one may be ahead of it.
    fn size(&self, volume: VolumeId, attachment: AttachmentId) -> anyhow::Result<u64> {
        let view = self.inner.bridge.view();
        let view = view.borrow();
        match view.attachments.get(&volume) {
            Some((id, AttachmentState::Open { blocks })) if *id == attachment => {
                Ok(blocks * BLOCK as u64)
            }
            _ => anyhow::bail!("the volume is not open here yet; ask again when it is"),
        }
    }

    fn keep_connection_only(&self, keeper: &Keeper, record: &Record) -> anyhow::Result<()> {
        let entries = keeper.list()?;
        let kept = entries.iter().find(|entry| entry.key == record.attachment);
        let connection = kept.and_then(|entry| entry.descriptors.first());
        let connection = connection.context("the keeper does not have the device any more")?;
        Ok(keeper.put(&record.attachment, &record.text(), &[connection.as_fd()])?)
    }

    /// A step that may wait for the volume: given up after a while, when it goes on in the background.
    async fn bounded(
        &self,
        record: &Record,
        step: fn(&Record) -> Result<(), CloseError>,
    ) -> Result<(), CloseError> {
        let own = record.clone();
        let running = spawn_blocking(move || step(&own));
        match tokio::time::timeout(CLOSE, running).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(CloseError::Failed(error.into())),
            Err(_) => Err(CloseError::Failed(anyhow::anyhow!(
                "what was written to the device could not be written back within {} s: the volume takes nothing ('lockstep volume explain {}')",
                CLOSE.as_secs(),
                record.name
            ))),
        }
    }

    /// Fails everything that still asks through a device, and removes it.
    async fn give_up(&self, attachment: AttachmentId) {
        let held = self.inner.held.lock().remove(&attachment);
        // Whatever this daemon has open of it is closed with the rest.
        let record = held.map(|held| held.record);
        if let Some(record) = record {
            self.inner.bridge.unserve(attachment).await;
            if let Ok(keeper) = Keeper::connect(&self.inner.directory.keeper_socket()) {
                let _ = keeper.remove(&record.attachment);
            }
            // Aborting does not wait for whom the device serves.
            let _ = spawn_blocking(move || steps::abandon(&record)).await;
        }
    }

    /// Gives up devices whose publication is no more; whether nothing is left to be found out.
    async fn give_up_ended(&self) -> bool {
        let ended = |devices: &Self| -> Vec<AttachmentId> {
            let state = devices.inner.control.state();
            let me = devices.inner.control.node();
            let view = devices.inner.bridge.view();
            let view = view.borrow();
            let held = devices.inner.held.lock();
            let current = |attachment: &AttachmentId, held: &Held| {
                let volume = held.record.volume.parse().ok();
                volume
                    .and_then(|id: VolumeId| state.volumes.get(&id))
                    .and_then(|volume| volume.membership.attachment)
                    .is_some_and(|a| a.id == *attachment && a.node == me)
            };
            held.iter()
                .filter(|(id, held)| view.ended.contains(id) || !current(id, held))
                .map(|(attachment, _)| *attachment)
                .collect()
        };
        if ended(self).is_empty() {
            return true;
        }
        // What this node has may be old: right after its start above all.
        if self.inner.control.catch_up().await.is_err() {
            return false;
        }
        let _alone = self.inner.work.lock().await;
        for attachment in ended(self) {
            tracing::warn!(%attachment, "a device is given up: it was unmounted, or its volume was detached or published elsewhere since");
            self.give_up(attachment).await;
        }
        true
    }

    /// Says of every fenced publication of this node that its device is gone (R12). It is: NBD
    /// sessions carry their attachment's id and end with it, what they still ask for is answered with
    /// EIO, and a block device of it has just been given up. Whether all could be said.
    async fn release_fenced(&self) -> bool {
        let gone: Vec<Command> = {
            let state = self.inner.control.state();
            let held = self.inner.held.lock();
            let fenced = state.volumes.values().flat_map(|volume| {
                let here = volume.fenced.iter().filter(|(attachment, node)| {
                    **node == self.inner.control.node() && !held.contains_key(attachment)
                });
                here.map(|(attachment, _)| Command::DeviceGone {
                    volume: volume.id,
                    attachment: *attachment,
                })
            });
            fenced.collect()
        };
        let mut all = true;
        for command in gone {
            if let Err(error) = self.inner.control.propose(command).await {
                tracing::debug!(%error, "a device that is gone is told of again later");
                all = false;
            }
        }
        all
    }

    async fn grow_all(&self) {
        let grown: Vec<(AttachmentId, Record)> = {
            let view = self.inner.bridge.view();
            let view = view.borrow();
            let held = self.inner.held.lock();
            let open = view
                .attachments
                .values()
                .filter_map(|(id, state)| match state {
                    AttachmentState::Open { blocks } => Some((*id, blocks * BLOCK as u64)),
                    _ => None,
                });
            open.filter_map(|(id, bytes)| {
                let record = &held.get(&id).filter(|held| held.path.is_some())?.record;
                (record.bytes < bytes).then(|| {
                    let record = Record {
                        bytes,
                        ..record.clone()
                    };
                    (id, record)
                })
            })
            .collect()
        };
        for (attachment, record) in grown {
            let (name, bytes) = (record.name.clone(), record.bytes);
            let growing = record.clone();
            let result = spawn_blocking(move || steps::grow(&growing)).await;
            match result.map_err(anyhow::Error::from).and_then(|done| done) {
                Ok(()) => {
                    tracing::info!(volume = %name, bytes, "the device has grown");
                    if let Ok(keeper) = Keeper::connect(&self.inner.directory.keeper_socket()) {
                        let _ = keeper.put(&record.attachment, &record.text(), &[]);
                    }
                }
                Err(error) => {
                    tracing::warn!(volume = %name, error = %format!("{error:#}"), "the device keeps its old size; 'losetup -c' on it makes the kernel look again");
                }
            }
            if let Some(held) = self.inner.held.lock().get_mut(&attachment) {
                held.record = record;
            }
        }
    }
}

/// Ends the keeper of a node whose daemon is not running, and removes its devices: what still uses
/// them gets errors. The names of volumes whose device was in use.
///
/// # Errors
/// The keeper does not do as it is told.
pub fn let_go(directory: &Directory) -> anyhow::Result<Vec<String>> {
    let mut used = Vec::new();
    if let Ok(keeper) = Keeper::connect(&directory.keeper_socket()) {
        for entry in keeper.list()? {
            if let Ok(record) = Record::parse(&entry.text) {
                if record
                    .number
                    .is_some_and(|n| steps::is_claimed(&steps::loop_path(n)))
                {
                    used.push(record.name.clone());
                }
                drop(entry.descriptors);
                keeper.remove(&entry.key)?;
                steps::abandon(&record);
            }
        }
        keeper.stop()?;
    }
    remove_leftovers(directory, &[]);
    Ok(used)
}

/// The keeper of a node, by process id; none if none listens.
pub fn keeper_pid(directory: &Directory) -> Option<i32> {
    Keeper::connect(&directory.keeper_socket())
        .ok()
        .and_then(|keeper| keeper.pid().ok())
}

/// Removes mounts that nobody keeps any more: their keeper was killed, or the host cut off.
fn remove_leftovers(directory: &Directory, kept: &[String]) {
    for entry in std::fs::read_dir(directory.devices())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !kept.contains(&name) {
            let _ = Mount::adopt(entry.path()).abort();
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
