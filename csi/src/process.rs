//! The end of a process, as whoever runs it asks for it.

use tokio::signal::unix::{SignalKind, signal};

/// Ends with the first SIGTERM or SIGINT.
pub async fn told_to_end() {
    let (Ok(mut terminated), Ok(mut interrupted)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    tracing::info!("told to end");
}
