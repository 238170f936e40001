//! Block devices of the volumes attached to this node, and their links in /dev/lockstep. The data plane's thread
//! serves them; here they are made, kept for the next daemon, grown, closed, and given up when their publication is
//! no more.
//!
//! | job | module |
//! |---|---|
//! | which kind a device is of | [`choose`] |
//! | devices that the kernel holds itself | `standing` |
//! | of its NBD client, of ublk | `kernel_nbd`, `ublk` |
//! | loop devices over FUSE, which the keeper holds | `looped` |
//! | what is kept of those | [`record`] |
//! | a keeper that has ended, and the next | `rekeep` |
//! | what waits for the kernel | `steps` |
//!
//! A device belongs to one attachment id for its whole life (R12). It outlives the daemon: one that ends, however
//! it does, costs its users a pause and no error. The next one serves the same device as soon as the volume is
//! open again under that id, and is given every unanswered request anew. A device whose publication has ended
//! meanwhile fails for good.

pub mod choose;
mod kernel_nbd;
mod looped;
pub mod record;
mod rekeep;
mod standing;
mod steps;
mod ublk;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockstep_control::Command;
use lockstep_fuse::Mount;
use lockstep_keeper::Keeper;
use lockstep_logic::io::AttachmentState;
use lockstep_types::{AttachmentId, BLOCK, VolumeId};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::bridge::Bridge;
use crate::config::DevicesConfig;
use crate::control::Control;
use crate::directory::Directory;
pub use choose::{Choice, FrontEnd};
use record::Record;
use standing::Standing;
pub use steps::CloseError;

/// A device that is there.
#[derive(Clone, Debug)]
pub struct Made {
    /// What users open.
    pub path: PathBuf,
    /// Its kind, and why it is not of a better one.
    pub choice: Choice,
}

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
    config: DevicesConfig,
    /// Held while a device is made or taken apart: one at a time.
    work: tokio::sync::Mutex<()>,
    /// Loop devices.
    held: Mutex<BTreeMap<AttachmentId, Held>>,
    /// Those that the kernel holds itself.
    standing: Mutex<BTreeMap<AttachmentId, Standing>>,
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
        config: DevicesConfig,
    ) -> Self {
        let inner = Inner {
            control,
            bridge,
            directory,
            config,
            work: tokio::sync::Mutex::new(()),
            held: Mutex::default(),
            standing: Mutex::default(),
            watched: Mutex::default(),
        };
        let devices = Self {
            inner: Arc::new(inner),
        };
        devices.take_over().await;
        devices.take_over_standing();
        devices
    }

    /// What the device of a publication is, if it has one.
    pub fn made(&self, attachment: AttachmentId) -> Option<Made> {
        let looped = self.inner.held.lock().get(&attachment).cloned();
        let looped = looped.and_then(|held| Some((FrontEnd::Loop, held.path?)));
        let (front_end, path) = looped.or_else(|| {
            let standing = self.inner.standing.lock();
            let standing = standing.get(&attachment)?;
            Some((standing.record.front_end, standing.path.clone()?))
        })?;
        Some(Made {
            path,
            choice: Choice {
                front_end,
                passed_over: choose::passed_over(front_end, &self.inner.config.front_ends),
            },
        })
    }

    /// Whether this host offers any of the kinds that the configuration allows.
    pub fn any_available(&self) -> bool {
        let allowed = &self.inner.config.front_ends;
        choose::choose(None, allowed, FrontEnd::unavailable).is_ok()
    }

    /// Makes the device of a volume that is open here, or gives the one that is there. `wanted`: of this kind, else the
    /// best that this host has.
    ///
    /// # Errors
    /// This host or user cannot have one, there is one of another kind, or the kernel refuses a step; nothing
    /// is left then.
    pub async fn open(
        &self,
        (volume, attachment): (VolumeId, AttachmentId),
        name: &str,
        wanted: Option<FrontEnd>,
    ) -> anyhow::Result<Made> {
        let _alone = self.inner.work.lock().await;
        if let Some(made) = self.made(attachment) {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != made.choice.front_end) {
                let there = made.choice.front_end.name();
                anyhow::bail!(
                    "volume '{name}' has a device of the kind {there} here already, and not {}: detach it first",
                    wanted.name()
                );
            }
            return Ok(made);
        }
        let choice = choose::choose(wanted, &self.inner.config.front_ends, FrontEnd::unavailable)
            .map_err(anyhow::Error::msg)?;
        let bytes = self.size(volume, attachment)?;
        let whose = (volume, attachment);
        let path = match choice.front_end {
            FrontEnd::Loop => self.open_looped(whose, name, bytes).await?,
            other => self.open_standing(whose, name, (other, bytes)).await?,
        };
        Ok(Made { path, choice })
    }

    /// Takes a device apart after everything written to it is written back; nothing happens if there
    /// is none.
    ///
    /// # Errors
    /// [`CloseError`]; the device is as it was, or still open somewhere.
    pub async fn close(&self, attachment: AttachmentId) -> Result<(), CloseError> {
        let _alone = self.inner.work.lock().await;
        if self.inner.standing.lock().contains_key(&attachment) {
            return self.close_standing(attachment).await;
        }
        self.close_looped(attachment).await
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
            let done = self.give_up_ended().await
                & self.serve_standing().await
                & self.release_fenced().await;
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

    /// A step that may wait for the volume: given up after a while, when it goes on in the background.
    async fn bounded(
        &self,
        name: &str,
        step: impl FnOnce() -> Result<(), CloseError> + Send + 'static,
    ) -> Result<(), CloseError> {
        let running = spawn_blocking(step);
        match tokio::time::timeout(CLOSE, running).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(CloseError::Failed(error.into())),
            Err(_) => Err(CloseError::Failed(anyhow::anyhow!(
                "what was written to the device could not be written back within {} s: the volume takes nothing ('lockstep volume explain {}')",
                CLOSE.as_secs(),
                name
            ))),
        }
    }

    /// Fails everything that still asks through a device, and removes it.
    async fn give_up(&self, attachment: AttachmentId) {
        if self.give_up_standing(attachment).await {
            return;
        }
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
            let standing = devices.inner.standing.lock();
            let current = |attachment: &AttachmentId, volume: &str| {
                let volume = volume.parse().ok();
                volume
                    .and_then(|id: VolumeId| state.volumes.get(&id))
                    .and_then(|volume| volume.membership.attachment)
                    .is_some_and(|a| a.id == *attachment && a.node == me)
            };
            let looped = held
                .iter()
                .filter(|(id, held)| view.ended.contains(id) || !current(id, &held.record.volume));
            let stood = standing
                .iter()
                .filter(|(id, standing)| !current(id, &standing.record.volume));
            let ids = stood.map(|(attachment, _)| *attachment);
            looped
                .map(|(attachment, _)| *attachment)
                .chain(ids)
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
            let standing = self.inner.standing.lock();
            let fenced = state.volumes.values().flat_map(|volume| {
                let here = volume.fenced.iter().filter(|(attachment, node)| {
                    **node == self.inner.control.node()
                        && !held.contains_key(attachment)
                        && !standing.contains_key(attachment)
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
        let open: Vec<(AttachmentId, u64)> = {
            let view = self.inner.bridge.view();
            let view = view.borrow();
            let open = view.attachments.values();
            open.filter_map(|(id, state)| match state {
                AttachmentState::Open { blocks } => Some((*id, blocks * BLOCK as u64)),
                _ => None,
            })
            .collect()
        };
        for (attachment, bytes) in &open {
            self.grow_standing(*attachment, *bytes).await;
        }
        let grown: Vec<(AttachmentId, Record)> = {
            let held = self.inner.held.lock();
            open.into_iter()
                .filter_map(|(id, bytes)| {
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
    let mut used = standing::let_go(directory);
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
        let is_mount = entry.file_type().is_ok_and(|it| it.is_dir());
        if is_mount && !kept.contains(&name) {
            let _ = Mount::adopt(entry.path()).abort();
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
