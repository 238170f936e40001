//! A whole NBD server over one volume in memory: a thread a connection, blocking sockets. It drives
//! `Session` as the node does: requests are cut into pieces and their responses joined.

use bytes::{Bytes, BytesMut};
use lockstep_nbd::{
    Answer, CloseReason, Done, ExportError, ExportInfo, Join, Limits, Listed, Op, Out, Request,
    Run, Runs, Session, pieces,
};
use lockstep_types::{BLOCK, BlockRange, Response};
use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, Read, Write};
use std::sync::{Arc, Mutex};

/// A thinly provisioned volume in memory.
pub struct Volume {
    name: String,
    size: u64,
    blocks: Mutex<BTreeMap<u64, Bytes>>,
}

impl Volume {
    pub fn new(name: &str, size: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            size,
            blocks: Mutex::default(),
        })
    }

    fn export(&self) -> ExportInfo {
        ExportInfo {
            size: self.size,
            read_only: false,
            preferred_block: 256 << 10,
            multi_conn: true,
            fast_zero: false,
            description: "a volume in memory".to_owned(),
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        match request.op {
            Op::Flush => Ok(Done::Plain),
            Op::BlockStatus => Ok(Done::Status(self.runs(request))),
            _ => {
                let mut join = Join::new(request);
                pieces(request)
                    .filter_map(|piece| {
                        let payload = match request.op {
                            Op::Write => {
                                request.payload.slice(piece.payload_at, piece.range.bytes())
                            }
                            _ => Default::default(),
                        };
                        let response = self.serve(request.op, piece.range, payload.into_bytes());
                        join.finish(piece.index, Ok(response))
                    })
                    .last()
                    .expect("the last piece ends the request")
            }
        }
    }

    fn serve(&self, op: Op, range: BlockRange, payload: Bytes) -> Response {
        let mut blocks = self.blocks.lock().expect("no holder panics");
        let all = range.start..range.end();
        match op {
            Op::Read => Response::Data(all.map(|at| (1, blocks.get(&at).cloned())).collect()),
            Op::Write => {
                for (index, at) in all.enumerate() {
                    // A copy, so that a block does not keep the receive buffer.
                    let bytes = &payload[index * BLOCK..(index + 1) * BLOCK];
                    blocks.insert(at, Bytes::copy_from_slice(bytes));
                }
                Response::Done
            }
            _ => {
                all.for_each(|at| drop(blocks.remove(&at)));
                Response::Done
            }
        }
    }

    fn runs(&self, request: &Request) -> Runs {
        let blocks = self.blocks.lock().expect("no holder panics");
        let range = request.range().expect("a status has a range");
        let runs = (range.start..range.end()).take(1 << 16).map(|at| Run {
            length: BLOCK as u32,
            allocated: blocks.contains_key(&at),
        });
        runs.collect()
    }
}

/// Serves one connection to its end; why it ended.
pub fn serve<S: Read + Write>(mut socket: S, volume: &Volume) -> anyhow::Result<CloseReason> {
    let mut session = Session::new(Limits::default());
    let mut buffer = BytesMut::zeroed(256 << 10);
    let mut out = Vec::new();
    session.start(&mut out);
    loop {
        if let Some(reason) = perform(&mut session, out, &mut socket, volume)? {
            return Ok(reason);
        }
        assert!(session.wants_more(), "everything was answered and sent");
        if buffer.len() < 32 << 10 {
            buffer = BytesMut::zeroed(256 << 10);
        }
        let count = socket.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "the client went away");
        out = Vec::new();
        session.receive(buffer.split_to(count).freeze(), &mut out);
    }
}

/// Does what the session wants until it wants nothing more.
fn perform<S: Read + Write>(
    session: &mut Session,
    out: Vec<Out>,
    socket: &mut S,
    volume: &Volume,
) -> anyhow::Result<Option<CloseReason>> {
    let mut queue = VecDeque::from(out);
    while let Some(next) = queue.pop_front() {
        let mut more = Vec::new();
        match next {
            Out::Send(parts) => {
                let count = parts.iter().map(Bytes::len).sum();
                let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                write_all(socket, &mut slices)?;
                session.sent(count, &mut more);
            }
            Out::Request(request) => {
                session.complete(request.tag, volume.answer(&request), &mut more);
            }
            Out::WantExport { name, .. } => {
                let known = name.is_empty() || name == volume.name;
                let answer = known.then(|| volume.export());
                session.export(answer.ok_or(ExportError::Unknown { name }), &mut more);
            }
            Out::WantList => {
                let only = Listed {
                    name: volume.name.clone(),
                    description: volume.export().description,
                };
                session.list(&[only], &mut more);
            }
            Out::StartTls => unreachable!("the default limits have no TLS"),
            Out::Close(reason) => return Ok(Some(reason)),
        }
        queue.extend(more);
    }
    Ok(None)
}

fn write_all<S: Write>(socket: &mut S, mut slices: &mut [IoSlice<'_>]) -> anyhow::Result<()> {
    while !slices.is_empty() {
        let count = socket.write_vectored(slices)?;
        anyhow::ensure!(count > 0, "the client went away");
        IoSlice::advance_slices(&mut slices, count);
    }
    Ok(())
}
