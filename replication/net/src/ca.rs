//! The cluster's certificate authority: created once at `init`, kept wrapped on data voters
//! ([`crate::wrap`]), asked to sign by whoever holds a join token or a certificate to renew.
//! Private keys of nodes never travel: a node makes its key and sends a [`NodeRequest`].

use std::time::Duration;

use lockstep_types::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::NetError;
use crate::identity::PeerIdentity;

/// Clocks may disagree by this much, or jump back: a certificate starts this long before it is made.
const BACKDATE: u64 = 86_400;

/// When a certificate holds, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

impl Validity {
    /// From a day before `now` (seconds since 1970) for `lifetime` from now.
    pub fn starting(now: u64, lifetime: Duration) -> Self {
        Self {
            not_before: now.saturating_sub(BACKDATE),
            not_after: now.saturating_add(lifetime.as_secs()),
        }
    }

    fn apply(self, params: &mut CertificateParams) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(self.not_before);
        params.not_after = epoch + Duration::from_secs(self.not_after);
    }
}

/// A key made on the node that will use it, and the request for its certificate.
pub struct NodeRequest {
    key: KeyPair,
    request: String,
}

impl NodeRequest {
    /// Makes a P-256 key and a request for it.
    ///
    /// # Errors
    /// The crypto library's own.
    pub fn generate() -> Result<Self, NetError> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default()
            .serialize_request(&key)?
            .pem()?;
        Ok(Self { key, request })
    }

    /// The request to send to the CA, PEM.
    pub fn pem(&self) -> &str {
        &self.request
    }

    /// The private key, PEM, for `node.key`.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// A certificate and its key, as files want them.
pub struct Issued {
    /// The leaf certificate, PEM.
    pub certificate: String,
    /// Its private key, PKCS#8 PEM.
    pub key: String,
}

/// The authority itself: certificate and private key, in memory only while it signs.
pub struct ClusterCa {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClusterCa {
    /// A new authority for `cluster`.
    ///
    /// # Errors
    /// The crypto library's own.
    pub fn create(cluster: ClusterId, validity: Validity) -> Result<Self, NetError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("lockstep cluster {cluster}"));
        // A leaf cannot be made an authority by whoever steals it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial()?);
        validity.apply(&mut params);
        let certificate = params.self_signed(&key)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Ok(Self {
            cluster,
            certificate: der,
            pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority from its certificate and its unwrapped PKCS#8 key.
    ///
    /// # Errors
    /// [`NetError::Malformed`], or [`NetError::KeyMismatch`] if they are of different pairs.
    pub fn from_parts(cluster: ClusterId, pem: &str, key_der: &[u8]) -> Result<Self, NetError> {
        let bad = |why: String| NetError::Malformed {
            what: "the CA certificate",
            why,
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| bad(e.to_string()))?
            .into_owned();
        let key = KeyPair::try_from(key_der).map_err(|e| NetError::Malformed {
            what: "the CA key",
            why: e.to_string(),
        })?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|e| bad(e.to_string()))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(NetError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            cluster,
            certificate,
            pem: pem.to_owned(),
            issuer,
        })
    }

    /// The CA certificate, PEM, for every node's `ca.pem`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the CA certificate: what a join token carries.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// The private key, PKCS#8 DER; give it to [`crate::wrap::wrap`] and nowhere else.
    pub fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// Signs a node's request. Nothing but the public key is taken from the request: what the
    /// certificate says is this side's decision.
    ///
    /// # Errors
    /// [`NetError::Malformed`] if the request's own signature does not hold.
    ///
    /// # Panics
    /// If `identity` is of another cluster.
    pub fn sign(
        &self,
        request_pem: &str,
        identity: PeerIdentity,
        validity: Validity,
    ) -> Result<String, NetError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| {
            NetError::Malformed {
                what: "the certificate request",
                why: e.to_string(),
            }
        })?;
        self.certify(&request.public_key, identity, validity)
    }

    /// Makes a key and its certificate in one step, for `init`, tests and local tools.
    ///
    /// # Errors
    /// The crypto library's own.
    ///
    /// # Panics
    /// If `identity` is of another cluster.
    pub fn issue(&self, identity: PeerIdentity, validity: Validity) -> Result<Issued, NetError> {
        let key = KeyPair::generate()?;
        let certificate = self.certify(&key, identity, validity)?;
        Ok(Issued {
            certificate,
            key: key.serialize_pem(),
        })
    }

    fn certify(
        &self,
        public_key: &impl PublicKeyData,
        identity: PeerIdentity,
        validity: Validity,
    ) -> Result<String, NetError> {
        assert_eq!(
            identity.cluster, self.cluster,
            "a CA signs for its own cluster only"
        );
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{} {}", identity.role, identity.node));
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every daemon both listens and dials.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        validity.apply(&mut params);
        Ok(params.signed_by(public_key, &self.issuer)?.pem())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn random_serial() -> Result<SerialNumber, NetError> {
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| NetError::Crypto("the system's random generator failed".into()))?;
    serial[0] &= 0x7f; // positive, as RFC 5280 asks
    Ok(SerialNumber::from_slice(&serial))
}
