//! Serves a volume in memory over a Unix socket:
//! `cargo run -p lockstep-nbd --example memory -- /tmp/memory.sock 1073741824`, then
//! `nbdinfo nbd+unix:///memory?socket=/tmp/memory.sock`.

mod server;

use anyhow::Context;
use std::os::unix::net::UnixListener;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: memory SOCKET [BYTES]")?;
    let size = arguments.next().map_or(Ok(1 << 30), |text| text.parse())?;
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {path}"))?;
    let volume = server::Volume::new("memory", size);
    loop {
        let (socket, _) = listener.accept()?;
        let volume = volume.clone();
        std::thread::spawn(move || match server::serve(socket, &volume) {
            Ok(reason) => eprintln!("{reason}"),
            Err(error) => eprintln!("connection lost: {error}"),
        });
    }
}
