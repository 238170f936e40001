//! The handshake's options: what each is answered, and when the node must be asked first.

use crate::close::CloseReason;
use crate::export::{ExportError, ExportInfo, Listed};
use crate::session::Tls;
use crate::wire::{self, info, option, reply, u16_at, u32_at};
use bytes::{BufMut, Bytes, BytesMut};

/// What client and server have agreed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agreed {
    /// The client speaks fixed newstyle; otherwise EXPORT_NAME is all it may send.
    pub fixed: bool,
    pub no_zeroes: bool,
    pub structured: bool,
    /// `base:allocation` was selected for the export of this name.
    pub allocation_for: Option<String>,
    pub encrypted: bool,
}

/// What the node is asked before the option can be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    ExportName {
        name: String,
    },
    Info {
        name: String,
        go: bool,
        wants: Vec<u16>,
    },
    Contexts {
        name: String,
        set: bool,
        allocation: bool,
    },
    List,
}

impl Ask {
    /// The option to answer.
    fn option(&self) -> u32 {
        match self {
            Self::ExportName { .. } => option::EXPORT_NAME,
            Self::Info { go: true, .. } => option::GO,
            Self::Info { go: false, .. } => option::INFO,
            Self::Contexts { set: true, .. } => option::SET_META_CONTEXT,
            Self::Contexts { set: false, .. } => option::LIST_META_CONTEXT,
            Self::List => option::LIST,
        }
    }
}

/// What follows an option.
#[derive(Debug)]
pub(crate) enum Next {
    /// The next option.
    Option,
    Ask(Ask),
    StartTls,
    Transmit(ExportInfo),
    Close(CloseReason),
}

/// Option replies being written.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    pub bytes: BytesMut,
}

impl Replies {
    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }

    fn put(&mut self, option: u32, kind: u32, data: &[&[u8]]) {
        let length: usize = data.iter().map(|part| part.len()).sum();
        self.bytes.put_u64(wire::OPTION_REPLY_MAGIC);
        self.bytes.put_u32(option);
        self.bytes.put_u32(kind);
        self.bytes
            .put_u32(u32::try_from(length).expect("replies are short"));
        data.iter().for_each(|part| self.bytes.put_slice(part));
    }

    fn ack(&mut self, option: u32) -> Next {
        self.put(option, reply::ACK, &[]);
        Next::Option
    }

    pub fn refuse(&mut self, option: u32, kind: u32, why: &str) -> Next {
        self.put(option, kind, &[why.as_bytes()]);
        Next::Option
    }
}

/// Answers one option, or says what must be known first.
pub(crate) fn on_option(
    agreed: &mut Agreed,
    tls: Tls,
    option: u32,
    data: &[u8],
    replies: &mut Replies,
) -> Next {
    if option == option::EXPORT_NAME {
        return on_export_name(agreed, tls, data);
    }
    if option == option::ABORT {
        let _ = replies.ack(option);
        return Next::Close(CloseReason::ClientAborted);
    }
    if !agreed.fixed {
        return Next::Close(CloseReason::NotFixedNewstyle { option });
    }
    if tls == Tls::Required && !agreed.encrypted && option != option::STARTTLS {
        return replies.refuse(
            option,
            reply::ERR_TLS_REQD,
            "this server wants STARTTLS first",
        );
    }
    match option {
        option::STARTTLS => on_starttls(agreed, tls, data, replies),
        option::STRUCTURED_REPLY if data.is_empty() => {
            agreed.structured = true;
            replies.ack(option)
        }
        option::LIST if data.is_empty() => Next::Ask(Ask::List),
        option::STRUCTURED_REPLY | option::LIST => {
            replies.refuse(option, reply::ERR_INVALID, "this option has no data")
        }
        option::INFO | option::GO => match parse_info(data) {
            Some((name, wants)) => Next::Ask(Ask::Info {
                name,
                go: option == option::GO,
                wants,
            }),
            None => replies.refuse(option, reply::ERR_INVALID, "malformed name or requests"),
        },
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
            on_contexts(agreed, option, data, replies)
        }
        _ => replies.refuse(
            option,
            reply::ERR_UNSUP,
            "this server does not know the option",
        ),
    }
}

fn on_export_name(agreed: &Agreed, tls: Tls, data: &[u8]) -> Next {
    if tls == Tls::Required && !agreed.encrypted {
        return Next::Close(CloseReason::TlsRequired);
    }
    // The option has no error reply: the only "no" is to close.
    match parse_name(data) {
        Some(name) => Next::Ask(Ask::ExportName { name }),
        None => Next::Close(CloseReason::MalformedName),
    }
}

fn on_starttls(agreed: &mut Agreed, tls: Tls, data: &[u8], replies: &mut Replies) -> Next {
    let option = option::STARTTLS;
    match tls {
        _ if !data.is_empty() => {
            replies.refuse(option, reply::ERR_INVALID, "this option has no data")
        }
        Tls::Unsupported => replies.refuse(
            option,
            reply::ERR_UNSUP,
            "this socket is local and has no TLS",
        ),
        Tls::Required if agreed.encrypted => {
            replies.refuse(option, reply::ERR_INVALID, "TLS is on already")
        }
        Tls::Required => {
            let _ = replies.ack(option);
            // Nothing agreed in the clear counts afterwards.
            *agreed = Agreed {
                fixed: true,
                no_zeroes: agreed.no_zeroes,
                encrypted: true,
                ..Agreed::default()
            };
            Next::StartTls
        }
    }
}

fn on_contexts(agreed: &mut Agreed, option: u32, data: &[u8], replies: &mut Replies) -> Next {
    if !agreed.structured {
        let why = "metadata contexts need STRUCTURED_REPLY first";
        return replies.refuse(option, reply::ERR_INVALID, why);
    }
    let set = option == option::SET_META_CONTEXT;
    let Some((name, queries)) = parse_contexts(data) else {
        return replies.refuse(option, reply::ERR_INVALID, "malformed name or queries");
    };
    if set {
        // A new selection replaces the old one, also when it fails.
        agreed.allocation_for = None;
    }
    // An empty list means everything, an empty selection nothing; a namespace alone lists.
    let allocation = queries.contains(&wire::ALLOCATION)
        || (!set && (queries.is_empty() || queries.contains(&"base:")));
    Next::Ask(Ask::Contexts {
        name,
        set,
        allocation,
    })
}

/// Answers what `ask` was about, now that the node has spoken.
pub(crate) fn on_export(
    agreed: &mut Agreed,
    ask: Ask,
    answer: Result<ExportInfo, ExportError>,
    max_request: u32,
    replies: &mut Replies,
) -> Next {
    let option = ask.option();
    let export = match answer {
        Ok(export) => export,
        Err(error) if option == option::EXPORT_NAME => {
            return Next::Close(CloseReason::ExportRefused(error));
        }
        Err(error) => {
            let kind = match error {
                ExportError::Unknown { .. } => reply::ERR_UNKNOWN,
                ExportError::Refused { .. } => reply::ERR_POLICY,
                ExportError::Shutdown => reply::ERR_SHUTDOWN,
            };
            return replies.refuse(option, kind, &error.to_string());
        }
    };
    export.check();
    match ask {
        Ask::ExportName { name } => {
            select(agreed, &name);
            put_export_name(agreed, &export, replies);
            Next::Transmit(export)
        }
        Ask::Info { name, go, wants } => {
            put_info(agreed, option, &name, &wants, &export, max_request, replies);
            let next = replies.ack(option);
            if !go {
                return next;
            }
            select(agreed, &name);
            Next::Transmit(export)
        }
        Ask::Contexts {
            name,
            set,
            allocation,
        } => {
            if allocation {
                let id = if set { wire::ALLOCATION_ID } else { 0 };
                let data = [&id.to_be_bytes()[..], wire::ALLOCATION.as_bytes()];
                replies.put(option, reply::META_CONTEXT, &data);
            }
            if set {
                agreed.allocation_for = allocation.then_some(name);
            }
            replies.ack(option)
        }
        Ask::List => panic!("a list is answered with `list`"),
    }
}

/// Answers LIST.
pub(crate) fn on_list(exports: &[Listed], replies: &mut Replies) -> Next {
    for export in exports {
        assert!(
            export.name.len() <= wire::MAX_STRING,
            "an export's name is short"
        );
        let length = (export.name.len() as u32).to_be_bytes();
        let data = [
            &length[..],
            export.name.as_bytes(),
            export.description.as_bytes(),
        ];
        replies.put(option::LIST, reply::SERVER, &data);
    }
    replies.ack(option::LIST)
}

/// A selection counts only for the export it was made for.
fn select(agreed: &mut Agreed, name: &str) {
    if agreed.allocation_for.as_deref() != Some(name) {
        agreed.allocation_for = None;
    }
}

fn put_export_name(agreed: &Agreed, export: &ExportInfo, replies: &mut Replies) {
    replies.bytes.put_u64(export.size);
    replies.bytes.put_u16(export.flags(agreed.structured));
    if !agreed.no_zeroes {
        replies.bytes.put_bytes(0, 124);
    }
}

fn put_info(
    agreed: &Agreed,
    option: u32,
    name: &str,
    wants: &[u16],
    export: &ExportInfo,
    max_request: u32,
    replies: &mut Replies,
) {
    let put = |replies: &mut Replies, kind: u16, data: &[&[u8]]| {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + data.len());
        let kind = kind.to_be_bytes();
        parts.push(&kind);
        parts.extend_from_slice(data);
        replies.put(option, reply::INFO, &parts);
    };
    let flags = export.flags(agreed.structured).to_be_bytes();
    put(replies, info::EXPORT, &[&export.size.to_be_bytes(), &flags]);
    if wants.contains(&info::NAME) {
        put(replies, info::NAME, &[name.as_bytes()]);
    }
    if wants.contains(&info::DESCRIPTION) && !export.description.is_empty() {
        put(replies, info::DESCRIPTION, &[export.description.as_bytes()]);
    }
    // Sent unasked too: a client that does not ask learns at least by looking at it.
    let minimum = (lockstep_types::BLOCK as u32).to_be_bytes();
    let preferred = export.preferred_block.min(max_request).to_be_bytes();
    put(
        replies,
        info::BLOCK_SIZE,
        &[&minimum, &preferred, &max_request.to_be_bytes()],
    );
}

fn parse_name(raw: &[u8]) -> Option<String> {
    if raw.len() > wire::MAX_STRING || raw.contains(&0) {
        return None;
    }
    std::str::from_utf8(raw).ok().map(str::to_owned)
}

/// Length u32, name, count u16, that many types u16.
fn parse_info(data: &[u8]) -> Option<(String, Vec<u16>)> {
    let (name, rest) = parse_string(data)?;
    if rest.len() < 2 || rest.len() != 2 + 2 * usize::from(u16_at(rest, 0)) {
        return None;
    }
    let wants = rest[2..]
        .chunks_exact(2)
        .map(|kind| u16_at(kind, 0))
        .collect();
    Some((parse_name(name)?, wants))
}

/// Length u32, name, count u32, that many times length u32 and query.
fn parse_contexts(data: &[u8]) -> Option<(String, Vec<&str>)> {
    let (name, rest) = parse_string(data)?;
    if rest.len() < 4 {
        return None;
    }
    let (count, mut rest) = (u32_at(rest, 0), &rest[4..]);
    let mut queries = Vec::new();
    for _ in 0..count {
        // Ends at the first that is not there, so that a huge count costs nothing.
        let (query, tail) = parse_string(rest)?;
        queries.push(std::str::from_utf8(query).ok()?);
        rest = tail;
    }
    rest.is_empty().then_some(())?;
    Some((parse_name(name)?, queries))
}

fn parse_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    if data.len() < 4 {
        return None;
    }
    let length = u32_at(data, 0) as usize;
    let rest = &data[4..];
    (length <= wire::MAX_STRING && length <= rest.len()).then(|| rest.split_at(length))
}
