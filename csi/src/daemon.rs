//! Asking a Lockstep daemon: the one of this node, or any that answers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lockstep_api::error::{UNKNOWN, stable_code};
use lockstep_api::{Client, Target, connect, proto};
use lockstep_types::VolumeId;
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

/// How long one question may take, retries of the daemon's own included.
const PATIENCE: Duration = Duration::from_secs(50);

/// The daemons that can be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Daemon {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    targets: Vec<Target>,
    /// Whom the last question went to, and its number in `targets`.
    current: Mutex<(usize, Option<Client>)>,
}

impl Daemon {
    /// Asks the first of these that answers.
    ///
    /// # Panics
    /// Without any.
    pub fn new(targets: Vec<Target>) -> Self {
        assert!(!targets.is_empty(), "somebody must be asked");
        Self {
            inner: Arc::new(Inner {
                targets,
                current: Mutex::new((0, None)),
            }),
        }
    }

    /// Asks. A daemon that is gone is passed over for the next; so what is asked must be safe to ask twice,
    /// as everything that the interface offers is.
    ///
    /// # Errors
    /// The daemon's, in its words; UNAVAILABLE if none answers.
    pub async fn ask<T, F, Fut>(&self, question: F) -> Result<T, Status>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut last = None;
        for _ in 0..self.inner.targets.len() {
            let client = self.client().await?;
            let answer = tokio::time::timeout(PATIENCE, question(client)).await;
            let answer = answer.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(
                    "the daemon has not answered in 50 s",
                ))
            });
            match answer {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status)
                    if status.code() == Code::Unavailable && stable_code(&status).is_none() =>
                {
                    self.pass_over().await;
                    last = Some(status);
                }
                Err(status) => return Err(translated(&status)),
            }
        }
        let why = last.map_or_else(String::new, |status| status.message().to_owned());
        Err(Status::unavailable(format!(
            "no daemon of the cluster answers: {why}"
        )))
    }

    /// A volume by its id.
    ///
    /// # Errors
    /// NOT_FOUND if there is none, or [`Self::ask`]'s.
    pub async fn volume(&self, id: VolumeId) -> Result<proto::Volume, Status> {
        let volume = id.to_string();
        let shown = self.ask(|client| {
            let request = proto::ShowVolumeRequest {
                volume: volume.clone(),
            };
            async move { client.volumes().show(request).await }
        });
        let shown = shown.await?;
        // What has an id for its name is not what was meant.
        if shown.id != volume {
            return Err(Status::not_found(format!("volume {volume} does not exist")));
        }
        Ok(shown)
    }

    /// Whether nothing has been written to a volume, as its certified copies know.
    ///
    /// # Errors
    /// [`Self::ask`]'s; UNAVAILABLE if none of them can be asked.
    pub async fn is_blank(&self, id: VolumeId) -> Result<bool, Status> {
        let ask = |client: Client| {
            let request = proto::IsBlankRequest {
                volume: id.to_string(),
                here: false,
            };
            async move { client.volumes().is_blank(request).await }
        };
        // Said only where it is certain.
        Ok(self.ask(ask).await?.blank == Some(true))
    }

    /// All nodes.
    ///
    /// # Errors
    /// [`Self::ask`]'s.
    pub async fn nodes(&self) -> Result<Vec<proto::Node>, Status> {
        let list =
            |client: Client| async move { client.nodes().list(proto::ListNodesRequest {}).await };
        Ok(self.ask(list).await?.nodes)
    }

    /// Whether the daemon is well, asked for a second.
    pub async fn is_healthy(&self) -> bool {
        let asked = self.ask(|client| async move {
            let mut request = Request::new(proto::HealthRequest {});
            request.set_timeout(Duration::from_secs(1));
            client.cluster().health(request).await
        });
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
        matches!(answer, Ok(Ok(reply)) if reply.healthy)
    }

    async fn client(&self) -> Result<Client, Status> {
        let mut current = self.inner.current.lock().await;
        if let Some(client) = &current.1 {
            return Ok(client.clone());
        }
        let mut why = String::new();
        let count = self.inner.targets.len();
        for step in 0..count {
            let number = (current.0 + step) % count;
            match connect(self.inner.targets[number].clone()).await {
                Ok(client) => {
                    *current = (number, Some(client.clone()));
                    return Ok(client);
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(Status::unavailable(why))
    }

    async fn pass_over(&self) {
        let mut current = self.inner.current.lock().await;
        *current = ((current.0 + 1) % self.inner.targets.len(), None);
    }
}

/// As the caller may hear it. What may have been done is asked again: UNAVAILABLE, for sidecars take UNKNOWN
/// for a failure.
fn translated(status: &Status) -> Status {
    let code = match stable_code(status) {
        Some(UNKNOWN) => Code::Unavailable,
        _ => status.code(),
    };
    Status::new(code, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_asked_again() {
        let unknown = lockstep_api::error::status(Code::Unknown, UNKNOWN, "perhaps");
        assert_eq!(translated(&unknown).code(), Code::Unavailable);
        let refused = lockstep_api::error::invalid("no");
        assert_eq!(translated(&refused).code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn nobody_at_home_is_unavailable() {
        let nowhere = Target::Unix("/nonexistent/admin.sock".into());
        let daemon = Daemon::new(vec![nowhere.clone(), nowhere]);
        assert_eq!(
            daemon.nodes().await.expect_err("nobody").code(),
            Code::Unavailable
        );
        assert!(!daemon.is_healthy().await);
    }
}
