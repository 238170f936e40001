//! A primary or a replica: a process that stores what it is sent. A lane is a connection and a
//! thread.
//!
//! A request on the wire: offset (8), CRC32C of the payload or 0 (4), zero (4), payload (4096).
//! Its answer: the offset (8).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use lockstep_floor::cpu;

use crate::files::{Aligned, BLOCK, open_durable};
use crate::tls::{Socket, Tls};

/// Bytes before the payload.
pub const HEADER: usize = 16;
/// A request starts here in a lane's buffer, so that its payload is aligned for O_DIRECT.
pub const START: usize = BLOCK - HEADER;
/// Bytes of a lane's buffer.
pub const BUFFER: usize = 2 * BLOCK;

/// See the options of `replicate`.
#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    file: PathBuf,
    #[arg(long)]
    lanes: usize,
    #[arg(long, value_delimiter = ',')]
    replicas: Vec<SocketAddr>,
    /// The address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    #[arg(long)]
    pin: Option<usize>,
    /// Listens here instead of on TCP.
    #[arg(long)]
    unix: Option<PathBuf>,
    /// Links to replicas, and a replica's own, are encrypted; where the certificate lies.
    #[arg(long)]
    tls: Option<PathBuf>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Says its port on standard output, serves its lanes, ends with them or with its parent.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(cpu) = options.pin {
        cpu::pin(cpu).with_context(|| format!("cannot run on CPU {cpu}"))?;
    }
    // Whoever started us holds our standard input; when it closes, so do we.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let tls = options.tls.as_deref().map(Tls::read).transpose()?;
    let listener = Listener::bind(options)?;
    std::thread::scope(|scope| {
        let mut lanes = Vec::new();
        for _ in 0..options.lanes {
            let client = listener.accept(tls.as_ref())?;
            let replicas: Vec<Socket> = options
                .replicas
                .iter()
                .map(|address| match &tls {
                    Some(tls) => tls.dialled(dial(*address)?),
                    None => Ok(Socket::Tcp(dial(*address)?)),
                })
                .collect::<Result<_, _>>()?;
            lanes.push(scope.spawn(move || serve(options, client, replicas)));
        }
        for lane in lanes {
            lane.join().expect("a lane does not panic")?;
        }
        Ok(())
    })
}

/// Connects to a node.
pub fn dial(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Listener {
    /// Says on standard output that it listens, and at which port.
    fn bind(options: &Options) -> anyhow::Result<Self> {
        if let Some(path) = &options.unix {
            let listener = UnixListener::bind(path)?;
            println!("0");
            return Ok(Self::Unix(listener));
        }
        let listener = TcpListener::bind((options.listen, 0))?;
        println!("{}", listener.local_addr()?.port());
        Ok(Self::Tcp(listener))
    }

    fn accept(&self, tls: Option<&Tls>) -> anyhow::Result<Socket> {
        match self {
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept()?.0)),
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept()?;
                socket.set_nodelay(true)?;
                match tls {
                    Some(tls) => tls.accepted(socket),
                    None => Ok(Socket::Tcp(socket)),
                }
            }
        }
    }
}

fn serve(options: &Options, mut client: Socket, mut replicas: Vec<Socket>) -> anyhow::Result<()> {
    let file = open_durable(&options.file)?;
    let mut buffer = Aligned::new(BUFFER, 0);
    while receive(&mut client, &mut buffer[START..])? {
        let offset = offset_of(&buffer[START..]);
        let crc = u32::from_le_bytes(buffer[START + 8..START + 12].try_into()?);
        ensure!(
            crc == 0 || crc == crc32c::crc32c(&buffer[BLOCK..]),
            "a payload was damaged"
        );
        for replica in &mut replicas {
            replica.write_all(&buffer[START..])?;
        }
        file.write_all_at(&buffer[BLOCK..], offset)?;
        for replica in &mut replicas {
            let mut answer = [0; 8];
            replica.read_exact(&mut answer)?;
            ensure!(
                u64::from_le_bytes(answer) == offset,
                "an answer to something else"
            );
        }
        client.write_all(&offset.to_le_bytes())?;
    }
    Ok(())
}

/// A whole request; `false` at the orderly end.
fn receive(from: &mut Socket, into: &mut [u8]) -> anyhow::Result<bool> {
    let first = from.read(into)?;
    if first == 0 {
        return Ok(false);
    }
    from.read_exact(&mut into[first..])?;
    Ok(true)
}

fn offset_of(request: &[u8]) -> u64 {
    u64::from_le_bytes(request[..8].try_into().expect("eight bytes"))
}
