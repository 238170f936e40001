//! TLS on the ring: rustls's unbuffered interface, one state machine for both sides. Records are
//! decrypted in place in the receive buffer and encrypted into a pool buffer.

use std::sync::Arc;

use bytes::Bytes;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, Error, ServerConfig};

use crate::pool::{MAX_BUFFER, Pool, PoolBufMut};

/// Plaintext of one full record.
pub(crate) const RECORD: usize = 16_384;
/// What a record adds: header, content type, tag.
const OVERHEAD: usize = 5 + 1 + 16;
/// Room for a key update or an alert beside the records of a batch.
const SLACK: usize = 256;

pub(crate) struct Tls {
    session: Session,
}

enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What the session should do beside taking in records.
pub(crate) enum Wish<'a> {
    /// Nothing.
    Receive,
    /// Encrypt this.
    Encrypt(&'a [u8]),
    /// Say goodbye.
    Close,
}

/// Where it stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The records are used up; a wish was fulfilled if the handshake is over.
    Idle,
    /// The sink could take no more; records may be left.
    SinkFull,
    /// The peer said goodbye.
    PeerClosed,
}

impl Tls {
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        Ok(Self {
            session: Session::Client(UnbufferedClientConnection::new(config, name)?),
        })
    }

    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            session: Session::Server(UnbufferedServerConnection::new(config)?),
        })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        match &self.session {
            Session::Client(c) => c.is_handshaking(),
            Session::Server(s) => s.is_handshaking(),
        }
    }

    /// The peer's own certificate, DER, after the handshake.
    pub(crate) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let chain = match &self.session {
            Session::Client(c) => c.peer_certificates(),
            Session::Server(s) => s.peer_certificates(),
        };
        chain?.first().map(|leaf| leaf.clone().into_owned())
    }

    /// Takes in the records at the front of `incoming`, hands their plaintext to `sink` (which
    /// answers whether it can take more) and appends what must be sent to `output`, then fulfils
    /// the wish if the handshake is over. Returns the bytes of `incoming` that are used up, also
    /// on an error, whose alert is then in `output`.
    ///
    /// `incoming` must be everything received and not used up, at every call: rustls remembers
    /// positions in it.
    pub(crate) fn drive(
        &mut self,
        incoming: &mut [u8],
        output: &mut Output,
        wish: Wish<'_>,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> (usize, Result<Outcome, Error>) {
        match &mut self.session {
            Session::Client(c) => drive(c, incoming, output, wish, sink),
            Session::Server(s) => drive(s, incoming, output, wish, sink),
        }
    }
}

/// Both sides' sessions, for one state machine.
trait Records {
    type Data;
    fn records<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn records<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn records<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }
}

fn drive<S: Records>(
    session: &mut S,
    incoming: &mut [u8],
    output: &mut Output,
    wish: Wish<'_>,
    sink: &mut dyn FnMut(&[u8]) -> bool,
) -> (usize, Result<Outcome, Error>) {
    let (mut used, mut peer_closed) = (0, false);
    let only_receiving = matches!(wish, Wish::Receive);
    loop {
        let UnbufferedStatus { mut discard, state } = session.records(&mut incoming[used..]);
        // A wish is fulfilled whatever else comes up on the way to it.
        let outcome = match state {
            Err(error) => {
                used += discard;
                last_words(session, &mut incoming[used..], output);
                return (used, Err(error));
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut full = false;
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    full |= !sink(record.payload);
                }
                (full && only_receiving).then_some(Ok(Outcome::SinkFull))
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, output);
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // `output` goes out in order, whatever follows.
                data.done();
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(Ok(Outcome::Idle)),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                Some(fulfil(&mut traffic, &wish, output).map(|()| {
                    if peer_closed {
                        Outcome::PeerClosed
                    } else {
                        Outcome::Idle
                    }
                }))
            }
            Ok(ConnectionState::PeerClosed) => {
                peer_closed = true;
                only_receiving.then_some(Ok(Outcome::PeerClosed))
            }
            Ok(ConnectionState::Closed) => Some(Ok(Outcome::PeerClosed)),
            Ok(other) => Some(Err(Error::General(format!(
                "unexpected TLS state {other:?}"
            )))),
        };
        used += discard;
        if let Some(outcome) = outcome {
            return (used, outcome);
        }
    }
}

fn fulfil<D>(
    traffic: &mut WriteTraffic<'_, D>,
    wish: &Wish<'_>,
    output: &mut Output,
) -> Result<(), Error> {
    let mut room = match *wish {
        Wish::Receive => return Ok(()),
        Wish::Encrypt(plain) => encrypted_length(plain.len()),
        Wish::Close => SLACK,
    };
    loop {
        let spare = output.spare(room);
        let written = match *wish {
            Wish::Encrypt(plain) => traffic.encrypt(plain, spare),
            _ => traffic.queue_close_notify(spare),
        };
        match written {
            Ok(written) => {
                output.filled(written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => {
                assert!(
                    size.required_size > room,
                    "rustls asks for more than it was given"
                );
                room = size.required_size;
            }
            Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
        }
    }
}

/// After an error rustls still has the alert that tells the peer why. It is asked once: asked
/// again it would look at `incoming` again.
fn last_words<S: Records>(session: &mut S, incoming: &mut [u8], output: &mut Output) {
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = session.records(incoming).state {
        encode(&mut data, output);
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, output: &mut Output) {
    let mut room = 0;
    loop {
        match data.encode(output.spare(room)) {
            Ok(written) => return output.filled(written),
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

/// Bytes that `plain` bytes become, at most.
pub(crate) fn encrypted_length(plain: usize) -> usize {
    plain + plain.div_ceil(RECORD) * OVERHEAD
}

/// Where encrypted bytes are gathered before they go out as one part.
pub(crate) struct Output {
    place: Place,
    length: usize,
    from_heap: bool,
}

enum Place {
    None,
    Pool(PoolBufMut),
    Heap(Vec<u8>),
}

impl Output {
    /// Takes memory when something comes.
    pub(crate) fn empty() -> Self {
        Self {
            place: Place::None,
            length: 0,
            from_heap: false,
        }
    }

    /// Room for a batch of `plain` bytes in `records` pieces, from the pool, or from the heap if
    /// the pool is exhausted: what is acknowledged must go out for buffers to come back, and the
    /// send queue's bound holds here too.
    pub(crate) fn for_batch(pool: &Pool, plain: usize, records: usize) -> Self {
        let room = encrypted_length(plain) + records * OVERHEAD + SLACK;
        let place = (room <= MAX_BUFFER).then(|| pool.get(room).ok()).flatten();
        match place {
            Some(mut buffer) => {
                buffer.set_len(buffer.capacity());
                Self {
                    place: Place::Pool(buffer),
                    length: 0,
                    from_heap: false,
                }
            }
            None => Self {
                place: Place::Heap(vec![0; room]),
                length: 0,
                from_heap: true,
            },
        }
    }

    /// What was gathered, if anything.
    pub(crate) fn take(self) -> Option<Bytes> {
        let length = self.length;
        if length == 0 {
            return None;
        }
        Some(match self.place {
            Place::None => unreachable!("nothing was gathered nowhere"),
            Place::Pool(mut buffer) => {
                buffer.set_len(length);
                buffer.freeze()
            }
            Place::Heap(mut bytes) => {
                bytes.truncate(length);
                Bytes::from(bytes)
            }
        })
    }

    /// Whether a batch found no pool buffer.
    pub(crate) fn is_from_heap(&self) -> bool {
        self.from_heap
    }

    fn spare(&mut self, room: usize) -> &mut [u8] {
        let needed = self.length + room;
        let has = match &self.place {
            Place::None => 0,
            Place::Pool(buffer) => buffer.len(),
            Place::Heap(bytes) => bytes.len(),
        };
        if has < needed {
            let mut bytes = match std::mem::replace(&mut self.place, Place::None) {
                Place::None => Vec::new(),
                Place::Pool(buffer) => buffer[..self.length].to_vec(),
                Place::Heap(bytes) => bytes,
            };
            bytes.resize(needed.max(2 * self.length), 0);
            self.place = Place::Heap(bytes);
        }
        match &mut self.place {
            Place::None => &mut [],
            Place::Pool(buffer) => &mut buffer[self.length..],
            Place::Heap(bytes) => &mut bytes[self.length..],
        }
    }

    fn filled(&mut self, by: usize) {
        self.length += by;
    }
}
