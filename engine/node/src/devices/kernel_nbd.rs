//! Devices of the kernel's NBD client. The daemon's data plane is their server, over a socketpair: one end is given
//! to the ring, the other, after the handshake, to the kernel. When the daemon ends, the kernel keeps what it has not
//! been answered, and the next daemon gives it another socket.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context;
use lockstep_kernel_nbd::Parameters;
use lockstep_nbd::client::{Blocking, Export, Options};
use lockstep_types::BLOCK;
use tokio::task::spawn_blocking;

use super::standing::StandingRecord;
use crate::bridge::Bridge;

/// How long the ring may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the kernel waits for an answer before it asks again by the next connection. It is how long a restart of the
/// daemon may cost at the most, beside the daemon's own time: nothing is asked again sooner.
const REQUEST: Duration = Duration::from_secs(5);
/// How long requests wait for a daemon before they fail.
const DEAD: Duration = Duration::from_secs(24 * 3600);

/// Makes the device; its number.
pub(super) async fn make(bridge: &Bridge, record: &StandingRecord) -> anyhow::Result<u32> {
    let (socket, export) = session(bridge, record).await?;
    let parameters = Parameters {
        size: export.size,
        block: BLOCK as u32,
        flags: export.flags,
        request_timeout: REQUEST,
        dead_after: DEAD,
        backend: record.label(),
    };
    let made = spawn_blocking(move || lockstep_kernel_nbd::connect(socket.as_fd(), &parameters));
    Ok(made.await??)
}

/// Gives the device another connection in place of its dead one.
pub(super) async fn reconnect(
    bridge: &Bridge,
    record: &StandingRecord,
    number: u32,
) -> anyhow::Result<()> {
    let (socket, _) = session(bridge, record).await?;
    let backend = record.label();
    let done =
        spawn_blocking(move || lockstep_kernel_nbd::reconnect(number, &backend, socket.as_fd()));
    Ok(done.await??)
}

/// A session with the data plane, bound to the device's publication: the socket to be given to the kernel.
async fn session(bridge: &Bridge, record: &StandingRecord) -> anyhow::Result<(UnixStream, Export)> {
    let (volume, attachment) = record.ids()?;
    let (ours, kernels) = UnixStream::pair().context("no socketpair")?;
    bridge.serve_kernel(volume, attachment, ours.into()).await;
    // The kernel speaks the simple replies only.
    let options = Options {
        export: record.name.clone(),
        structured: false,
        allocation: false,
    };
    let shaken = spawn_blocking(move || Blocking::shake_hands(kernels, options, HANDSHAKE));
    Ok(shaken.await??)
}
