//! Checking a peer's certificate during the handshake: the chain to the cluster's CA and its
//! validity first, then the identity inside: cluster, role, and for a dialled peer the node.

use std::sync::Arc;

use lockstep_types::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, SignatureScheme,
};

use crate::ca::sha256;
use crate::certificates::{Certificates, Refusal};
use crate::identity::{PeerIdentity, Role, RoleSet};
use crate::tls::provider;

/// Why a peer was not let in, or did not let us in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// Its certificate was signed by another authority, or names another cluster.
    #[error("the peer belongs to another cluster{}; check the address, and that both nodes joined with tokens of the same cluster", claimed.map(|id| format!(" ({id})")).unwrap_or_default())]
    ForeignCluster {
        /// The cluster its certificate names, if that could be trusted so far.
        claimed: Option<ClusterId>,
    },
    /// Its certificate is past its end.
    #[error("the peer's certificate has expired; renew it on the peer, and check both clocks")]
    Expired,
    /// Its certificate has not begun.
    #[error("the peer's certificate is not valid yet; check the clocks of both nodes")]
    NotYetValid,
    /// A port that is not for this role.
    #[error("the peer is a {found}; only {allowed} may connect here")]
    WrongRole {
        /// Who may.
        allowed: RoleSet,
        /// Who it is.
        found: Role,
    },
    /// Another node answers at this address.
    #[error("node {expected} was dialled and node {found} answered; correct the node's address")]
    WrongNode {
        /// Who was dialled.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// It was removed from the cluster.
    #[error("node {0} was removed from the cluster and its certificate is barred; stop its daemon")]
    Removed(NodeId),
    /// The certificate names no identity of ours.
    #[error("the peer's certificate is not one of Lockstep's: {why}")]
    NoIdentity {
        /// What is missing.
        why: String,
    },
    /// The join port's certificate is not under the CA the token names.
    #[error(
        "the node that answered does not belong to the cluster of this join token; check the address, or take a new token"
    )]
    NotTheTokensCluster,
    /// The other side refused our certificate.
    #[error("the peer refused this node's certificate ({alert}); its log has the reason")]
    RefusedUs {
        /// The alert it sent.
        alert: String,
    },
}

/// The reason inside a failed handshake's error, if it is about the peer's certificate or ours.
pub fn refusal(error: &Error) -> Option<PeerRefused> {
    use AlertDescription as Alert;
    match error {
        Error::InvalidCertificate(why) => match why {
            CertificateError::Other(OtherError(inner)) => {
                inner.downcast_ref::<PeerRefused>().cloned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Some(PeerRefused::Expired)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Some(PeerRefused::NotYetValid)
            }
            CertificateError::UnknownIssuer => Some(PeerRefused::ForeignCluster { claimed: None }),
            other => Some(PeerRefused::NoIdentity {
                why: other.to_string(),
            }),
        },
        Error::NoCertificatesPresented => Some(PeerRefused::NoIdentity {
            why: "it presented no certificate".into(),
        }),
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired),
        ) => Some(PeerRefused::RefusedUs {
            alert: format!("{alert:?}"),
        }),
        _ => None,
    }
}

/// [`refusal`] for an I/O error of tokio-rustls, which wraps rustls's own.
pub fn refusal_of_io(error: &std::io::Error) -> Option<PeerRefused> {
    refusal(error.get_ref()?.downcast_ref::<Error>()?)
}

/// Whom a client dials, carried in rustls's server name: `<node id>.<role>.lockstep`, or
/// `any.<role>.lockstep`. No DNS is involved, and the name is not sent (SNI is off).
pub fn dialled_name(role: Role, node: Option<NodeId>) -> ServerName<'static> {
    let node = node.map_or_else(|| "any".to_owned(), |node| node.to_string());
    ServerName::try_from(format!("{node}.{role}.lockstep"))
        .expect("hexadecimal digits and a role's name make a DNS name")
}

/// What a [`dialled_name`] asks for; `None` for any other name.
fn expectation(name: &ServerName<'_>) -> Option<(Role, Option<NodeId>)> {
    let ServerName::DnsName(name) = name else {
        return None;
    };
    let (node, rest) = name.as_ref().split_once('.')?;
    let role = rest.strip_suffix(".lockstep")?;
    let role = Role::ALL
        .into_iter()
        .find(|candidate| candidate.name() == role)?;
    match node {
        "any" => Some((role, None)),
        node => Some((role, Some(node.parse().ok()?))),
    }
}

/// Checks peers against the *current* content of a certificate store, so that a reload takes
/// effect without new configurations.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    certificates: Arc<Certificates>,
    /// Whom the listening side lets in.
    allowed: RoleSet,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(crate) fn new(certificates: Arc<Certificates>, allowed: RoleSet) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self {
            certificates,
            allowed,
            algorithms,
        }
    }

    fn identity(&self, der: &[u8]) -> Result<PeerIdentity, Error> {
        let identity = PeerIdentity::from_cert(der).map_err(refused)?;
        let ours = self.certificates.current().identity().cluster;
        if identity.cluster != ours {
            return Err(refused(PeerRefused::ForeignCluster {
                claimed: Some(identity.cluster),
            }));
        }
        if self.certificates.is_barred(identity.node) {
            return Err(refused(PeerRefused::Removed(identity.node)));
        }
        Ok(identity)
    }

    /// Keeps what was refused, and whose it was, for people.
    fn note<T>(&self, der: &[u8], result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            let why = refusal(error).map_or_else(|| error.to_string(), |why| why.to_string());
            self.certificates.note_refusal(Refusal {
                whose: PeerIdentity::from_cert(der).ok(),
                why,
            });
        }
        result
    }

    fn check_server(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            self.certificates.current().roots(),
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let found = self.identity(end_entity)?;
        let Some((role, node)) = expectation(server_name) else {
            return Err(refused(PeerRefused::NoIdentity {
                why: "the dialler named no Lockstep node to expect".into(),
            }));
        };
        if found.role != role {
            let allowed = RoleSet::of(&[role]);
            return Err(refused(PeerRefused::WrongRole {
                allowed,
                found: found.role,
            }));
        }
        match node {
            Some(expected) if expected != found.node => Err(refused(PeerRefused::WrongNode {
                expected,
                found: found.node,
            })),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn check_client(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let roots = Arc::clone(self.certificates.current().roots());
        WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| Error::General(e.to_string()))?
            .verify_client_cert(end_entity, intermediates, now)?;
        let found = self.identity(end_entity)?.role;
        if !self.allowed.contains(found) {
            return Err(refused(PeerRefused::WrongRole {
                allowed: self.allowed,
                found,
            }));
        }
        Ok(ClientCertVerified::assertion())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.check_server(end_entity, intermediates, server_name, now);
        self.note(end_entity, checked)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a client has one certificate, and hints would name the cluster to strangers.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.check_client(end_entity, intermediates, now);
        self.note(end_entity, checked)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A joiner's check: it has no ca.pem yet, but knows the hash of the CA it must find in the chain.
#[derive(Debug)]
pub(crate) struct JoinVerifier {
    ca_sha256: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl JoinVerifier {
    pub(crate) fn new(ca_sha256: [u8; 32]) -> Self {
        Self {
            ca_sha256,
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let foreign = || refused(PeerRefused::NotTheTokensCluster);
        let ca = intermediates
            .iter()
            .find(|c| sha256(c) == self.ca_sha256)
            .ok_or_else(foreign)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(|_| foreign())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, self.algorithms.all)?;
        let found = PeerIdentity::from_cert(end_entity).map_err(refused)?.role;
        // Only a daemon answers joiners: a stolen admin certificate must not collect secrets.
        let allowed = RoleSet::DAEMONS;
        if !allowed.contains(found) {
            return Err(refused(PeerRefused::WrongRole { allowed, found }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(why: PeerRefused) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

fn tls13_only() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}
