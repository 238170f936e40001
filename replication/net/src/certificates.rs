//! A node's certificates: a directory with `ca.pem`, `node.pem` and `node.key` (mode 0600),
//! loaded at start and reloaded live. Configurations made from a store ask it at each handshake:
//! new connections use the new certificate, existing ones live on with theirs.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_types::NodeId;
use parking_lot::{Mutex, RwLock};
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::ca::{Issued, sha256};
use crate::error::NetError;
use crate::identity::PeerIdentity;
use crate::tls::provider;

const CA: &str = "ca.pem";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node.key";
/// The key of a certificate that is being installed.
const NEXT_KEY: &str = "node.key.next";

/// The store: a directory and its content as last loaded.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
    current: RwLock<Arc<Loaded>>,
    /// Nodes whose certificates are refused, however good.
    barred: RwLock<BTreeSet<NodeId>>,
    refusals: Mutex<Vec<Refusal>>,
}

/// A certificate that was refused in a handshake of this node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whom it names, if it names anybody; not to be believed when another authority signed it.
    pub whose: Option<PeerIdentity>,
    /// Why.
    pub why: String,
}

/// Refusals kept until somebody takes them; there is nothing new in more.
const REFUSALS: usize = 64;

/// One consistent set of certificates.
#[derive(Debug)]
pub struct Loaded {
    identity: PeerIdentity,
    roots: Arc<RootCertStore>,
    ca_sha256: [u8; 32],
    not_before: u64,
    not_after: u64,
    /// The leaf, then the CA, so that a joiner can find the CA by its hash.
    certified: Arc<CertifiedKey>,
}

impl Certificates {
    /// Loads the directory.
    ///
    /// # Errors
    /// A missing or exposed file, a certificate that does not match its key or its CA.
    pub fn open(directory: &Path) -> Result<Arc<Self>, NetError> {
        let loaded = Arc::new(load(directory)?);
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            current: RwLock::new(loaded),
            barred: RwLock::default(),
            refusals: Mutex::default(),
        }))
    }

    /// Writes a set of certificates (each file whole or not at all, then the key 0600) and loads
    /// it. The directory is made, mode 0700, if it does not exist.
    ///
    /// # Errors
    /// As [`Self::open`], and writing.
    pub fn install(directory: &Path, ca_pem: &str, issued: &Issued) -> Result<Arc<Self>, NetError> {
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))
            .map_err(|e| file_error("create", directory, e))?;
        write_files(directory, ca_pem, issued)?;
        Self::open(directory)
    }

    /// Replaces the node's certificate and key on disk, then in memory.
    ///
    /// # Errors
    /// As [`Self::reload`], and writing.
    pub fn renew(&self, ca_pem: &str, issued: &Issued) -> Result<(), NetError> {
        write_files(&self.directory, ca_pem, issued)?;
        self.reload()
    }

    /// Reads the directory again. On any error what was loaded stays in use.
    ///
    /// # Errors
    /// As [`Self::open`]; [`NetError::IdentityChanged`] if the new certificate is another node's.
    pub fn reload(&self) -> Result<(), NetError> {
        let loaded = Arc::new(load(&self.directory)?);
        let mut current = self.current.write();
        if loaded.identity != current.identity {
            return Err(NetError::IdentityChanged {
                running: current.identity.to_string(),
                found: loaded.identity.to_string(),
            });
        }
        *current = loaded;
        Ok(())
    }

    /// Reads the directory again if its certificate is another than the one in use; whether it was.
    ///
    /// # Errors
    /// As [`Self::reload`].
    pub fn reload_if_changed(&self) -> Result<bool, NetError> {
        let on_disk = read_certificates(&self.directory.join(CERTIFICATE), "node.pem")?;
        if self.current().certified.cert.first() == on_disk.first() {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// From now on the certificates of these nodes, and of no others, are refused in handshakes.
    pub fn bar(&self, nodes: BTreeSet<NodeId>) {
        *self.barred.write() = nodes;
    }

    /// Whether this node's certificate is refused.
    pub fn is_barred(&self, node: NodeId) -> bool {
        self.barred.read().contains(&node)
    }

    /// What was refused since this was last asked.
    pub fn take_refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals.lock())
    }

    pub(crate) fn note_refusal(&self, refusal: Refusal) {
        let mut refusals = self.refusals.lock();
        if refusals.len() < REFUSALS && !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }

    /// What is in use now.
    pub fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read())
    }
}

impl Loaded {
    /// Who this node is.
    pub fn identity(&self) -> PeerIdentity {
        self.identity
    }

    /// SHA-256 of the (first) CA certificate: what join tokens carry.
    pub fn ca_sha256(&self) -> [u8; 32] {
        self.ca_sha256
    }

    /// When the node's certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// When it is to be renewed, in seconds since 1970: at two thirds of its life.
    pub fn renew_at(&self) -> u64 {
        self.not_before + self.not_after.saturating_sub(self.not_before) / 3 * 2
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().certified))
    }
}

impl ResolvesClientCert for Certificates {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn load(directory: &Path) -> Result<Loaded, NetError> {
    let authorities = read_certificates(&directory.join(CA), "ca.pem")?;
    let mut chain = read_certificates(&directory.join(CERTIFICATE), "node.pem")?;
    let leaf = chain[0].clone();
    let identity = PeerIdentity::from_cert(&leaf).map_err(|why| NetError::Malformed {
        what: "node.pem",
        why: why.to_string(),
    })?;
    let mut roots = RootCertStore::empty();
    for ca in &authorities {
        roots.add(ca.clone()).map_err(|e| NetError::Malformed {
            what: "ca.pem",
            why: e.to_string(),
        })?;
    }
    let (not_before, not_after) = validity(&leaf)?;
    // Checked at a time within its life: an expired certificate must still load, so that the
    // daemon can start, say so, and renew it.
    let within = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        not_before + (not_after.saturating_sub(not_before)) / 2,
    ));
    let algorithms = provider().signature_verification_algorithms;
    ParsedCertificate::try_from(&leaf)
        .and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &roots,
                &chain[1..],
                within,
                algorithms.all,
            )
        })
        .map_err(|e| NetError::NotOurCa { why: e.to_string() })?;
    if chain.len() == 1 {
        chain.push(authorities[0].clone());
    }
    let certified = with_key(directory, chain)?;
    Ok(Loaded {
        identity,
        roots: Arc::new(roots),
        ca_sha256: sha256(&authorities[0]),
        not_before,
        not_after,
        certified: Arc::new(certified),
    })
}

/// The chain with its key: `node.key`, or, if a crash came between certificate and key, the next one.
fn with_key(
    directory: &Path,
    chain: Vec<CertificateDer<'static>>,
) -> Result<CertifiedKey, NetError> {
    let paired = |name| {
        let key = read_key(&directory.join(name))?;
        let key = provider().key_provider.load_private_key(key)?;
        let certified = CertifiedKey::new(chain.clone(), key);
        certified.keys_match().map_err(|_| NetError::KeyMismatch)?;
        Ok(certified)
    };
    match paired(KEY) {
        Err(error) => match paired(NEXT_KEY) {
            Ok(certified) => {
                let (next, key) = (directory.join(NEXT_KEY), directory.join(KEY));
                fs::rename(&next, &key).map_err(|e| file_error("replace", &key, e))?;
                Ok(certified)
            }
            Err(_) => Err(error),
        },
        certified => certified,
    }
}

fn validity(leaf: &CertificateDer<'_>) -> Result<(u64, u64), NetError> {
    let bad = |why: String| NetError::Malformed {
        what: "node.pem",
        why,
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| bad(e.to_string()))?;
    let seconds = |time: x509_parser::time::ASN1Time| {
        u64::try_from(time.timestamp()).map_err(|_| bad("it begins or ends before 1970".into()))
    };
    Ok((
        seconds(parsed.validity().not_before)?,
        seconds(parsed.validity().not_after)?,
    ))
}

fn read_certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let pem = fs::read(path).map_err(|e| file_error("read", path, e))?;
    let bad = |why: String| NetError::Malformed { what, why };
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .map(|item| item.map(CertificateDer::into_owned))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it holds no certificate".into()));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, NetError> {
    let mode = fs::metadata(path)
        .map_err(|e| file_error("read", path, e))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(NetError::KeyExposed {
            path: path.to_owned(),
            mode: mode & 0o7777,
        });
    }
    let pem = fs::read(path).map_err(|e| file_error("read", path, e))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|e| NetError::Malformed {
        what: "node.key",
        why: e.to_string(),
    })
}

/// In an order in which a crash leaves a certificate whose key is there.
fn write_files(directory: &Path, ca_pem: &str, issued: &Issued) -> Result<(), NetError> {
    replace(directory, CA, ca_pem, 0o644)?;
    replace(directory, NEXT_KEY, &issued.key, 0o600)?;
    replace(directory, CERTIFICATE, &issued.certificate, 0o644)?;
    let (next, key) = (directory.join(NEXT_KEY), directory.join(KEY));
    fs::rename(&next, &key).map_err(|e| file_error("replace", &key, e))?;
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|e| file_error("sync", directory, e))
}

/// Writes beside the file and renames over it, so that a crash leaves the old or the new one.
fn replace(directory: &Path, name: &str, text: &str, mode: u32) -> Result<(), NetError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.new"));
    let write = || {
        // A left-over of a crash may have other permissions.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|e| file_error("write", &path, e))
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> NetError {
    NetError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
