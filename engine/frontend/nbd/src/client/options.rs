//! The client's handshake: which options it sends, one after the other.

use super::{ClientError, broken};
use crate::wire::{self, can, info, option, reply, u16_at, u32_at, u64_at};
use bytes::{BufMut, Bytes, BytesMut};

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The export's name; empty for the default one.
    pub export: String,
    /// Ask for structured replies.
    pub structured: bool,
    /// Ask for `base:allocation` (needs structured replies).
    pub allocation: bool,
}

impl Options {
    /// Everything the server can do, for this export.
    pub fn new(export: impl Into<String>) -> Self {
        Self {
            export: export.into(),
            structured: true,
            allocation: true,
        }
    }
}

/// What the server said of the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags, as on the wire.
    pub flags: u16,
    /// Bytes that every offset and length is a multiple of.
    pub minimum_block: u32,
    /// Bytes that a request should best have.
    pub preferred_block: u32,
    /// Bytes a request may have.
    pub maximum_block: u32,
}

impl Export {
    /// Whether it refuses writes.
    pub fn read_only(&self) -> bool {
        self.flags & can::READ_ONLY != 0
    }

    /// Whether several connections may share it.
    pub fn multi_conn(&self) -> bool {
        self.flags & can::MULTI_CONN != 0
    }
}

/// Where the handshake is.
#[derive(Clone, Debug)]
pub(super) struct Handshake {
    options: Options,
    /// The options still to be acknowledged, the current one first.
    queue: Vec<u32>,
    pub structured: bool,
    pub allocation: bool,
    export: Export,
}

impl Handshake {
    pub fn new(options: Options) -> Self {
        let mut queue = Vec::new();
        if options.structured {
            queue.push(option::STRUCTURED_REPLY);
            if options.allocation {
                queue.push(option::SET_META_CONTEXT);
            }
        }
        queue.push(option::GO);
        let export = Export {
            minimum_block: 1,
            preferred_block: 4096,
            maximum_block: 32 << 20,
            ..Export::default()
        };
        Self {
            options,
            queue,
            structured: false,
            allocation: false,
            export,
        }
    }

    /// Answers the greeting: client flags and the first option.
    pub fn greet(&self, greeting: &[u8; wire::GREETING]) -> Result<Bytes, ClientError> {
        if u64_at(greeting, 0) != wire::NBDMAGIC || u64_at(greeting, 8) != wire::IHAVEOPT {
            return broken("its greeting is not that of a newstyle NBD server");
        }
        let flags = u16_at(greeting, 16);
        if flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
            return broken("it does not speak fixed newstyle");
        }
        let ours = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        let mut raw = BytesMut::new();
        raw.put_u32(u32::from(ours));
        self.put_option(&mut raw);
        Ok(raw.freeze())
    }

    /// Takes one reply: `None` when more will come to this option, otherwise what to send next,
    /// or the export when all is agreed.
    pub fn on_reply(
        &mut self,
        option: u32,
        kind: u32,
        data: &[u8],
    ) -> Result<Option<Result<Bytes, Export>>, ClientError> {
        let current = *self.queue.first().expect("the handshake ends with GO");
        if option != current {
            return broken(format!("a reply to option {option} instead of {current}"));
        }
        match kind {
            reply::INFO if option == option::GO => self.on_info(data).map(|()| None),
            reply::META_CONTEXT if option == option::SET_META_CONTEXT => {
                self.allocation |= data.get(4..) == Some(wire::ALLOCATION.as_bytes());
                Ok(None)
            }
            reply::ACK => {
                self.structured |= option == option::STRUCTURED_REPLY;
                Ok(Some(self.advance()))
            }
            _ if kind & reply::ERROR != 0 && option != option::GO => {
                if option == option::STRUCTURED_REPLY {
                    self.queue
                        .retain(|option| *option != option::SET_META_CONTEXT);
                }
                Ok(Some(self.advance()))
            }
            _ if kind & reply::ERROR != 0 => Err(ClientError::Refused {
                export: self.options.export.clone(),
                message: String::from_utf8_lossy(data).into_owned(),
            }),
            _ => broken(format!("a reply of type {kind} to option {option}")),
        }
    }

    fn advance(&mut self) -> Result<Bytes, Export> {
        self.queue.remove(0);
        if self.queue.is_empty() {
            return Err(self.export);
        }
        let mut raw = BytesMut::new();
        self.put_option(&mut raw);
        Ok(raw.freeze())
    }

    fn on_info(&mut self, data: &[u8]) -> Result<(), ClientError> {
        if data.len() < 2 {
            return broken("an information without its type");
        }
        match (u16_at(data, 0), data.len()) {
            (info::EXPORT, 12) => {
                self.export.size = u64_at(data, 2);
                self.export.flags = u16_at(data, 10);
            }
            (info::BLOCK_SIZE, 14) => {
                self.export.minimum_block = u32_at(data, 2);
                self.export.preferred_block = u32_at(data, 6);
                self.export.maximum_block = u32_at(data, 10);
            }
            (info::EXPORT | info::BLOCK_SIZE, _) => return broken("an information cut short"),
            _ => {}
        }
        Ok(())
    }

    fn put_option(&self, raw: &mut BytesMut) {
        let option = *self.queue.first().expect("there is an option to send");
        let mut data = BytesMut::new();
        let name = self.options.export.as_bytes();
        match option {
            option::SET_META_CONTEXT => {
                put_string(&mut data, name);
                data.put_u32(1);
                put_string(&mut data, wire::ALLOCATION.as_bytes());
            }
            option::GO => {
                put_string(&mut data, name);
                data.put_u16(1);
                data.put_u16(info::BLOCK_SIZE);
            }
            _ => {}
        }
        raw.put_u64(wire::IHAVEOPT);
        raw.put_u32(option);
        put_string(raw, &data);
    }
}

/// Length u32 and the bytes.
fn put_string(raw: &mut BytesMut, string: &[u8]) {
    raw.put_u32(u32::try_from(string.len()).expect("strings of the handshake are short"));
    raw.put_slice(string);
}
