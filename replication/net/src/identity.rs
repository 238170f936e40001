//! The identity inside a certificate: one URI among the subject alternative names,
//! `lockstep://<cluster id>/<role>/<node id>`, ids as 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use lockstep_types::{ClusterId, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::verify::PeerRefused;

const SCHEME: &str = "lockstep://";

/// What the holder of a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A daemon that stores data.
    DataNode,
    /// A voter that stores no data.
    Witness,
    /// A person or script at the command line.
    Admin,
    /// The CSI driver.
    Csi,
    /// The scheduler extender.
    Scheduler,
}

impl Role {
    /// All roles, in order.
    pub const ALL: [Self; 5] = [
        Self::DataNode,
        Self::Witness,
        Self::Admin,
        Self::Csi,
        Self::Scheduler,
    ];

    /// The word in the URI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataNode => "data-node",
            Self::Witness => "witness",
            Self::Admin => "admin",
            Self::Csi => "csi",
            Self::Scheduler => "scheduler",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which roles a port lets in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoleSet(u8);

impl RoleSet {
    /// Every role.
    pub const ANY: Self = Self::of(&Role::ALL);
    /// Replication and consensus: daemons only.
    pub const DAEMONS: Self = Self::of(&[Role::DataNode, Role::Witness]);

    /// The given roles.
    pub const fn of(roles: &[Role]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < roles.len() {
            bits |= 1 << roles[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Whether `role` is among them.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }
}

impl fmt::Display for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for role in Role::ALL.into_iter().filter(|role| self.contains(*role)) {
            write!(f, "{separator}{role}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Debug for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoleSet({self})")
    }
}

/// Who a certificate says its holder is. Trust in it comes from the chain check
/// ([`crate::verify`]), never from parsing alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdentity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// What it may do.
    pub role: Role,
    /// Which node, or for an admin, CSI driver or scheduler which holder.
    pub node: NodeId,
}

impl PeerIdentity {
    /// The URI of the subject alternative name.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role, self.node)
    }

    /// Reads the identity out of a DER certificate whose chain was checked before.
    ///
    /// # Errors
    /// [`PeerRefused::NoIdentity`] unless exactly one well-formed `lockstep://` URI is in it.
    pub fn from_cert(der: &[u8]) -> Result<Self, PeerRefused> {
        let none = |why: &str| PeerRefused::NoIdentity {
            why: why.to_owned(),
        };
        let (rest, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|_| none("it is not an X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(none("bytes follow the certificate"));
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| none("its alternative names are malformed"))?
            .ok_or_else(|| none("it has no alternative names"))?;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
                _ => None,
            });
        let uri = uris
            .next()
            .ok_or_else(|| none("it names no lockstep:// identity"))?;
        if uris.next().is_some() {
            return Err(none("it names more than one lockstep:// identity"));
        }
        uri.parse()
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of cluster {}", self.role, self.node, self.cluster)
    }
}

impl FromStr for PeerIdentity {
    type Err = PeerRefused;

    fn from_str(uri: &str) -> Result<Self, PeerRefused> {
        let bad = || PeerRefused::NoIdentity {
            why: format!(
                "'{}' is not {SCHEME}<cluster>/<role>/<node>",
                uri.escape_default()
            ),
        };
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(bad)?.split('/');
        let mut next = || parts.next().ok_or_else(bad);
        let identity = Self {
            cluster: next()?.parse().map_err(|_| bad())?,
            role: Role::from_name(next()?).ok_or_else(bad)?,
            node: next()?.parse().map_err(|_| bad())?,
        };
        match parts.next() {
            None => Ok(identity),
            Some(_) => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trip_and_refusals() {
        for role in Role::ALL {
            let identity = PeerIdentity {
                cluster: ClusterId::from_u128(0xabc),
                role,
                node: NodeId::from_u128(7),
            };
            assert_eq!(identity.uri().parse(), Ok(identity));
        }
        let id = "0".repeat(31) + "1";
        assert!(
            format!("lockstep://{id}/data-node/{id}")
                .parse::<PeerIdentity>()
                .is_ok()
        );
        for bad in [
            format!("lockstep://{id}/root/{id}"),
            format!("lockstep://{id}/admin/{id}/x"),
            format!("lockstep://{id}/admin"),
            format!("https://{id}/admin/{id}"),
            format!("lockstep://1/admin/{id}"),
        ] {
            assert!(
                matches!(
                    bad.parse::<PeerIdentity>(),
                    Err(PeerRefused::NoIdentity { .. })
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn role_sets() {
        assert!(RoleSet::DAEMONS.contains(Role::Witness));
        assert!(!RoleSet::DAEMONS.contains(Role::Admin));
        assert_eq!(RoleSet::DAEMONS.to_string(), "data-node, witness");
        assert!(
            Role::ALL
                .into_iter()
                .all(|role| RoleSet::ANY.contains(role))
        );
    }
}
