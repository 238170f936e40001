//! A keeper that ends costs nothing as long as the daemon runs, which has everything open itself: the next
//! keeper is given all of it. So either may be replaced, one after the other.

use std::os::fd::AsFd;

use lockstep_keeper::Keeper;

use super::{Devices, Held};

impl Devices {
    /// Gives a keeper that has come anew what it lacks. One that is there is asked nothing.
    pub(super) async fn give_to_next_keeper(&self) {
        let watched = self.inner.watched.lock().as_ref().map(Keeper::has_ended);
        if watched == Some(false) || self.inner.held.lock().is_empty() {
            return;
        }
        // A device that is being made or taken apart is half kept on purpose.
        let _alone = self.inner.work.lock().await;
        match self.give_all().await {
            Ok(keeper) => *self.inner.watched.lock() = Some(keeper),
            Err(error) if watched == Some(true) => {
                tracing::warn!(error = %format!("{error:#}"), "no keeper has the block devices of this node: until one has, the end of this daemon costs their users errors");
                *self.inner.watched.lock() = None;
            }
            Err(error) => tracing::debug!(error = %format!("{error:#}"), "still no keeper"),
        }
    }

    async fn give_all(&self) -> anyhow::Result<Keeper> {
        let keeper = self.keeper().await?;
        let kept: Vec<String> = keeper.list()?.into_iter().map(|entry| entry.key).collect();
        let held: Vec<Held> = self.inner.held.lock().values().cloned().collect();
        for held in held {
            let record = held.record;
            let (Some(connection), Some(looped)) = (held.connection, held.looped) else {
                continue;
            };
            if kept.contains(&record.attachment) {
                continue;
            }
            let descriptors = [connection.as_fd(), looped.as_fd()];
            keeper.put(&record.attachment, &record.text(), &descriptors)?;
            tracing::info!(volume = %record.name, "another keeper has the device");
        }
        Ok(keeper)
    }
}
