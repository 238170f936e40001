//! Certificates of this process: a directory with `ca.crt`, `tls.crt` and `tls.key`, as a Secret of type
//! kubernetes.io/tls is mounted, read again when it changes. TLS 1.3 only.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use lockstep_net::tls::provider;
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Who signs clients.
const CA: &str = "ca.crt";
/// This process's certificate, its issuers after it.
const CERTIFICATE: &str = "tls.crt";
/// Its key.
const KEY: &str = "tls.key";
/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Whom a listener lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clients {
    /// Who shows a certificate of the CA: schedulers, people.
    Certified,
    /// Anybody: the API server shows no certificate unless it is told to.
    Anybody,
}

/// What is used for new connections.
#[derive(Debug)]
pub struct Tls {
    directory: PathBuf,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    files: Files,
    certified: Arc<ServerConfig>,
    anybody: Arc<ServerConfig>,
}

/// The files' content.
#[derive(PartialEq, Eq)]
struct Files {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

// A key is not for logs.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

impl Tls {
    /// Reads the directory.
    ///
    /// # Errors
    /// A file that is missing or is not what it should be, a key that does not belong to the certificate.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let current = Current::of(Files::read(directory)?)
            .with_context(|| format!("the certificates in {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            current: RwLock::new(current),
        })
    }

    /// For one new connection.
    pub fn acceptor(&self, clients: Clients) -> TlsAcceptor {
        let current = self.current.read();
        let config = match clients {
            Clients::Certified => &current.certified,
            Clients::Anybody => &current.anybody,
        };
        TlsAcceptor::from(Arc::clone(config))
    }

    /// Reads the directory again if a file has changed; whether one had. After an error what was read before
    /// stays in use: files are replaced one after the other.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reload(&self) -> anyhow::Result<bool> {
        let files = Files::read(&self.directory)?;
        if files == self.current.read().files {
            return Ok(false);
        }
        let next = Current::of(files)
            .with_context(|| format!("the certificates in {}", self.directory.display()))?;
        *self.current.write() = next;
        Ok(true)
    }

    /// Follows the files, for as long as it is polled.
    pub async fn follow(&self) {
        let mut period = tokio::time::interval(PERIOD);
        loop {
            period.tick().await;
            match self.reload() {
                Ok(true) => tracing::info!("new connections use new certificates"),
                Ok(false) => {}
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(
                        error,
                        "new certificates cannot be used; the old ones stay in use"
                    );
                }
            }
        }
    }
}

impl Files {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).with_context(|| {
                format!(
                    "{} cannot be read; {CA}, {CERTIFICATE} and {KEY} are needed there",
                    path.display()
                )
            })
        };
        Ok(Self {
            ca: read(CA)?,
            certificate: read(CERTIFICATE)?,
            key: read(KEY)?,
        })
    }

    fn chain(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        certificates(&self.certificate, CERTIFICATE)
    }

    fn key(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.key).with_context(|| format!("{KEY} holds no key"))
    }
}

impl Current {
    fn of(files: Files) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca, CA)? {
            roots
                .add(root)
                .with_context(|| format!("{CA} holds what is no authority"))?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let clients = clients.build().context("clients cannot be verified")?;
        let builder = || ServerConfig::builder_with_provider(provider());
        let certified = builder()
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(files.chain()?, files.key()?)
            .with_context(|| format!("{KEY} does not belong to {CERTIFICATE}"))?;
        let anybody = builder()
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(files.chain()?, files.key()?)?;
        Ok(Self {
            files,
            certified: Arc::new(finish(certified)),
            anybody: Arc::new(finish(anybody)),
        })
    }
}

/// A resumed session would skip the check of the client's certificate.
fn finish(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn certificates(pem: &[u8], name: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.with_context(|| format!("{name} holds no certificates"))?;
    ensure!(!all.is_empty(), "{name} holds no certificate");
    Ok(all)
}
