//! The keeper's loop.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use crate::message::{self, MAX_DESCRIPTORS, Message};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 8;
/// Connections, at most: others wait until one of these ends.
const MAX_CLIENTS: usize = 64;
/// How long connections wait that the system had no descriptor or memory for: the listener stays ready
/// meanwhile, and waiting for it would not be a wait.
const REFUSED: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Entries, at most: whoever may connect may also kill this process, so this only bounds mistakes.
const MAX_ENTRIES: usize = 4096;

struct Kept {
    text: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Keeps what it is given until it is told to stop. The socket is made at `path`, for this user only;
/// it is there once connections are taken. Who may connect is said by its mode: what the kernel says of
/// a peer has no process id where that is another PID namespace's, as between two pods, and cannot be
/// read then.
///
/// # Errors
/// The socket cannot be made, or the system's.
pub fn serve(path: &Path) -> io::Result<()> {
    let listener = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Beside it first: whoever finds the socket finds it listening and closed to others.
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&listener, &SocketAddrUnix::new(&beside)?)?;
    chmod(&beside, Mode::RUSR | Mode::WUSR)?;
    listen(&listener, BACKLOG)?;
    std::fs::rename(&beside, path)?;
    let mut kept = BTreeMap::new();
    let mut clients: Vec<OwnedFd> = Vec::new();
    let mut refused = false;
    loop {
        let ready = wait(listener.as_fd(), &clients, refused)?;
        refused = false;
        // The last first, so that what is removed moves none that is still to be looked at.
        for at in (0..clients.len()).rev().filter(|at| ready[at + 1]) {
            match answer(&clients[at], &mut kept) {
                Ok(Next::Goes) => {}
                Ok(Next::Closed) | Err(_) => drop(clients.swap_remove(at)),
                Ok(Next::Stop) => {
                    let _ = std::fs::remove_file(path);
                    return Ok(());
                }
            }
        }
        if ready[0] {
            match accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(client) => clients.push(client),
                // Of one that has gone again.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => refused = true,
            }
        }
    }
}

/// Who has something to say: the listener, then each client. The listener is passed over while a connection
/// could not be taken or would be one too many.
fn wait(listener: BorrowedFd<'_>, clients: &[OwnedFd], refused: bool) -> io::Result<Vec<bool>> {
    let taken = if refused || clients.len() >= MAX_CLIENTS {
        PollFlags::empty()
    } else {
        PollFlags::IN
    };
    let mut entries: Vec<PollFd<'_>> = vec![PollFd::from_borrowed_fd(listener, taken)];
    entries.extend(
        clients
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
    );
    loop {
        match poll(&mut entries, refused.then_some(&REFUSED)) {
            Ok(_) => return Ok(entries.iter().map(|e| !e.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

enum Next {
    Goes,
    Closed,
    Stop,
}

fn answer(client: &OwnedFd, kept: &mut BTreeMap<String, Kept>) -> io::Result<Next> {
    let Some(message) = message::receive(client)? else {
        return Ok(Next::Closed);
    };
    let Message {
        verb,
        key,
        text,
        descriptors,
    } = message;
    let no = |why: &str| message::send(client, "no", "", why.as_bytes(), &[]);
    match verb.as_str() {
        "put" if key.is_empty() => no("an entry needs a key")?,
        "put" if kept.len() >= MAX_ENTRIES && !kept.contains_key(&key) => no("too many entries")?,
        "put" => {
            let entry = kept.entry(key).or_insert(Kept {
                text: Vec::new(),
                descriptors: Vec::new(),
            });
            entry.text = text;
            if !descriptors.is_empty() {
                entry.descriptors = descriptors;
            }
            message::send(client, "ok", "", &[], &[])?;
        }
        "drop" => {
            kept.remove(&key);
            message::send(client, "ok", "", &[], &[])?;
        }
        "list" => {
            for (key, entry) in kept.iter() {
                let all: Vec<_> = entry.descriptors.iter().map(AsFd::as_fd).collect();
                debug_assert!(all.len() <= MAX_DESCRIPTORS);
                message::send(client, "entry", key, &entry.text, &all)?;
            }
            message::send(client, "ok", "", &[], &[])?;
        }
        "stop" => {
            message::send(client, "ok", "", &[], &[])?;
            return Ok(Next::Stop);
        }
        other => no(&format!("'{other}' is not understood"))?,
    }
    Ok(Next::Goes)
}
