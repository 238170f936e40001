//! What can go wrong with certificates on this node. What is wrong with a *peer* is
//! [`crate::PeerRefused`].

use std::path::PathBuf;

/// A failure of this node's own certificates, keys or files.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}; check that the certificate directory exists and belongs to the daemon", path.display())]
    File {
        /// "read", "write", …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A private key can be read by other users.
    #[error("{} has mode {mode:o}; a private key must be readable by its owner only: chmod 600 it, and replace the certificate if others may have read it", path.display())]
    KeyExposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A PEM or DER object does not say what it should.
    #[error("{what} is unusable: {why}; issue it again with the cluster's CA")]
    Malformed {
        /// Which object.
        what: &'static str,
        /// What the parser said.
        why: String,
    },
    /// Certificate and key are of different pairs.
    #[error("node.pem and node.key do not belong together; install both from the same issue")]
    KeyMismatch,
    /// The node's certificate does not chain to ca.pem.
    #[error("node.pem is not signed by ca.pem ({why}); install both from the same cluster")]
    NotOurCa {
        /// What the chain check said.
        why: String,
    },
    /// A reload brought the certificate of another node or cluster.
    #[error(
        "node.pem now names {found} where this daemon runs as {running}; restart it if that is intended"
    )]
    IdentityChanged {
        /// What the daemon started with.
        running: String,
        /// What lies in the directory.
        found: String,
    },
    /// The cluster secret does not open the wrapped CA key.
    #[error(
        "the CA key does not open with this cluster secret, or its file is damaged; take the secret of this cluster, or the copy of another data voter"
    )]
    Unwrap,
    /// The bytes are no wrapped CA key of a known version.
    #[error("not a wrapped CA key of a version this release reads: {why}")]
    WrappedFormat {
        /// Which field.
        why: &'static str,
    },
    /// rcgen or the crypto library refused.
    #[error("certificate operation failed: {0}")]
    Crypto(String),
    /// rustls refused the configuration.
    #[error("TLS configuration refused: {0}")]
    Tls(#[from] rustls::Error),
}

impl NetError {
    /// A stable code for logs, metrics and documentation.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "net.file",
            Self::KeyExposed { .. } => "net.key-exposed",
            Self::Malformed { .. } => "net.malformed",
            Self::KeyMismatch => "net.key-mismatch",
            Self::NotOurCa { .. } => "net.not-our-ca",
            Self::IdentityChanged { .. } => "net.identity-changed",
            Self::Unwrap => "net.unwrap",
            Self::WrappedFormat { .. } => "net.wrapped-format",
            Self::Crypto(_) => "net.crypto",
            Self::Tls(_) => "net.tls",
        }
    }
}

impl From<rcgen::Error> for NetError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}
