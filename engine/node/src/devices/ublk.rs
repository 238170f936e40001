//! ublk devices. The kernel hands their requests to the ring; when the daemon ends, it keeps what it has not been
//! answered and hands it to the next.

use anyhow::Context;
use lockstep_types::EXTENT;
use lockstep_ublk::{Control, DEPTH, Parameters, Queue};
use tokio::task::spawn_blocking;

use super::standing::StandingRecord;
use crate::bridge::Bridge;

/// Makes the device of a volume with `size` bytes; its number.
pub(super) async fn make(
    bridge: &Bridge,
    record: &StandingRecord,
    size: u64,
) -> anyhow::Result<u32> {
    let parameters = Parameters {
        size,
        read_only: false,
        preferred: EXTENT as u32 / 4,
        own: own(record)?,
    };
    let made = spawn_blocking(move || -> anyhow::Result<(u32, Queue)> {
        let number = Control::open()?.add(&parameters)?;
        Ok((number, open(number)?))
    });
    let (number, queue) = made.await??;
    let (volume, attachment) = record.ids()?;
    bridge.serve_ublk(volume, attachment, queue, size).await;
    spawn_blocking(move || Control::open()?.start(number)).await??;
    Ok(number)
}

/// Serves a device whose daemon has gone.
pub(super) async fn take_over(
    bridge: &Bridge,
    record: &StandingRecord,
    number: u32,
    size: u64,
) -> anyhow::Result<()> {
    let begun = spawn_blocking(move || -> anyhow::Result<Queue> {
        let mut control = Control::open()?;
        match control.start_recovery(number) {
            // A daemon that began to take over and ended before it had: there is nothing to begin again.
            Err(error) if error.source.raw_os_error() == Some(EINVAL) => {}
            begun => begun?,
        }
        open(number)
    });
    let (volume, attachment) = record.ids()?;
    let queue = begun.await??;
    bridge.serve_ublk(volume, attachment, queue, size).await;
    Ok(spawn_blocking(move || Control::open()?.end_recovery(number)).await??)
}

/// The device's number in the kernel; none if it is not there.
pub(super) fn find(record: &StandingRecord) -> Option<u32> {
    Control::open().ok()?.find(own(record).ok()?)
}

const EINVAL: i32 = 22;

fn open(number: u32) -> anyhow::Result<Queue> {
    Queue::open(number, DEPTH).with_context(|| format!("cannot open /dev/ublkc{number}"))
}

/// What the kernel keeps of a device to find it by: half of the publication's id, which nobody else draws.
fn own(record: &StandingRecord) -> anyhow::Result<u64> {
    let (_, attachment) = record.ids()?;
    Ok(attachment.as_u128() as u64)
}
