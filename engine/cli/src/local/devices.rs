//! Block devices of a local cluster that is taken down: those in no use are closed in order, the rest
//! fails whoever uses it. A cluster that is down for good must leave none behind.

use lockstep_api::{Target, connect, proto};
use lockstep_node::devices;
use rustix::process::{Pid, Signal};

use super::layout::{Layout, LocalNode};

/// Asks every daemon that answers to close its block devices, with everything written to them.
///
/// # Errors
/// None: what cannot be closed is told of when it is let go.
pub async fn close_devices(layout: &Layout) -> anyhow::Result<()> {
    for node in &layout.nodes {
        let directory = layout.directory(node);
        let Ok(client) = connect(Target::Unix(directory.admin_socket())).await else {
            continue;
        };
        let Ok(listed) = client.devices().list(proto::ListDevicesRequest {}).await else {
            continue;
        };
        for device in listed.into_inner().devices {
            if device.front_end() != proto::FrontEnd::Nbd {
                let request = proto::CloseDeviceRequest {
                    volume: device.volume,
                    attachment: device.attachment,
                };
                // One in use stays, and is told of when it is let go.
                let _ = client.devices().close(request).await;
            }
        }
    }
    Ok(())
}

/// Ends the keepers of a cluster whose daemons have stopped; the volumes whose devices were in use.
///
/// # Errors
/// A keeper does not do as it is told.
pub fn let_go(layout: &Layout) -> anyhow::Result<Vec<String>> {
    let mut used = Vec::new();
    for node in &layout.nodes {
        used.extend(let_go_of(layout, node)?);
    }
    Ok(used)
}

/// As [`let_go`], of one node.
///
/// # Errors
/// Its keeper does not do as it is told.
pub fn let_go_of(layout: &Layout, node: &LocalNode) -> anyhow::Result<Vec<String>> {
    devices::let_go(&layout.directory(node))
}

/// Kills the keeper of a node, as the end of its host would.
pub fn kill_keeper(layout: &Layout, node: &LocalNode) {
    let pid = devices::keeper_pid(&layout.directory(node)).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}
