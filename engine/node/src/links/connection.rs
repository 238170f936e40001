//! One link from its handshake to its end.
//!
//! A frame: kind (1 byte), length (u32, little-endian), body.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_types::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use super::{LinkEvent, Parcel, Shared};

const CONSENSUS: u8 = 1;
const MESSAGE: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;

/// How often a ping goes out.
const PING_EVERY: Duration = Duration::from_millis(500);
/// A link without an answered ping for so long is down.
const SILENCE: Duration = Duration::from_millis(2000);
/// Longest body: a snapshot of the control state in its envelope.
const MAX_BODY: usize = 256 << 20;

/// Runs a connection as the link to `peer` until it ends.
pub(super) async fn run(shared: &Shared, peer: NodeId, stream: impl AsyncRead + AsyncWrite) {
    let (number, parcels) = shared.register(peer);
    let mut up = false;
    let (reader, writer) = tokio::io::split(stream);
    let ended = speak(shared, peer, reader, writer, parcels, &mut up).await;
    // A link that was replaced says nothing: its successor has the word.
    if shared.unregister(peer, number) && up {
        tracing::info!(%peer, reason = %ended, "control link down");
        let _ = shared.events.send(LinkEvent::Down(peer)).await;
    } else {
        tracing::debug!(%peer, reason = %ended, "control connection ended");
    }
}

async fn speak(
    shared: &Shared,
    peer: NodeId,
    reader: impl AsyncRead,
    writer: impl AsyncWrite,
    parcels: tokio::sync::mpsc::Receiver<Parcel>,
    up: &mut bool,
) -> io::Error {
    let (pongs, to_pong) = tokio::sync::mpsc::channel::<[u8; 8]>(8);
    let (answered, last_answer) = tokio::sync::watch::channel(Instant::now());
    let nonce = crate::mint::bytes::<8>();
    let reading = async {
        let mut reader = std::pin::pin!(BufReader::with_capacity(64 << 10, reader));
        loop {
            let (kind, body) = read(&mut reader).await?;
            match kind {
                PING => {
                    if let Ok(echo) = body[..].try_into() {
                        // A full queue drops the answer; the next ping gets one.
                        let _ = pongs.try_send(echo);
                    }
                }
                PONG if body[..] == nonce => {
                    answered.send_replace(Instant::now());
                    if !*up {
                        *up = true;
                        tracing::info!(%peer, "control link up");
                        deliver(shared, LinkEvent::Up(peer)).await?;
                    }
                }
                CONSENSUS => {
                    deliver(
                        shared,
                        LinkEvent::Consensus {
                            from: peer,
                            frame: body,
                        },
                    )
                    .await?
                }
                MESSAGE => deliver(shared, LinkEvent::Message { from: peer, body }).await?,
                _ => return Err::<(), _>(invalid(format!("a frame of unknown kind {kind}"))),
            }
        }
    };
    let ended: io::Result<()> = tokio::select! {
        end = reading => end,
        end = keep_writing(writer, parcels, to_pong, nonce) => end,
        end = watch_silence(last_answer) => end,
    };
    ended.err().unwrap_or_else(|| io::Error::other("ended"))
}

/// Sends parcels, answers to pings, and pings of its own that say `nonce`.
async fn keep_writing(
    writer: impl AsyncWrite,
    mut parcels: tokio::sync::mpsc::Receiver<Parcel>,
    mut to_pong: tokio::sync::mpsc::Receiver<[u8; 8]>,
    nonce: [u8; 8],
) -> io::Result<()> {
    let mut writer = std::pin::pin!(writer);
    let mut pings = tokio::time::interval(PING_EVERY);
    let mut buffer = BytesMut::new();
    loop {
        tokio::select! {
            parcel = parcels.recv() => match parcel {
                Some(parcel) => put_parcel(&mut buffer, &parcel),
                None => return Err(io::Error::other("replaced by a newer connection")),
            },
            echo = to_pong.recv() => if let Some(echo) = echo { put(&mut buffer, PONG, &echo) },
            _ = pings.tick() => put(&mut buffer, PING, &nonce),
        }
        // Whatever else is ready goes with it in one write.
        while buffer.len() < 1 << 20 {
            match parcels.try_recv() {
                Ok(parcel) => put_parcel(&mut buffer, &parcel),
                Err(_) => break,
            }
        }
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        buffer.clear();
    }
}

/// Ends once no ping has been answered for [`SILENCE`].
async fn watch_silence(mut last_answer: tokio::sync::watch::Receiver<Instant>) -> io::Result<()> {
    loop {
        let last = *last_answer.borrow_and_update();
        tokio::time::sleep_until(last + SILENCE).await;
        if *last_answer.borrow() == last {
            let why = format!("no answer to a ping for {} ms", SILENCE.as_millis());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

async fn deliver(shared: &Shared, event: LinkEvent) -> io::Result<()> {
    shared
        .events
        .send(event)
        .await
        .map_err(|_| io::Error::other("the daemon is stopping"))
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Bytes)> {
    let mut head = [0; 5];
    reader.read_exact(&mut head).await?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_BODY {
        return Err(invalid(format!("a frame of {length} bytes")));
    }
    // Grows as the bytes arrive, so that a length alone takes no memory.
    let mut body = BytesMut::with_capacity(length.min(64 << 10));
    let mut left = reader.take(length as u64);
    while left.read_buf(&mut body).await? > 0 {
        if body.len() == length {
            break;
        }
        body.reserve((length - body.len()).min(1 << 20));
    }
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((head[0], body.freeze()))
}

fn put_parcel(buffer: &mut BytesMut, parcel: &Parcel) {
    match parcel {
        Parcel::Consensus(body) => put(buffer, CONSENSUS, body),
        Parcel::Message(body) => put(buffer, MESSAGE, body),
    }
}

fn put(buffer: &mut BytesMut, kind: u8, body: &[u8]) {
    buffer.put_u8(kind);
    buffer.put_u32_le(u32::try_from(body.len()).expect("bodies are bounded"));
    buffer.extend_from_slice(body);
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
