//! Attaches a block device over a volume in memory, until its input ends:
//! `cargo run -p lockstep-fuse --example memory_file -- 1073741824`, as root.

use anyhow::Context;
use lockstep_frontend::{Answer, Done, IoError, Op, ReadPart, Request};
use lockstep_fuse::{
    Completer, Device, Driver, Handler, Limits, LoopDevice, Mount, Session, Volume,
};
use std::io::Read;

/// A volume in memory, answered on the driver's thread.
struct Memory(Vec<u8>);

impl Handler for Memory {
    fn submit(&mut self, request: Request, _: &Completer) -> Option<Answer> {
        let start = request.offset as usize;
        let bytes = self.0.get_mut(start..start + request.length as usize);
        Some(match (request.op, bytes) {
            (Op::Flush, _) => Ok(Done::Plain),
            (Op::Read, Some(bytes)) => {
                let part = ReadPart::Data(bytes.to_vec().into());
                Ok(Done::Read([part].into_iter().collect()))
            }
            (Op::Write, Some(bytes)) => {
                request.payload.copy_to(bytes);
                Ok(Done::Plain)
            }
            (Op::Trim | Op::WriteZeroes, Some(bytes)) => {
                bytes.fill(0);
                Ok(Done::Plain)
            }
            _ => Err(IoError::Io),
        })
    }
}

fn main() -> anyhow::Result<()> {
    let size = std::env::args()
        .nth(1)
        .map_or(Ok(1 << 30), |text| text.parse())?;
    let volume = Volume {
        name: "memory".to_owned(),
        size,
        read_only: false,
    };
    let directory = std::env::temp_dir().join(format!("lockstep-memory-{}", std::process::id()));
    std::fs::create_dir(&directory).context("cannot make the mount's directory")?;
    let device = Device::open().context("cannot open /dev/fuse")?;
    let mount = Mount::new(&device, &directory)?;
    let session = Session::new(volume.clone(), Limits::default());
    let driver = Driver::spawn(device, session, Vec::new(), Memory(vec![0; size as usize]))?;
    let attached = mount
        .open_volume(&volume)
        .map_err(anyhow::Error::from)
        .and_then(|file| {
            let label = format!("lockstep:{}", volume.name);
            Ok(LoopDevice::attach(&file, &label, volume.read_only)?)
        });
    match attached {
        Ok(device) => {
            println!("{}", device.path().display());
            std::io::stdin().read_to_end(&mut Vec::new())?;
            device.detach()?;
            mount.unmount()?;
        }
        Err(error) => {
            eprintln!("{error:#}");
            mount.abort()?;
        }
    }
    eprintln!("{}", driver.join());
    std::fs::remove_dir(&directory)?;
    Ok(())
}
