//! The CSI driver: volumes of a Lockstep cluster as Kubernetes asks for them.
//!
//! | job | module |
//! |---|---|
//! | the interfaces that Kubernetes speaks, generated | [`proto`], [`registration`] |
//! | what this driver is | [`identity`] |
//! | volumes, made and published anywhere | [`controller`] |
//! | volumes, mounted on this node | [`node`] |
//! | what a class asks for, which access, where, under which name | [`parameters`], [`capability`], [`topology`], [`names`] |
//! | one call at a time on a volume | [`serialize`] |
//! | mounts, file systems, paths: this host | [`host`] |
//! | asking a daemon; which, with which certificate | [`daemon`], [`targets`] |
//! | kubelet's registration | [`register`] |
//! | letting nodes join, and the API server that is asked for it | [`enrol`], [`kubernetes`] |
//! | the socket; when the process ends | [`server`], [`process`] |
//!
//! Nothing is remembered: what a call has to do follows from the cluster's state and from what is mounted.
//! So every call can be repeated, and interrupted anywhere, a kill of this process included.
#![forbid(unsafe_code)]

pub mod capability;
pub mod controller;
pub mod daemon;
pub mod enrol;
pub mod host;
pub mod identity;
pub mod kubernetes;
pub mod names;
pub mod node;
pub mod parameters;
pub mod process;
pub mod register;
pub mod serialize;
pub mod server;
pub mod targets;
pub mod topology;

/// The driver's name: of StorageClasses' `provisioner` and of the CSIDriver object.
pub const DRIVER: &str = "csi.lockstep.dev";

/// Generated from `proto/csi.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod proto {
    tonic::include_proto!("csi.v1");
}

/// Generated from `proto/pluginregistration.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
