//! `lockstep-keeper SOCKET`: the keeper as a process of its own, for hosts where it is started by the
//! system (systemd, a container that outlives the daemon's). A daemon that finds none starts its own.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!(
            "usage: lockstep-keeper SOCKET, where SOCKET is keeper.sock in the daemon's data directory"
        );
        return ExitCode::from(2);
    };
    allow_descriptors();
    match lockstep_keeper::serve(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockstep-keeper: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// As many as this process may have: every block device is two or three. Where that is refused it goes on with
/// what it has.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
