//! Administration: the services of `lockstep_api` over the control plane and this node's data
//! plane, on a Unix socket (guarded by its mode) and on the control port (guarded by certificates).
//!
//! | job | module |
//! |---|---|
//! | the two doors | [`server`] |
//! | what this node knows besides the state | [`view`] |
//! | asking another node | [`forward`] |
//! | certificates in time | [`renew`] |
//! | asking every node that holds a copy what it holds | [`survey`] |
//! | how large a volume could be, whether one is blank | [`capacity`], [`blank`] |
//! | one service each | [`cluster`], [`nodes`], [`pools`], [`volumes`], [`devices`], [`recovery`] |

mod blank;
mod capacity;
mod cluster;
mod devices;
mod forward;
mod nodes;
mod pools;
mod recovery;
pub mod renew;
mod replicas;
mod server;
mod survey;
mod view;
mod volumes;

use std::sync::Arc;

use lockstep_api::error::{self, status};
use lockstep_control::Command;
use lockstep_net::Certificates;
use tonic::{Code, Status};

use crate::bridge::Bridge;
use crate::control::{Control, ProposeError};
use crate::devices::Devices;
use crate::directory::Directory;

pub use server::Server;

/// What the services work on. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    inner: Arc<Inner>,
}

struct Inner {
    control: Control,
    /// None on a witness.
    data: Option<(Bridge, Devices)>,
    directory: Directory,
    certificates: Arc<Certificates>,
}

impl Shared {
    /// Of a running node.
    pub fn new(
        control: Control,
        data: Option<(Bridge, Devices)>,
        directory: Directory,
        certificates: Arc<Certificates>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                control,
                data,
                directory,
                certificates,
            }),
        }
    }

    fn control(&self) -> &Control {
        &self.inner.control
    }

    fn bridge(&self) -> Result<&Bridge, Status> {
        self.data().map(|(bridge, _)| bridge)
    }

    fn devices(&self) -> Result<&Devices, Status> {
        self.data().map(|(_, devices)| devices)
    }

    fn data(&self) -> Result<&(Bridge, Devices), Status> {
        self.inner.data.as_ref().ok_or_else(|| {
            status(
                Code::FailedPrecondition,
                "witness",
                "this node is a witness: it holds no data and attaches nothing",
            )
        })
    }

    /// Waits until this node has everything that was acknowledged anywhere: what is read after it
    /// is not old.
    async fn catch_up(&self) -> Result<(), Status> {
        self.control().catch_up().await.map_err(not_proposed)
    }

    async fn propose(&self, command: Command) -> Result<lockstep_control::Outcome, Status> {
        self.control()
            .propose_patiently(command)
            .await
            .map_err(not_proposed)
    }
}

fn not_proposed(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejected) => error::rejected(&rejected),
        ProposeError::NotDone(why) => status(Code::Unavailable, error::UNAVAILABLE, why),
        ProposeError::Unknown(why) => status(Code::Unknown, error::UNKNOWN, why),
    }
}
