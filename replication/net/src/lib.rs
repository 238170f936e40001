//! Who is on the other end of a wire: the cluster's certificate authority, the identities it
//! signs, the store a node keeps them in, the token a joiner is given, and the rustls
//! configurations (TLS 1.3 only, both ends authenticated, no plaintext mode) that every connection
//! between processes of a cluster uses, on tokio and on the ring alike.
//!
//! | job | module |
//! |---|---|
//! | the CA, requests and issued certificates | [`ca`] |
//! | the CA key at rest | [`wrap`] |
//! | role and node inside a certificate | [`identity`] |
//! | checking a peer | [`verify`] |
//! | a node's directory, reloaded live | [`certificates`] |
//! | rustls configurations | [`tls`] |
//! | join tokens | [`join`] |
#![forbid(unsafe_code)]

mod base32;
pub mod ca;
pub mod certificates;
mod error;
pub mod identity;
pub mod join;
pub mod tls;
pub mod verify;
pub mod wrap;

pub use ca::{ClusterCa, Issued, NodeRequest, Validity};
pub use certificates::{Certificates, Loaded, Refusal};
pub use error::NetError;
pub use identity::{PeerIdentity, Role, RoleSet};
pub use join::{JoinToken, JoinTokenError};
pub use verify::{PeerRefused, refusal};
