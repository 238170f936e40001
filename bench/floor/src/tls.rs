//! Sockets of the floor: plain, or TLS 1.3 with the cipher that Lockstep's links use.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{StreamOwned, version::TLS13};

const NAME: &str = "floor.test";
const CERTIFICATE: &str = "lockstep-floor.pem";
const KEY: &str = "lockstep-floor.key";

/// One end of a hop.
pub enum Socket {
    /// To a replica, or from a client.
    Tcp(TcpStream),
    /// From a client on the same machine, as a front-end has it.
    Unix(UnixStream),
    /// The primary's end of a link.
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// A replica's end of a link.
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(into),
            Self::Unix(socket) => socket.read(into),
            Self::Client(socket) => socket.read(into),
            Self::Server(socket) => socket.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
            Self::Client(socket) => socket.write(bytes),
            Self::Server(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.flush(),
            Self::Unix(socket) => socket.flush(),
            Self::Client(socket) => socket.flush(),
            Self::Server(socket) => socket.flush(),
        }
    }
}

/// Writes a certificate and its key to `directory`, for one measurement.
pub fn make_certificate(directory: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(directory.join(CERTIFICATE), made.cert.pem())?;
    std::fs::write(directory.join(KEY), made.signing_key.serialize_pem())?;
    Ok(())
}

/// Both ends' settings.
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// From what [`make_certificate`] wrote.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let at = directory.join(CERTIFICATE);
        let certificate = CertificateDer::from_pem_file(&at)
            .with_context(|| format!("no certificate at {}", at.display()))?;
        let key = PrivateKeyDer::from_pem_file(directory.join(KEY))?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..aws_lc_rs::default_provider()
        });
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// The dialling end.
    pub fn dialled(&self, socket: TcpStream) -> anyhow::Result<Socket> {
        let name = ServerName::try_from(NAME)?;
        let session = ClientConnection::new(Arc::clone(&self.client), name)?;
        let stream = StreamOwned::new(session, socket);
        Ok(Socket::Client(Box::new(stream)))
    }

    /// The listening end.
    pub fn accepted(&self, socket: TcpStream) -> anyhow::Result<Socket> {
        let session = ServerConnection::new(Arc::clone(&self.server))?;
        let stream = StreamOwned::new(session, socket);
        Ok(Socket::Server(Box::new(stream)))
    }
}
