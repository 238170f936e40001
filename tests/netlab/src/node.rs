//! A node: a network namespace, and what runs inside it.

use crate::sys;
use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A node. Copies are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) site: String,
    pub(crate) namespace: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) handle: Arc<File>,
}

impl Node {
    /// As given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The site it stands in.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// For `ip netns exec`, by hand.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Where the others reach it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that will run inside. Files and Unix sockets are those of the machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.place(&mut command);
        command
    }

    /// Makes a command run inside.
    pub fn place(&self, command: &mut Command) {
        sys::spawn_inside(command, Arc::clone(&self.handle));
    }

    /// Runs a thread whose sockets are the node's.
    ///
    /// # Panics
    /// The thread, if it may not enter: the caller is not root.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let handle = Arc::clone(&self.handle);
        std::thread::spawn(move || {
            sys::enter(handle.as_fd()).expect("a lab exists only for root, who may enter");
            work()
        })
    }
}
