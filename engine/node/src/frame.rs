//! Frames on tokio's streams: a length (u32, little-endian), then so many bytes. For joining and
//! the control plane's own links; replication has its own format.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one frame and flushes it.
///
/// # Errors
/// The stream's.
///
/// # Panics
/// If the frame is 4 GiB or longer.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).expect("frames are far below 4 GiB");
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Reads one frame of at most `max` bytes.
///
/// # Errors
/// The stream's; `UnexpectedEof` when it ends between frames; `InvalidData` for a longer frame.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > max {
        let why = format!("a frame of {length} bytes where at most {max} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Writes a value as one frame of JSON.
///
/// # Errors
/// The stream's.
pub async fn write_json(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> io::Result<()> {
    write(stream, &serde_json::to_vec(value)?).await
}

/// Reads a value from one frame of JSON.
///
/// # Errors
/// As [`read`]; `InvalidData` for anything but the value.
pub async fn read_json<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> io::Result<T> {
    let body = read(stream, max).await?;
    serde_json::from_slice(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_are_bounded() {
        let (mut near, mut far) = tokio::io::duplex(64);
        write(&mut near, b"hello").await.expect("writes");
        assert_eq!(read(&mut far, 5).await.expect("reads"), b"hello");
        write(&mut near, b"hello!").await.expect("writes");
        assert_eq!(
            read(&mut far, 5).await.expect_err("too long").kind(),
            io::ErrorKind::InvalidData
        );
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.expect("ends");
        assert_eq!(
            read(&mut far, 5).await.expect_err("ended").kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
