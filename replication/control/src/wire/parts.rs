//! Parts that commands and snapshots share.

use super::DecodeError;
use crate::command::{NewReplica, Node, Pool, Settings};
use crate::record::{Attachment, Expected, Policy, Rpo};
use lockstep_placement::{Grammar, MAX_COPIES};
use lockstep_types::{
    AttachmentId, ClusterId, DeviceId, Epoch, FaultDomain, Incarnation, LineageId, Locality,
    NodeId, NodeRole, ReplicaId, Sequence, Stamp, VolumeId,
};

pub(super) type Read<T> = Result<T, DecodeError>;

/// A 128-bit id.
pub(super) trait Id: Copy {
    fn raw(self) -> u128;
    fn wrap(raw: u128) -> Self;
}

macro_rules! ids {
    ($($name:ident),*) => {$(
        impl Id for $name {
            fn raw(self) -> u128 {
                self.as_u128()
            }
            fn wrap(raw: u128) -> Self {
                Self::from_u128(raw)
            }
        }
    )*};
}
ids!(
    AttachmentId,
    ClusterId,
    DeviceId,
    LineageId,
    NodeId,
    ReplicaId,
    VolumeId
);

pub(super) fn put(id: impl Id) -> Vec<u8> {
    id.raw().to_le_bytes().to_vec()
}

pub(super) fn get<T: Id>(bytes: &[u8], what: &'static str) -> Read<T> {
    let raw = bytes.try_into().map_err(|_| DecodeError::Field(what))?;
    Ok(T::wrap(u128::from_le_bytes(raw)))
}

pub(super) fn need<T>(part: Option<T>, what: &'static str) -> Read<T> {
    part.ok_or(DecodeError::Field(what))
}

/// An enum as numbers from 1.
macro_rules! numbers {
    ($put:ident, $get:ident, $type:ty, $what:literal, $($number:literal = $value:path),*) => {
        pub(super) const fn $put(value: $type) -> u32 {
            match value {
                $($value => $number,)*
            }
        }
        pub(super) const fn $get(number: u32) -> Read<$type> {
            match number {
                $($number => Ok($value),)*
                _ => Err(DecodeError::Field($what)),
            }
        }
    };
}
pub(super) use numbers;
numbers!(
    put_role,
    get_role,
    NodeRole,
    "role",
    1 = NodeRole::Data,
    2 = NodeRole::Witness
);
numbers!(
    put_level,
    get_level,
    FaultDomain,
    "fault_domain",
    1 = FaultDomain::Site,
    2 = FaultDomain::Zone,
    3 = FaultDomain::Rack,
    4 = FaultDomain::Node
);
numbers!(
    put_rpo,
    get_rpo,
    Rpo,
    "rpo",
    1 = Rpo::Strict,
    2 = Rpo::WitnessedDegrade
);
numbers!(
    put_locality,
    get_locality,
    Locality,
    "locality",
    1 = Locality::Prefer,
    2 = Locality::Require,
    3 = Locality::None
);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireNode {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    site: String,
    #[prost(string, tag = "4")]
    zone: String,
    #[prost(string, tag = "5")]
    rack: String,
    #[prost(uint32, tag = "6")]
    role: u32,
    #[prost(string, tag = "7")]
    control_address: String,
    #[prost(string, repeated, tag = "8")]
    data_addresses: Vec<String>,
    #[prost(bool, tag = "9")]
    cordoned: bool,
}

impl From<&Node> for WireNode {
    fn from(node: &Node) -> Self {
        Self {
            id: put(node.id),
            name: node.name.clone(),
            site: node.site.clone(),
            zone: node.zone.clone(),
            rack: node.rack.clone(),
            role: put_role(node.role),
            control_address: node.control_address.clone(),
            data_addresses: node.data_addresses.clone(),
            cordoned: node.cordoned,
        }
    }
}

impl TryFrom<WireNode> for Node {
    type Error = DecodeError;

    fn try_from(wire: WireNode) -> Read<Self> {
        Ok(Self {
            id: get(&wire.id, "node")?,
            name: wire.name,
            site: wire.site,
            zone: wire.zone,
            rack: wire.rack,
            role: get_role(wire.role)?,
            control_address: wire.control_address,
            data_addresses: wire.data_addresses,
            cordoned: wire.cordoned,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WirePool {
    #[prost(bytes = "vec", tag = "1")]
    device: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(uint64, tag = "4")]
    extents: u64,
    #[prost(uint64, tag = "5")]
    free_extents: u64,
    #[prost(uint32, tag = "6")]
    places: u32,
}

impl From<&Pool> for WirePool {
    fn from(pool: &Pool) -> Self {
        Self {
            device: put(pool.device),
            node: put(pool.node),
            name: pool.name.clone(),
            extents: pool.extents,
            free_extents: pool.free_extents,
            places: pool.places,
        }
    }
}

impl TryFrom<WirePool> for Pool {
    type Error = DecodeError;

    fn try_from(wire: WirePool) -> Read<Self> {
        Ok(Self {
            device: get(&wire.device, "device")?,
            node: get(&wire.node, "node")?,
            name: wire.name,
            extents: wire.extents,
            free_extents: wire.free_extents,
            places: wire.places,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireSettings {
    #[prost(uint32, tag = "1")]
    overprovision_per_cent: u32,
}

impl From<&Settings> for WireSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            overprovision_per_cent: settings.overprovision_per_cent,
        }
    }
}

impl From<WireSettings> for Settings {
    fn from(wire: WireSettings) -> Self {
        Self {
            overprovision_per_cent: wire.overprovision_per_cent,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WirePolicy {
    /// The grammar's text: it prints as it is read.
    #[prost(string, tag = "1")]
    copies: String,
    #[prost(uint32, tag = "2")]
    fault_domain: u32,
    #[prost(string, optional, tag = "3")]
    preferred_site: Option<String>,
    #[prost(uint32, tag = "4")]
    rpo: u32,
    #[prost(uint32, tag = "5")]
    locality: u32,
}

impl From<&Policy> for WirePolicy {
    fn from(policy: &Policy) -> Self {
        Self {
            copies: policy.copies.to_string(),
            fault_domain: put_level(policy.fault_domain),
            preferred_site: policy.preferred_site.clone(),
            rpo: put_rpo(policy.rpo),
            locality: put_locality(policy.locality),
        }
    }
}

impl TryFrom<WirePolicy> for Policy {
    type Error = DecodeError;

    fn try_from(wire: WirePolicy) -> Read<Self> {
        let copies: Grammar = wire
            .copies
            .parse()
            .map_err(|_| DecodeError::Field("copies"))?;
        // A text that is read and not printed by us would not be the same on every voter's snapshot.
        if copies.to_string() != wire.copies || copies.copies(1) > u64::from(MAX_COPIES) {
            return Err(DecodeError::Field("copies"));
        }
        Ok(Self {
            copies,
            fault_domain: get_level(wire.fault_domain)?,
            preferred_site: wire.preferred_site,
            rpo: get_rpo(wire.rpo)?,
            locality: get_locality(wire.locality)?,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireNewReplica {
    #[prost(bytes = "vec", tag = "1")]
    replica: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    device: Vec<u8>,
    #[prost(uint64, tag = "4")]
    incarnation: u64,
}

impl From<&NewReplica> for WireNewReplica {
    fn from(new: &NewReplica) -> Self {
        Self {
            replica: put(new.replica),
            node: put(new.node),
            device: put(new.device),
            incarnation: new.incarnation.0,
        }
    }
}

impl TryFrom<WireNewReplica> for NewReplica {
    type Error = DecodeError;

    fn try_from(wire: WireNewReplica) -> Read<Self> {
        Ok(Self {
            replica: get(&wire.replica, "replica")?,
            node: get(&wire.node, "node")?,
            device: get(&wire.device, "device")?,
            incarnation: Incarnation(wire.incarnation),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireExpected {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    version: u64,
}

impl From<&Expected> for WireExpected {
    fn from(expected: &Expected) -> Self {
        Self {
            epoch: expected.epoch.0,
            version: expected.version,
        }
    }
}

impl From<WireExpected> for Expected {
    fn from(wire: WireExpected) -> Self {
        Self {
            epoch: Epoch(wire.epoch),
            version: wire.version,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireAttachment {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
}

impl From<&Attachment> for WireAttachment {
    fn from(attachment: &Attachment) -> Self {
        Self {
            id: put(attachment.id),
            node: put(attachment.node),
        }
    }
}

impl TryFrom<WireAttachment> for Attachment {
    type Error = DecodeError;

    fn try_from(wire: WireAttachment) -> Read<Self> {
        Ok(Self {
            id: get(&wire.id, "attachment")?,
            node: get(&wire.node, "node")?,
        })
    }
}

/// A replica and a life of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireMember {
    #[prost(bytes = "vec", tag = "1")]
    pub replica: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
}

impl WireMember {
    pub(super) fn put(replica: ReplicaId, incarnation: Incarnation) -> Self {
        Self {
            replica: put(replica),
            incarnation: incarnation.0,
        }
    }

    pub(super) fn get(&self) -> Read<(ReplicaId, Incarnation)> {
        Ok((
            get(&self.replica, "replica")?,
            Incarnation(self.incarnation),
        ))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireStamp {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
}

impl From<Stamp> for WireStamp {
    fn from(stamp: Stamp) -> Self {
        Self {
            epoch: stamp.epoch.0,
            sequence: stamp.sequence.0,
        }
    }
}

impl From<WireStamp> for Stamp {
    fn from(wire: WireStamp) -> Self {
        Self::new(Epoch(wire.epoch), Sequence(wire.sequence))
    }
}
