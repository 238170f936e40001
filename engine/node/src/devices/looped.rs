//! Loop devices on files served over FUSE, for kernels with neither ublk nor an NBD client, or where the
//! configuration says so. Their descriptors are with the keeper, or they would go with the daemon.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lockstep_fuse::{Device, Mount, Negotiated};
use lockstep_keeper::{Entry, Keeper};
use lockstep_types::{AttachmentId, VolumeId};
use tokio::task::spawn_blocking;

use super::record::Record;
use super::steps::{self, CloseError};
use super::{Devices, Held, remove_leftovers};
use crate::config::KeeperFrom;
use crate::plane::ServeDevice;

/// How long the kernel may take to agree on a new mount.
const AGREE: Duration = Duration::from_secs(10);
/// How long a keeper may take to listen.
const LISTEN: Duration = Duration::from_secs(5);

impl Devices {
    /// Makes the device of a volume that is open here with so many bytes; nothing is left if that fails.
    pub(super) async fn open_looped(
        &self,
        (volume, attachment): (VolumeId, AttachmentId),
        name: &str,
        bytes: u64,
    ) -> anyhow::Result<PathBuf> {
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

    pub(super) async fn close_looped(&self, attachment: AttachmentId) -> Result<(), CloseError> {
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
        let own = record.clone();
        self.bounded(&record.name, move || steps::write_back(&own))
            .await?;
        let keeper = self.keeper().await?;
        // The keeper lets go of the loop device, as this daemon does, and keeps the connection while it may be asked.
        self.keep_connection_only(&keeper, &record)?;
        if let Some(held) = self.inner.held.lock().get_mut(&attachment) {
            held.looped = None;
        }
        let own = record.clone();
        self.bounded(&record.name, move || steps::detach_loop(&own))
            .await?;
        let own = record.clone();
        self.bounded(&record.name, move || steps::unmount(&own))
            .await?;
        keeper
            .remove(&record.attachment)
            .map_err(anyhow::Error::from)?;
        self.inner.bridge.unserve(attachment).await;
        self.inner.held.lock().remove(&attachment);
        tracing::info!(volume = %record.name, "the device is closed");
        Ok(())
    }

    pub(super) async fn take_over(&self) {
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
        let path = Some(steps::link_loop(&record));
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
        let path = steps::link_loop(&record);
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
    pub(super) async fn keeper(&self) -> anyhow::Result<Keeper> {
        let path = self.inner.directory.keeper_socket();
        match Keeper::connect(&path) {
            Ok(keeper) => return Ok(keeper),
            Err(error) if self.inner.config.keeper == KeeperFrom::External => {
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

    fn keep_connection_only(&self, keeper: &Keeper, record: &Record) -> anyhow::Result<()> {
        let entries = keeper.list()?;
        let kept = entries.iter().find(|entry| entry.key == record.attachment);
        let connection = kept.and_then(|entry| entry.descriptors.first());
        let connection = connection.context("the keeper does not have the device any more")?;
        Ok(keeper.put(&record.attachment, &record.text(), &[connection.as_fd()])?)
    }
}
