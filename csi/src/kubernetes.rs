//! Asking the API server as the pod's own service account. One connection a question: it is asked every few
//! seconds at most, and what a container is given (token, CA) may change while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where kubelet puts what a service account needs.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer, at most: a list of all pods of a large cluster's nodes.
const LONGEST: usize = 64 << 20;

/// Why the API server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It cannot be asked.
    #[error("the API server at {address} cannot be asked: {source:#}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why.
        source: anyhow::Error,
    },
    /// It said no.
    #[error("the API server refuses {what}: {code} {message}")]
    Refused {
        /// The method and the path.
        what: String,
        /// Its code.
        code: StatusCode,
        /// In its words.
        message: String,
    },
}

impl ApiError {
    /// Somebody else changed the object meanwhile; look again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == StatusCode::CONFLICT)
    }
}

/// The API server of the cluster in which this process runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    host: String,
    port: u16,
    account: PathBuf,
}

/// What the API server says of a failure.
#[derive(Deserialize)]
struct Failure {
    message: String,
}

impl Api {
    /// As the environment and the account of a pod say it.
    ///
    /// # Errors
    /// This is no pod.
    pub fn of_this_pod() -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("{name} is not set: this is not a pod of a Kubernetes"))
        };
        Ok(Self {
            host: variable("KUBERNETES_SERVICE_HOST")?,
            port: variable("KUBERNETES_SERVICE_PORT")?.parse()?,
            account: Path::new(ACCOUNT).to_owned(),
        })
    }

    /// One that nobody answers for.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 1,
            account: "/nonexistent".into(),
        }
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let body = self.ask(Method::GET, path, Bytes::new()).await?;
        self.read(&body)
    }

    /// Changes an object by a merge patch (RFC 7386): what is null goes, what is not named stays.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn patch(&self, path: &str, patch: &serde_json::Value) -> Result<(), ApiError> {
        let body = Bytes::from(patch.to_string());
        self.ask(Method::PATCH, path, body).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let what = format!("{method} {path}");
        let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        let exchanged = match asked {
            Ok(exchanged) => exchanged,
            Err(_) => Err(anyhow::anyhow!("no answer in {PATIENCE:?}")),
        };
        let (code, bytes) = exchanged.map_err(|source| self.unreachable(source))?;
        if code.is_success() {
            return Ok(bytes);
        }
        let failure = serde_json::from_slice::<Failure>(&bytes);
        Err(ApiError::Refused {
            what,
            code,
            message: failure.map_or_else(|_| "without words".into(), |it| it.message),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let name = ServerName::try_from(self.host.clone())?;
        let stream = self.connector()?.connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        let connection = tokio::spawn(connection);
        let token = std::fs::read_to_string(self.account.join("token"))
            .context("the service account's token cannot be read")?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.authority())
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("accept", "application/json")
            .header("content-type", "application/merge-patch+json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        connection.abort();
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        Ok((code, body.to_bytes()))
    }

    fn connector(&self) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        let path = self.account.join("ca.crt");
        for certificate in CertificateDer::pem_file_iter(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
        {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ApiError> {
        serde_json::from_slice(body)
            .context("its answer is not what was asked for")
            .map_err(|source| self.unreachable(source))
    }

    fn unreachable(&self, source: anyhow::Error) -> ApiError {
        ApiError::Unreachable {
            address: self.authority(),
            source,
        }
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}
