//! Requests of clients on their way: cut into what the node takes, held while there is no buffer or
//! the volume is suspended, joined into one answer. It is the same for every kind of front-end.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_frontend::{Answer, Done, InFlight, IoError, Join, Op, Payload, Piece, pieces};
use lockstep_logic::io::{AttachmentState, Tag};
use lockstep_types::{
    AttachmentId, Nanos, Request, RequestError, RequestOp, Response, VolumeId, checksum_blocks,
};

use super::Action;
use super::tally::{Begun, Kind, Tallies};

/// Gives a payload's bytes in one buffer fit for direct I/O; `None`: no buffer is free now.
pub trait Gather {
    /// All bytes of `payload`, aligned to 4096 in memory.
    fn gather(&self, payload: Payload) -> Option<Bytes>;
}

/// Where a request came from: its client, and the publication it came through (R12).
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<K> {
    pub(super) client: K,
    pub(super) volume: VolumeId,
    pub(super) attachment: AttachmentId,
}

/// A request under way, cut into pieces.
#[derive(Debug)]
struct Whole<K> {
    client: K,
    tag: u64,
    join: Join,
    begun: Begun,
}

#[derive(Clone, Copy, Debug)]
struct PieceOf {
    whole: u32,
    index: u32,
}

/// A piece whose payload found no buffer, or a flush of a suspended volume.
#[derive(Debug)]
enum Held<K> {
    Piece {
        tag: Tag,
        volume: VolumeId,
        attachment: AttachmentId,
        piece: Piece,
        payload: Payload,
    },
    Flush {
        origin: Origin<K>,
        tag: u64,
        since: Nanos,
    },
}

/// All requests under way of one data-plane thread.
#[derive(Debug)]
pub(super) struct Requests<K, G> {
    gather: G,
    wholes: Vec<Option<Whole<K>>>,
    free_wholes: Vec<u32>,
    pieces: InFlight<PieceOf>,
    held: VecDeque<Held<K>>,
    tallies: Tallies,
    /// As of this turn of the loop.
    now: Nanos,
    /// Answers not yet given to their sessions: a session that gets one may come up with the next
    /// request, which is answered in turn, and not one inside the other.
    answers: VecDeque<(K, u64, Answer)>,
}

impl<K: Copy, G: Gather> Requests<K, G> {
    pub(super) fn new(gather: G) -> Self {
        Self {
            gather,
            wholes: Vec::new(),
            free_wholes: Vec::new(),
            pieces: InFlight::default(),
            held: VecDeque::new(),
            tallies: Tallies::default(),
            now: 0,
            answers: VecDeque::new(),
        }
    }

    /// What the clock says: requests are timed by it.
    pub(super) fn set_time(&mut self, now: Nanos) {
        self.now = now;
    }

    pub(super) fn tallies(&mut self) -> &mut Tallies {
        &mut self.tallies
    }

    /// When the request of this volume began that has waited longest; none if none is under way.
    pub(super) fn oldest(&self, volume: VolumeId) -> Option<Nanos> {
        let wholes = self.wholes.iter().flatten().map(|whole| whole.begun);
        let flushes = self.held.iter().filter_map(|held| match held {
            Held::Flush { origin, since, .. } => Some((origin.volume, *since)),
            Held::Piece { .. } => None,
        });
        wholes
            .map(|begun| (begun.volume, begun.at))
            .chain(flushes)
            .filter_map(|(of, at)| (of == volume).then_some(at))
            .min()
    }

    /// Requests put to the node and not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.pieces.len()
    }

    /// The next answer for a session, with its client and tag.
    pub(super) fn next_answer(&mut self) -> Option<(K, u64, Answer)> {
        self.answers.pop_front()
    }

    /// Answers a request without the node.
    pub(super) fn answer(&mut self, client: K, tag: u64, answer: Answer) {
        self.answers.push_back((client, tag, answer));
    }

    /// Puts a read, write, trim or zeroes to the node, piece by piece.
    pub(super) fn begin(
        &mut self,
        origin: Origin<K>,
        request: &lockstep_frontend::Request,
        out: &mut Vec<Action<K>>,
    ) {
        let Origin {
            client,
            volume,
            attachment,
        } = origin;
        let whole = self.keep(Whole {
            client,
            tag: request.tag,
            join: Join::new(request),
            begun: Begun {
                volume,
                kind: Kind::of(request.op).expect("these move data"),
                bytes: request.length.into(),
                at: self.now,
            },
        });
        for piece in pieces(request) {
            let tag = self.pieces.insert(PieceOf {
                whole,
                index: piece.index,
            });
            let op = match request.op {
                Op::Read => RequestOp::Read,
                Op::Trim => RequestOp::Discard,
                Op::WriteZeroes => RequestOp::WriteZeroes,
                Op::Write => {
                    let payload = request.payload.slice(piece.payload_at, piece.range.bytes());
                    self.write(origin, tag, piece, payload, out);
                    continue;
                }
                Op::Flush | Op::BlockStatus => unreachable!("these are not cut"),
            };
            let range = piece.range;
            out.push(Action::Client {
                volume,
                attachment,
                tag,
                request: Request { range, op },
            });
        }
    }

    /// A piece of a write: at once if there is a buffer, and behind those that wait for one.
    fn write(
        &mut self,
        origin: Origin<K>,
        tag: Tag,
        piece: Piece,
        payload: Payload,
        out: &mut Vec<Action<K>>,
    ) {
        let Origin {
            volume, attachment, ..
        } = origin;
        let first = self.held.is_empty();
        let made = if first {
            write_request(piece, payload, &self.gather)
        } else {
            Err(payload)
        };
        match made {
            Ok(request) => out.push(Action::Client {
                volume,
                attachment,
                tag,
                request,
            }),
            Err(payload) => self.held.push_back(Held::Piece {
                tag,
                volume,
                attachment,
                piece,
                payload,
            }),
        }
    }

    /// Every answered write is durable on all of `required` (R2), so that a flush only waits while
    /// the volume is suspended, and fails with its attachment (R12). `state` is that of the
    /// attachment the flush came through; none if it is not published here.
    pub(super) fn flush(&mut self, origin: Origin<K>, tag: u64, state: Option<AttachmentState>) {
        self.flush_since(origin, tag, self.now, state);
    }

    fn flush_since(
        &mut self,
        origin: Origin<K>,
        tag: u64,
        since: Nanos,
        state: Option<AttachmentState>,
    ) {
        let answer = match state {
            Some(AttachmentState::Open { .. }) => Ok(Done::Plain),
            Some(AttachmentState::Suspended) => {
                return self.held.push_back(Held::Flush { origin, tag, since });
            }
            Some(AttachmentState::Fenced) | None => Err(IoError::Io),
        };
        let begun = Begun {
            volume: origin.volume,
            kind: Kind::Flush,
            bytes: 0,
            at: since,
        };
        self.tallies.answered(begun, answer.is_ok(), self.now);
        self.answer(origin.client, tag, answer);
    }

    /// The node answered a piece. The only way to a client's answer.
    pub(super) fn complete(&mut self, tag: Tag, result: Result<Response, RequestError>) {
        let PieceOf { whole, index } = self.pieces.take(tag);
        let slot = &mut self.wholes[whole as usize];
        let under_way = slot
            .as_mut()
            .expect("a piece belongs to a request under way");
        let Some(answer) = under_way.join.finish(index, result) else {
            return;
        };
        let done = slot.take().expect("it was just there");
        self.free_wholes.push(whole);
        self.tallies.answered(done.begun, answer.is_ok(), self.now);
        self.answer(done.client, done.tag, answer);
    }

    /// Tries again what found no buffer or waits for its volume.
    pub(super) fn retry_held(
        &mut self,
        state: impl Fn(VolumeId, AttachmentId) -> Option<AttachmentState>,
        out: &mut Vec<Action<K>>,
    ) {
        for _ in 0..self.held.len() {
            match self.held.pop_front().expect("as many as counted") {
                Held::Piece {
                    tag,
                    volume,
                    attachment,
                    piece,
                    payload,
                } => match write_request(piece, payload, &self.gather) {
                    Ok(request) => out.push(Action::Client {
                        volume,
                        attachment,
                        tag,
                        request,
                    }),
                    Err(payload) => {
                        // No buffer yet: those behind it will find none either.
                        self.held.push_front(Held::Piece {
                            tag,
                            volume,
                            attachment,
                            piece,
                            payload,
                        });
                        return;
                    }
                },
                Held::Flush { origin, tag, since } => {
                    let state = state(origin.volume, origin.attachment);
                    self.flush_since(origin, tag, since, state);
                }
            }
        }
    }

    fn keep(&mut self, whole: Whole<K>) -> u32 {
        let slot = self.free_wholes.pop().unwrap_or_else(|| {
            self.wholes.push(None);
            u32::try_from(self.wholes.len() - 1).expect("sessions bound the requests in flight")
        });
        self.wholes[slot as usize] = Some(whole);
        slot
    }
}

/// The request of a piece of a write; gives the payload back when there is no buffer for it.
fn write_request(piece: Piece, payload: Payload, gather: &impl Gather) -> Result<Request, Payload> {
    let Some(bytes) = gather.gather(payload.clone()) else {
        return Err(payload);
    };
    let checksums = checksum_blocks(&bytes);
    Ok(Request {
        range: piece.range,
        op: RequestOp::Write {
            checksums,
            payload: bytes,
        },
    })
}
