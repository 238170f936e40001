//! The file system itself: one thread that answers /dev/fuse from an image. All files are opened for
//! direct I/O, so that what a process asks of its disk arrives here as it asked for it.

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_fuse::protocol::{
    self as wire, Attributes, InHeader, InitAnswer, opcode, u32_at, u64_at,
};
use lockstep_fuse::{BODY, Device, HEAD, Message, Received};

use crate::State;
use crate::image::{Change, Inode, PAGE};
use crate::rules::{Fault, On};

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Operations that one volume's file does not know.
mod more {
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const RENAME2: u32 = 45;
}

/// Bytes of CREATE's and MKDIR's arguments before the name.
const CREATE_IN: usize = 16;
const MKDIR_IN: usize = 8;
/// Requests that may wait here.
const BACKGROUND: u16 = 64;

/// Answers until the mount is gone.
pub(crate) fn serve(mut device: Device, state: &Arc<Mutex<State>>) -> io::Result<()> {
    loop {
        match device.receive()? {
            Received::Message(message) => {
                if let Some(reply) = answer(&message, state) {
                    device.send(&[reply].into_iter().collect())?;
                }
            }
            Received::Nothing => device.wait()?,
            Received::Unmounted | Received::Aborted => return Ok(()),
        }
    }
}

type Answer = Result<BytesMut, i32>;

/// One request's reply; none where none is due.
fn answer(message: &Message, state: &Mutex<State>) -> Option<Bytes> {
    let header: &[u8; wire::IN_HEADER] = message.head[..wire::IN_HEADER].try_into().expect("forty");
    let header = InHeader::decode(header);
    let mut arguments = BytesMut::from(&message.head[wire::IN_HEADER..message.length.min(HEAD)]);
    if header.opcode != opcode::WRITE {
        arguments.extend_from_slice(&message.body);
    }
    let result = match header.opcode {
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
        opcode::INIT => init(&arguments),
        opcode::READ => slowly(state, |state| read(state, header.node, &arguments)),
        opcode::WRITE => slowly(state, |state| {
            write(state, header.node, &arguments, &message.body)
        }),
        opcode::FSYNC | more::FSYNCDIR => slowly(state, |state| sync(state, header.node)),
        _ => other(&mut lock(state), &header, &arguments),
    };
    let mut reply = BytesMut::new();
    match result {
        Ok(result) => {
            wire::put_header(&mut reply, header.unique, 0, result.len());
            reply.extend_from_slice(&result);
        }
        Err(errno) => wire::put_header(&mut reply, header.unique, errno as u32, 0),
    }
    Some(reply.freeze())
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operation on data, and the wait that a rule puts after it: outside the lock.
fn slowly(
    state: &Mutex<State>,
    work: impl FnOnce(&mut State) -> (Answer, Option<std::time::Duration>),
) -> Answer {
    let (answer, wait) = work(&mut lock(state));
    if let Some(wait) = wait {
        std::thread::sleep(wait);
    }
    answer
}

fn other(state: &mut State, header: &InHeader, arguments: &[u8]) -> Answer {
    let node = header.node;
    match header.opcode {
        opcode::LOOKUP => lookup(state, node, &name(arguments)?),
        opcode::GETATTR => attributes(state, node).map(put_attr),
        opcode::SETATTR => set(state, node, arguments),
        opcode::OPEN | more::OPENDIR => Ok(opened(header.opcode == opcode::OPEN)),
        more::CREATE => {
            let mut reply = create(state, node, &name(&arguments[CREATE_IN..])?, false)?;
            reply.extend_from_slice(&opened(true));
            Ok(reply)
        }
        more::MKDIR => create(state, node, &name(&arguments[MKDIR_IN..])?, true),
        more::UNLINK | more::RMDIR => remove(state, node, name(arguments)?),
        more::RENAME => rename(state, node, u64_at(arguments, 0), &arguments[8..]),
        // No flags: neither exchanging nor whiteouts.
        more::RENAME2 if u32_at(arguments, 8) == 0 => {
            rename(state, node, u64_at(arguments, 0), &arguments[16..])
        }
        more::READDIR => list(state, node, u64_at(arguments, 8), u32_at(arguments, 16)),
        opcode::FALLOCATE => allocate(state, node, arguments),
        opcode::STATFS => {
            let mut reply = BytesMut::new();
            wire::put_statfs(&mut reply, 1 << 40);
            Ok(reply)
        }
        opcode::FLUSH | opcode::RELEASE | more::RELEASEDIR | opcode::DESTROY => Ok(BytesMut::new()),
        _ => Err(libc::ENOSYS),
    }
}

fn init(arguments: &[u8]) -> Answer {
    let InitAnswer::Agreed(agreed) = wire::on_init(arguments) else {
        return Err(libc::EPROTO);
    };
    let mut reply = BytesMut::new();
    wire::put_init(&mut reply, &agreed, BODY as u32, BACKGROUND);
    Ok(reply)
}

/// The name that ends with NUL at the start of `raw`.
fn name(raw: &[u8]) -> Result<String, i32> {
    let end = raw.iter().position(|byte| *byte == 0).ok_or(libc::EINVAL)?;
    String::from_utf8(raw[..end].to_vec()).map_err(|_| libc::EINVAL)
}

fn attributes(state: &State, node: u64) -> Result<Attributes, i32> {
    let (mode, size) = match state.image.inodes.get(&node).ok_or(libc::ENOENT)? {
        Inode::Directory(_) => (libc::S_IFDIR | 0o755, 0),
        Inode::File(content) => (libc::S_IFREG | 0o600, content.length),
    };
    Ok(Attributes {
        node,
        size,
        mode,
        links: 1,
        block_size: PAGE as u32,
    })
}

fn put_attr(attributes: Attributes) -> BytesMut {
    let mut reply = BytesMut::new();
    wire::put_attr(&mut reply, &attributes);
    reply
}

fn entry(state: &State, node: u64) -> Answer {
    let mut reply = BytesMut::new();
    wire::put_entry(&mut reply, &attributes(state, node)?);
    Ok(reply)
}

fn opened(file: bool) -> BytesMut {
    let mut reply = BytesMut::new();
    let flags = wire::fopen::DIRECT_IO | wire::fopen::PARALLEL_DIRECT_WRITES;
    wire::put_open(&mut reply, if file { flags } else { 0 });
    reply
}

fn lookup(state: &State, parent: u64, name: &str) -> Answer {
    let entries = state.image.directory(parent).ok_or(libc::ENOTDIR)?;
    entry(state, *entries.get(name).ok_or(libc::ENOENT)?)
}

fn set(state: &mut State, node: u64, arguments: &[u8]) -> Answer {
    if u32_at(arguments, 0) & wire::FATTR_SIZE != 0 {
        let length = u64_at(arguments, 16);
        state.change(Change::Resize { file: node, length });
    }
    attributes(state, node).map(put_attr)
}

fn create(state: &mut State, parent: u64, name: &str, directory: bool) -> Answer {
    let entries = state.image.directory(parent).ok_or(libc::ENOTDIR)?;
    if let Some(inode) = entries.get(name) {
        return match directory {
            true => Err(libc::EEXIST),
            false => entry(state, *inode),
        };
    }
    state.has_room(1)?;
    let inode = state.image.mint();
    let name = name.to_owned();
    state.change(Change::Create {
        parent,
        name,
        inode,
        directory,
    });
    entry(state, inode)
}

fn remove(state: &mut State, parent: u64, name: String) -> Answer {
    let entries = state.image.directory(parent).ok_or(libc::ENOTDIR)?;
    let inode = *entries.get(&name).ok_or(libc::ENOENT)?;
    if state
        .image
        .directory(inode)
        .is_some_and(|it| !it.is_empty())
    {
        return Err(libc::ENOTEMPTY);
    }
    state.change(Change::Remove { parent, name });
    Ok(BytesMut::new())
}

fn rename(state: &mut State, from: u64, to: u64, names: &[u8]) -> Answer {
    let old = name(names)?;
    let new = name(&names[old.len() + 1..])?;
    let entries = state.image.directory(from).ok_or(libc::ENOTDIR)?;
    if !entries.contains_key(&old) {
        return Err(libc::ENOENT);
    }
    state.change(Change::Rename {
        from: (from, old),
        to: (to, new),
    });
    Ok(BytesMut::new())
}

fn list(state: &State, node: u64, offset: u64, size: u32) -> Answer {
    let entries = state.image.directory(node).ok_or(libc::ENOTDIR)?;
    let mut reply = BytesMut::new();
    for (number, (name, inode)) in entries.iter().enumerate().skip(offset as usize) {
        let length = (24 + name.len()).next_multiple_of(8);
        if reply.len() + length > size as usize {
            break;
        }
        let kind = match state.image.directory(*inode) {
            Some(_) => libc::DT_DIR,
            None => libc::DT_REG,
        };
        let start = reply.len();
        reply.put_u64_le(*inode);
        reply.put_u64_le(number as u64 + 1);
        reply.put_u32_le(name.len() as u32);
        reply.put_u32_le(kind.into());
        reply.extend_from_slice(name.as_bytes());
        reply.put_bytes(0, start + length - reply.len());
    }
    Ok(reply)
}

fn allocate(state: &mut State, node: u64, arguments: &[u8]) -> Answer {
    let (offset, length) = (u64_at(arguments, 8), u64_at(arguments, 16));
    if u32_at(arguments, 24) != 0 {
        return Err(libc::EOPNOTSUPP);
    }
    let content = state.image.file(node).ok_or(libc::EISDIR)?;
    let length = content.length.max(offset + length);
    state.change(Change::Resize { file: node, length });
    Ok(BytesMut::new())
}

fn read(state: &mut State, node: u64, arguments: &[u8]) -> (Answer, Option<std::time::Duration>) {
    let (offset, size) = (u64_at(arguments, 8), u32_at(arguments, 16) as usize);
    match state.fault(node, On::Read, offset..offset + size as u64) {
        Some(Fault::Error(errno)) => (Err(errno), None),
        fault => {
            let content = state.image.file(node).ok_or(libc::EISDIR);
            let bytes = content.map(|content| BytesMut::from(&content.read(offset, size)[..]));
            (bytes, delay(fault))
        }
    }
}

fn write(
    state: &mut State,
    node: u64,
    arguments: &[u8],
    body: &Bytes,
) -> (Answer, Option<std::time::Duration>) {
    let offset = u64_at(arguments, 8);
    let fault = state.fault(node, On::Write, offset..offset + body.len() as u64);
    if let Some(Fault::Error(errno)) = fault {
        return (Err(errno), None);
    }
    let missing = match state.image.file(node) {
        Some(content) => content.missing(offset, body.len()),
        None => return (Err(libc::EISDIR), None),
    };
    if let Err(errno) = state.has_room(missing) {
        return (Err(errno), None);
    }
    // The kernel passes RWF_DSYNC on as a flag of the write.
    let durable = u32_at(arguments, 32) & libc::O_DSYNC as u32 != 0;
    state.change(Change::Write {
        file: node,
        offset,
        bytes: body.clone(),
        durable,
    });
    let mut reply = BytesMut::new();
    wire::put_write(&mut reply, body.len() as u32);
    (Ok(reply), delay(fault))
}

fn sync(state: &mut State, node: u64) -> (Answer, Option<std::time::Duration>) {
    match state.fault(node, On::Sync, 0..0) {
        Some(Fault::Error(errno)) => (Err(errno), None),
        fault => {
            state.change(Change::Sync { inode: node });
            (Ok(BytesMut::new()), delay(fault))
        }
    }
}

fn delay(fault: Option<Fault>) -> Option<std::time::Duration> {
    match fault? {
        Fault::Slow(time) => Some(time),
        Fault::Error(_) => None,
    }
}
