//! What a joiner and a member say to each other: one JSON frame each way inside TLS, on the
//! protocol `lockstep-join/1`. The joiner knows the cluster by the CA's hash in its token; the
//! member knows the joiner by the token's secret, which is used once.

use lockstep_types::NodeRole;
use serde::{Deserialize, Serialize};

use crate::config::RoleName;

/// Longest frame.
pub const MAX_FRAME: usize = 64 << 10;

/// From the joiner.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's id.
    pub token: u64,
    /// The token's secret, hexadecimal.
    pub secret: String,
    /// The joiner's own new id.
    pub node: String,
    /// Its label.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Its rack; may be empty.
    pub rack: String,
    /// What it will do; the token says what it may.
    pub role: Role,
    /// `host:port` of raft and administration.
    pub control_address: String,
    /// `host:port` of replication; empty for a witness.
    pub data_addresses: Vec<String>,
    /// The request for its certificate, PEM.
    pub certificate_request: String,
}

/// From the member.
#[derive(Clone, Serialize, Deserialize)]
pub enum JoinReply {
    /// Welcome.
    Joined(Joined),
    /// Not welcome, and why.
    Refused {
        /// For people.
        why: String,
        /// Another member may let it in.
        #[serde(default)]
        ask_another: bool,
    },
}

/// What a new node is given.
#[derive(Clone, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster's id.
    pub cluster: String,
    /// ca.pem.
    pub ca_certificate: String,
    /// node.pem.
    pub certificate: String,
    /// Opens the wrapped CA key, hexadecimal; data nodes only.
    pub cluster_secret: Option<String>,
    /// The members to be linked with.
    pub members: Vec<Member>,
}

/// A member, as a new node must know it before it has the control state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id.
    pub node: String,
    /// What it does.
    pub role: Role,
    /// Its control address.
    pub address: String,
}

/// A role on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A data node.
    Data,
    /// A witness.
    Witness,
}

impl From<Role> for NodeRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Data => Self::Data,
            Role::Witness => Self::Witness,
        }
    }
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Data => Self::Data,
            RoleName::Witness => Self::Witness,
        }
    }
}

impl From<Role> for lockstep_net::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Data => Self::DataNode,
            Role::Witness => Self::Witness,
        }
    }
}

/// Bytes as lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of a hexadecimal text of exactly `2 N` digits.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen;

    const REQUEST: &str = r#"{"token":1,"secret":"ab","node":"n","name":"b1","site":"b","zone":"","rack":"r","role":"witness","control_address":"h:1","data_addresses":["h:2"],"certificate_request":"PEM"}"#;
    const REPLIES: [&str; 2] = [
        r#"{"Joined":{"cluster":"c","ca_certificate":"CA","certificate":"PEM","cluster_secret":"cd","members":[{"node":"n","role":"data","address":"h:1"}]}}"#,
        r#"{"Refused":{"why":"no","ask_another":true}}"#,
    ];

    /// Who joins may be a release behind or ahead of who lets it in.
    #[test]
    fn golden_texts_of_a_join() {
        let what = "joining a cluster";
        let request = JoinRequest {
            token: 1,
            secret: "ab".into(),
            node: "n".into(),
            name: "b1".into(),
            site: "b".into(),
            zone: String::new(),
            rack: "r".into(),
            role: Role::Witness,
            control_address: "h:1".into(),
            data_addresses: vec!["h:2".into()],
            certificate_request: "PEM".into(),
        };
        let joined = JoinReply::Joined(Joined {
            cluster: "c".into(),
            ca_certificate: "CA".into(),
            certificate: "PEM".into(),
            cluster_secret: Some("cd".into()),
            members: vec![Member {
                node: "n".into(),
                role: Role::Data,
                address: "h:1".into(),
            }],
        });
        let refused = JoinReply::Refused {
            why: "no".into(),
            ask_another: true,
        };
        let text = |json: serde_json::Result<String>| json.expect("JSON");
        frozen::assert_frozen(what, &text(serde_json::to_string(&request)), REQUEST);
        let again: JoinRequest = frozen::read(what, serde_json::from_str(REQUEST));
        assert_eq!(text(serde_json::to_string(&again)), REQUEST);
        for (reply, golden) in [joined, refused].iter().zip(REPLIES) {
            frozen::assert_frozen(what, &text(serde_json::to_string(reply)), golden);
            let again: JoinReply = frozen::read(what, serde_json::from_str(golden));
            assert_eq!(text(serde_json::to_string(&again)), golden);
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex(&to_hex(&[0, 255, 16])), Some([0, 255, 16]));
        for bad in ["", "00", "0000g0", "+1+1+1", "0000000"] {
            assert_eq!(from_hex::<3>(bad), None, "{bad}");
        }
    }
}
