//! The socket that kubelet and the sidecars speak CSI over.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as Poller, Poll};
use std::time::Instant;

use anyhow::{Context, bail};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Router;
use tonic::{Response, Status};

/// A listening Unix socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on `unix:///PATH` or `/PATH`. A socket that nobody answers on is what a driver that was killed
    /// left, and is replaced.
    ///
    /// # Errors
    /// Somebody answers there, something else lies there, or the system refuses.
    pub fn listen(endpoint: &str) -> anyhow::Result<Self> {
        let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        if !path.is_absolute() {
            bail!("the endpoint '{endpoint}' is no absolute path; give unix:///csi/csi.sock");
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
            Ok(found) => {
                use std::os::unix::fs::FileTypeExt;
                if !found.file_type().is_socket() {
                    bail!("{} is there and is no socket; it stays", path.display());
                }
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    bail!("another driver serves {}", path.display());
                }
                std::fs::remove_file(path)?;
            }
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until told to end; calls that are under way are finished.
    ///
    /// # Errors
    /// The transport's.
    pub async fn serve(self, router: Router, end: impl Future<Output = ()>) -> anyhow::Result<()> {
        let served = router
            .serve_with_incoming_shutdown(Incoming(&self.listener), end)
            .await;
        served.with_context(|| format!("serving {}", self.path.display()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A later driver would take it for a stale one anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Incoming<'a>(&'a UnixListener);

impl tokio_stream::Stream for Incoming<'_> {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_accept(cx)
            .map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

/// Runs a call to its end even if the caller gives up: half of a mount is nobody's wish. What was called,
/// on what, and how it ended is logged, never what was sent: that may hold secrets.
///
/// # Errors
/// The call's.
pub async fn call<T: Send + 'static>(
    name: &'static str,
    object: String,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let begin = Instant::now();
    let done = tokio::spawn(async move {
        let result = work.await;
        let ms = begin.elapsed().as_millis() as u64;
        match &result {
            Ok(_) => tracing::info!(call = name, %object, ms, "done"),
            Err(status) => {
                tracing::warn!(call = name, %object, ms, code = ?status.code(), "{}", status.message());
            }
        }
        result
    });
    match done.await {
        Ok(result) => result.map(Response::new),
        Err(error) => Err(Status::internal(format!("{name} ended early: {error}"))),
    }
}
