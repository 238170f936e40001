//! A real database: PostgreSQL on ext4 on a volume's block device, beside the same on a file through a
//! loop device.

mod filesystem;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cluster::Cluster;
use crate::plan::{Measurement, Place, What};
use crate::run::{Options, Record};
use filesystem::{Loop, Mounted};
use server::Server;

const VOLUME: &str = "database";
/// MiB of the volume and of the file.
const SIZE: u64 = 1024;
/// pgbench's: 15 MiB each, and 100,000 accounts.
const SCALE: u32 = 10;
/// Transactions begin with cold caches, and a second or two would show nothing else.
const LEAST: u64 = 5;

/// Why it cannot be measured here; none if it can.
pub fn unavailable() -> Option<String> {
    let mut missing = Vec::new();
    if !netlab::is_root() {
        missing.push("root".to_owned());
    }
    if server::programs().is_none() {
        missing.push("PostgreSQL with pgbench (Debian: postgresql)".into());
    } else if !server::has_user() {
        missing.push("a user 'postgres'".into());
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(path).exists() {
            missing.push(path.into());
        }
    }
    for (tool, package) in [
        ("mkfs.ext4", "e2fsprogs"),
        ("losetup", "mount"),
        ("runuser", "util-linux"),
        ("fallocate", "util-linux"),
    ] {
        if !is_on_path(tool) {
            missing.push(format!("{tool} (Debian: {package})"));
        }
    }
    (!missing.is_empty()).then(|| {
        format!(
            "no database is measured; it lacks {}",
            missing.join(" and ")
        )
    })
}

fn is_on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).exists())
}

/// Measures what of it is in the plan, in turn.
pub fn measure(
    options: &Options,
    plan: &[&Measurement],
    directory: &Path,
    record: &mut Record,
) -> anyhow::Result<()> {
    let places: Vec<(&str, Place)> = plan
        .iter()
        .filter_map(|it| match it.what {
            What::Postgres(place) => Some((it.name.as_str(), place)),
            _ => None,
        })
        .collect();
    eprintln!("making databases");
    let aside = Aside::new()?;
    let cluster = match places.iter().any(|(_, place)| *place == Place::Volume) {
        true => Some(Cluster::start(
            options.program()?,
            &directory.join("cluster"),
            &options.pool,
        )?),
        false => None,
    };
    std::fs::create_dir_all(directory)?;
    let mut stands = BTreeMap::new();
    for (name, place) in &places {
        let stand = Stand::new(*place, cluster.as_ref(), directory, &aside.0)
            .with_context(|| format!("preparing {name}"))?;
        stands.insert(*place, stand);
    }
    for repeat in 1..=options.repeats() {
        for (name, place) in &places {
            if let Some(cluster) = &cluster {
                cluster.settle()?;
            }
            let seconds = options.seconds().max(LEAST);
            let figures = stands[place].server.measure(seconds);
            let figures = figures.with_context(|| format!("measuring {name}"))?;
            record.add(repeat, name, None, figures)?;
        }
    }
    Ok(())
}

/// A server and what it stands on; put away from the top down.
struct Stand {
    server: Server,
    _mounted: Mounted,
    _device: Option<Loop>,
}

impl Stand {
    fn new(
        place: Place,
        cluster: Option<&Cluster>,
        directory: &Path,
        aside: &Path,
    ) -> anyhow::Result<Self> {
        let aside = aside.join(match place {
            Place::File => "file",
            Place::Volume => "volume",
        });
        let (device, held) = match place {
            Place::File => {
                let file = directory.join("database.img");
                let held = Loop::over(&file, SIZE)?;
                (held.device.clone(), Some(held))
            }
            Place::Volume => {
                let cluster = cluster.context("there is no cluster")?;
                let size = format!("{SIZE}MiB");
                (cluster.attach_device(VOLUME, &size, "a=2,b=1")?, None)
            }
        };
        std::fs::create_dir_all(&aside)?;
        let mounted = Mounted::ext4(&device, &aside.join("mounted"))?;
        let server = Server::start(mounted.path(), &aside.join("server"), SCALE)?;
        Ok(Self {
            server,
            _mounted: mounted,
            _device: held,
        })
    }
}

/// A directory that the database's user can reach, which the one for measurements may not be; removed when
/// dropped.
struct Aside(PathBuf);

impl Aside {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let name = format!("lockstep-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let aside = Self(path);
        std::fs::set_permissions(&aside.0, std::fs::Permissions::from_mode(0o755))?;
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Never through a mount that could not be taken away: one directory after the other would go.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.contains(&*self.0.to_string_lossy()) {
            eprintln!("{} is left: something is mounted in it", self.0.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}
