//! This host: what is mounted where, which file system is on a device, and the tools that make and check one.
//!
//! | job | module |
//! |---|---|
//! | paths that kubelet names, never followed out of its folder | [`paths`] |
//! | what is mounted | [`mountinfo`] |
//! | mounting, binding, unmounting | [`mounts`] |
//! | probing, making, checking and growing a file system | [`filesystem`] |
//! | encryption above a device | [`luks`] |
//! | the note that a file system is being made | [`marker`] |
//! | running a tool | [`command`] |

pub mod command;
pub mod filesystem;
pub mod luks;
pub mod marker;
pub mod mountinfo;
pub mod mounts;
pub mod paths;

use tonic::Status;

/// Something of this host that failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A path that no caller may name.
    #[error("path '{path}': {why}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// What is there must be looked at by a person first.
    #[error("{0}")]
    Refused(String),
    /// The system failed.
    #[error("cannot {what}: {why}")]
    Failed {
        /// To do what.
        what: String,
        /// In the system's words.
        why: String,
    },
}

impl HostError {
    /// The system failed to do this.
    pub fn failed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Failed {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

impl From<HostError> for Status {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Path { .. } => Self::invalid_argument(error.to_string()),
            HostError::Refused(_) => Self::failed_precondition(error.to_string()),
            HostError::Failed { .. } => Self::internal(error.to_string()),
        }
    }
}
