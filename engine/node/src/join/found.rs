//! Founding a cluster: the CA, the first node's certificate, its data directory. The daemon's first
//! start commits what is prepared here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use lockstep_net::{Certificates, ClusterCa, PeerIdentity, Validity, wrap};
use lockstep_types::{ClusterId, NodeId};

use super::client::{NewNode, refuse_used};
use crate::config::RoleName;
use crate::directory::{self, Directory, Identity};
use crate::{label, mint};

/// The CA's life.
pub const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// A node certificate's life; it is renewed at two thirds.
pub const NODE_LIFE: Duration = Duration::from_secs(2 * 365 * 86_400);

/// Seconds since 1970: for certificates and tokens only, never for replication.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Where the founder keeps what its first proposal carries.
const CA_CERTIFICATE: &str = "founding-ca.pem";
const CA_KEY: &str = "founding-ca.key.wrapped";

/// Makes the data directory of the first node of a new cluster.
///
/// # Errors
/// The directory is used already, or a name is refused.
pub fn found(directory: &Directory, cluster_name: &str, new: &NewNode) -> anyhow::Result<Identity> {
    refuse_used(directory)?;
    label::check("cluster", cluster_name)?;
    let (text, config) = new.config(directory)?;
    if config.node.role != RoleName::Data {
        bail!(
            "the first node of a cluster must be a data node: it keeps the certificate authority"
        );
    }
    let (cluster, node) = (
        ClusterId::from_u128(mint::id()),
        NodeId::from_u128(mint::id()),
    );
    let now = unix_now();
    let ca = ClusterCa::create(cluster, Validity::starting(now, CA_LIFE))?;
    let secret: [u8; 32] = mint::bytes();
    let wrapped = wrap::wrap(cluster, ca.key_der(), &secret)?;
    let identity = PeerIdentity {
        cluster,
        role: lockstep_net::Role::DataNode,
        node,
    };
    let issued = ca.issue(identity, Validity::starting(now, NODE_LIFE))?;
    directory
        .create()
        .with_context(|| format!("cannot create {}", directory.root().display()))?;
    Certificates::install(&directory.certificates(), ca.pem(), &issued)?;
    directory.write_cluster_secret(&secret)?;
    directory::replace(&directory.root().join(CA_CERTIFICATE), ca.pem().as_bytes())?;
    directory::replace(&directory.root().join(CA_KEY), &wrapped)?;
    directory::replace(&directory.config(), text.as_bytes())?;
    let identity = Identity {
        cluster: cluster.to_string(),
        node: node.to_string(),
        founder: true,
        cluster_name: cluster_name.to_owned(),
        members: Vec::new(),
    };
    directory.write_identity(&identity)?;
    Ok(identity)
}

/// The CA certificate (PEM) and its wrapped key, as [`found`] left them for the first proposal.
///
/// # Errors
/// The system's.
pub fn founding_ca(directory: &Directory) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let read = |name| {
        let path = directory.root().join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok((read(CA_CERTIFICATE)?, read(CA_KEY)?))
}

/// Issues an administrator's certificate into `target`, on a node that holds the cluster secret.
///
/// # Errors
/// The secret or the wrapped key does not fit.
pub fn sign(
    cluster: ClusterId,
    ca_pem: &[u8],
    wrapped: &[u8],
    secret: &[u8; 32],
    request_pem: &str,
    identity: PeerIdentity,
) -> anyhow::Result<String> {
    let key = wrap::unwrap(cluster, wrapped, secret)?;
    let pem = std::str::from_utf8(ca_pem).context("the CA certificate is not PEM")?;
    let ca = ClusterCa::from_parts(cluster, pem, &key)?;
    Ok(ca.sign(
        request_pem,
        identity,
        Validity::starting(unix_now(), NODE_LIFE),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;
    use lockstep_net::NodeRequest;

    fn new_node(role: RoleName) -> NewNode {
        NewNode {
            node: NodeConfig {
                name: "a1".into(),
                site: "a".into(),
                zone: String::new(),
                rack: String::new(),
                role,
            },
            control: "127.0.0.1:7400".into(),
            data: "127.0.0.1:7401".into(),
            metrics: None,
        }
    }

    #[test]
    fn a_founded_directory_can_sign() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("a1"));
        let identity = found(&directory, "prod", &new_node(RoleName::Data)).expect("founded");
        let (cluster, node) = identity.ids().expect("ids");
        let certificates = Certificates::open(&directory.certificates()).expect("opens");
        assert_eq!(certificates.current().identity().node, node);
        let (ca, wrapped) = founding_ca(&directory).expect("kept");
        let secret = directory.cluster_secret().expect("reads").expect("kept");
        let joiner = PeerIdentity {
            cluster,
            role: lockstep_net::Role::Witness,
            node: NodeId::from_u128(9),
        };
        let request = NodeRequest::generate().expect("a key");
        let signed = sign(cluster, &ca, &wrapped, &secret, request.pem(), joiner).expect("signed");
        assert!(signed.contains("BEGIN CERTIFICATE"));
        let again = found(&directory, "prod", &new_node(RoleName::Data))
            .expect_err("used")
            .to_string();
        assert!(again.contains("belongs to a node already"), "{again}");
    }

    #[test]
    fn a_witness_cannot_found() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("w"));
        let error = found(&directory, "prod", &new_node(RoleName::Witness))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("data node"), "{error}");
        let error = found(&directory, "../x", &new_node(RoleName::Data))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("cannot name a cluster"), "{error}");
    }
}
