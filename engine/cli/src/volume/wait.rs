//! Waiting for a volume to become what was asked for, and showing how far it is.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use lockstep_api::{Client, proto};
use lockstep_node::units::Span;
use tonic::Code;

use crate::connect::words;
use crate::output::Output;
use crate::progress::{Progress, Share};

/// Of commands that only begin what they ask for.
#[derive(Args)]
pub struct WaitArgs {
    /// Return once it is done, and show progress until then
    #[arg(long)]
    pub wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "wait")]
    timeout: Span,
}

/// Of commands that wait unless they are told not to.
#[derive(Args)]
pub struct NoWaitArgs {
    /// Return at once: it is done in the background
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1m",
        conflicts_with = "no_wait"
    )]
    timeout: Span,
}

impl WaitArgs {
    /// How long to wait.
    pub fn patience(&self) -> Duration {
        self.timeout.0
    }
}

impl NoWaitArgs {
    /// How long to wait.
    pub fn patience(&self) -> Duration {
        self.timeout.0
    }
}

/// Waits until the volume satisfies `done`, and returns it.
///
/// # Errors
/// It does not within `patience`, or cannot be watched any longer.
pub async fn until(
    client: &Client,
    output: &Output,
    volume: &str,
    patience: Duration,
    done: impl Fn(&proto::Volume) -> bool,
) -> anyhow::Result<proto::Volume> {
    match watch(client, output, volume, patience, done).await? {
        Ended::Satisfied(volume) => Ok(*volume),
        Ended::Gone => bail!("volume '{volume}' was deleted while this command waited for it"),
    }
}

/// Waits until the volume is no more.
///
/// # Errors
/// It is still there after `patience`, or cannot be watched any longer.
pub async fn until_gone(
    client: &Client,
    output: &Output,
    volume: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    watch(client, output, volume, patience, |_| false)
        .await
        .map(drop)
}

/// Has all copies that it should have, in sync, and none that is to go.
pub fn is_settled(volume: &proto::Volume) -> bool {
    volume.status() == proto::VolumeStatus::Healthy && !volume.replicas.iter().any(|it| it.leaving)
}

enum Ended {
    Satisfied(Box<proto::Volume>),
    Gone,
}

async fn watch(
    client: &Client,
    output: &Output,
    volume: &str,
    patience: Duration,
    done: impl Fn(&proto::Volume) -> bool,
) -> anyhow::Result<Ended> {
    let progress = Progress::begin(output);
    progress.tell(format!("volume '{volume}'"), None);
    let mut last = None;
    let watched = async {
        let request = proto::WatchVolumeRequest {
            volume: volume.to_owned(),
            until_healthy: false,
        };
        let mut stream = match client.volumes().watch(request).await {
            Err(status) if status.code() == Code::NotFound => return Ok(Ended::Gone),
            begun => begun
                .map_err(|status| interrupted(status, volume))?
                .into_inner(),
        };
        loop {
            match stream.message().await {
                Ok(Some(seen)) => {
                    let seen = seen.volume.unwrap_or_default();
                    if done(&seen) {
                        return Ok(Ended::Satisfied(Box::new(seen)));
                    }
                    let (text, share) = state_of(&seen);
                    progress.tell(text.as_str(), share);
                    last = Some(text);
                }
                Ok(None) => bail!("the daemon stopped telling how volume '{volume}' is; {GOES_ON}"),
                Err(status) if status.code() == Code::NotFound => return Ok(Ended::Gone),
                Err(status) => return Err(interrupted(status, volume)),
            }
        }
    };
    if let Ok(ended) = tokio::time::timeout(patience, watched).await {
        return ended;
    }
    let state = last.unwrap_or_else(|| format!("nothing was heard of volume '{volume}'"));
    bail!(
        "not done after {} s: {state}; {GOES_ON}; 'lockstep explain volume {volume}' says what it waits for",
        patience.as_secs()
    )
}

const GOES_ON: &str = "it goes on in the background";

fn interrupted(status: tonic::Status, volume: &str) -> anyhow::Error {
    words(status).context(format!(
        "volume '{volume}' cannot be watched any longer; {GOES_ON}"
    ))
}

/// What a volume waits for, in a line, and how far that is.
fn state_of(volume: &proto::Volume) -> (String, Option<Share>) {
    let resyncing: Vec<_> = volume
        .replicas
        .iter()
        .filter_map(|replica| Some((replica, replica.resync.as_ref()?)))
        .collect();
    if resyncing.is_empty() {
        return (volume.headline.clone(), None);
    }
    let nodes: Vec<_> = resyncing
        .iter()
        .map(|(replica, _)| replica.node.as_str())
        .collect();
    let share = Share {
        done: resyncing
            .iter()
            .map(|(_, resync)| resync.extents_done)
            .sum(),
        total: resyncing.iter().map(|(_, resync)| resync.extents).sum(),
    };
    let text = format!(
        "volume '{}': resync of {}: {} of {} extents",
        volume.name,
        nodes.join(", "),
        share.done,
        share.total
    );
    (text, Some(share))
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::degraded;
    use super::*;

    #[test]
    fn a_resync_is_shown_as_a_share() {
        let (text, share) = state_of(&degraded());
        assert_eq!(text, "volume 'pg': resync of b1: 3 of 8 extents");
        assert_eq!(share, Some(Share { done: 3, total: 8 }));
    }

    #[test]
    fn without_a_resync_the_headline_is_shown() {
        let mut volume = degraded();
        volume.replicas.retain(|replica| replica.certified);
        assert_eq!(state_of(&volume), (volume.headline.clone(), None));
    }

    #[test]
    fn a_volume_is_settled_once_nothing_is_to_come_or_go() {
        let mut volume = degraded();
        assert!(!is_settled(&volume));
        volume.status = proto::VolumeStatus::Healthy.into();
        assert!(is_settled(&volume));
        volume.replicas[0].leaving = true;
        assert!(!is_settled(&volume));
    }
}
