//! Kernels of Debian 13: their package, fetched once by apt with a list of sources and a state of its own, so that
//! nothing of this host's apt changes, and unpacked.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::{cache, output};

/// Which kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// That of the distribution, 6.12.
    Stable,
    /// The newest that is made for it.
    Newest,
}

impl Release {
    fn suite(self) -> &'static str {
        match self {
            Self::Stable => "trixie",
            Self::Newest => "trixie-backports",
        }
    }
}

/// The package that stands for the newest one.
const META: &str = "linux-image-amd64";

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
    version: String,
}

impl Kernel {
    /// The one in the cache, or else the one that Debian has now.
    ///
    /// # Errors
    /// Debian's archive cannot be reached, or gave what is no kernel.
    pub fn fetch(release: Release) -> anyhow::Result<Self> {
        let suite = release.suite();
        let root = cache().join(suite);
        if !root.exists() {
            fs::create_dir_all(cache())?;
            let work = tempfile::tempdir_in(cache())?;
            let packages = download(work.path(), suite)
                .with_context(|| format!("{META} of Debian's {suite} cannot be fetched"))?;
            let unpacked = work.path().join("unpacked");
            for package in packages {
                output(Command::new("dpkg").arg("-x").arg(package).arg(&unpacked))?;
            }
            // A package that is laid out otherwise is not kept.
            anyhow::ensure!(
                unpacked.join("usr/lib/modules").exists(),
                "{META} of Debian's {suite} has no modules where they are looked for"
            );
            // Another may have been quicker: theirs is as good.
            if fs::rename(&unpacked, &root).is_err() && !root.exists() {
                anyhow::bail!("{} cannot be put in place", root.display());
            }
        }
        let modules = fs::read_dir(root.join("usr/lib/modules"))?
            .next()
            .context("a kernel's package has modules")??;
        let version = modules.file_name().to_string_lossy().into_owned();
        Ok(Self { root, version })
    }

    /// Its version, as `uname -r` says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What QEMU boots: newer packages have it beside the modules.
    pub fn image(&self) -> PathBuf {
        let beside = self.root.join("usr/lib/modules").join(&self.version);
        let beside = beside.join("vmlinuz");
        if beside.exists() {
            return beside;
        }
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// Modules and what they depend on, unpacked, in an order in which they can be loaded.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn modules(&self, names: &[&str]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let base = self.root.join("usr/lib/modules").join(&self.version);
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for name in names {
            load(&base, name, &mut seen, &mut order)?;
        }
        Ok(order)
    }
}

/// The packages' files, in `work`: the kernel's, and those of its parts, where Debian has them apart.
fn download(work: &Path, suite: &str) -> anyhow::Result<Vec<PathBuf>> {
    for directory in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(work.join(directory))?;
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source =
        format!("deb [arch=amd64 signed-by={keys}] http://deb.debian.org/debian {suite} main\n");
    fs::write(work.join("sources.list"), source)?;
    fs::write(work.join("status"), "")?;
    let apt = |tool: &str| {
        let mut command = Command::new("timeout");
        command.args(["600", tool]).current_dir(work);
        let place = work.display();
        for option in [
            format!("Dir::Etc::sourcelist={place}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={place}/lists"),
            format!("Dir::State::status={place}/status"),
            format!("Dir::Cache={place}"),
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    };
    output(apt("apt-get").args(["-qq", "update"]))?;
    let depends = |package: &str| -> anyhow::Result<Vec<String>> {
        let said = output(apt("apt-cache").args(["depends", package]))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let names = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    };
    let image = depends(META)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .context("the kernel's package is not named")?;
    let mut packages = depends(&image)?;
    packages.retain(|name| name.starts_with("linux-modules-") || name.starts_with("linux-binary-"));
    packages.push(image);
    output(apt("apt-get").args(["-qq", "download"]).args(packages))?;
    let downloaded: Vec<_> = fs::read_dir(work)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "deb"))
        .collect();
    anyhow::ensure!(!downloaded.is_empty(), "apt-get downloaded nothing");
    Ok(downloaded)
}

fn load(
    base: &Path,
    name: &str,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<(String, Vec<u8>)>,
) -> anyhow::Result<()> {
    // A module is named with either in dependencies.
    let name = name.replace('_', "-");
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let Some(path) = search(base, &name)? else {
        // Not every dependency is a module: some are built in. Newer packages have no list of those; then the kernel
        // itself complains of what is missing.
        let Ok(builtin) = fs::read_to_string(base.join("modules.builtin")) else {
            return Ok(());
        };
        let here = builtin
            .lines()
            .any(|line| module_name(Path::new(line)) == Some(name.clone()));
        anyhow::ensure!(here, "this kernel has no module '{name}'");
        return Ok(());
    };
    let bytes = output(Command::new("xz").arg("-dc").arg(&path))?;
    for needed in depends_of(&bytes) {
        load(base, &needed, seen, order)?;
    }
    order.push((name, bytes));
    Ok(())
}

fn search(directory: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        let found = if entry.file_type()?.is_dir() {
            search(&path, name)?
        } else {
            (module_name(&path).as_deref() == Some(name)).then_some(path)
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What the module in a file is called, with `-`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name);
    Some(name.strip_suffix(".ko")?.replace('_', "-"))
}

/// What a module says that it needs, in its section `.modinfo`.
fn depends_of(bytes: &[u8]) -> Vec<String> {
    let line = bytes
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(b"depends="))
        .unwrap_or_default();
    let names = String::from_utf8_lossy(line).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_needs_are_read_from_it() {
        let bytes = b"\x7fELF\0license=GPL\0depends=mbcache,jbd2\0name=ext4\0";
        assert_eq!(depends_of(bytes), ["mbcache", "jbd2"]);
        assert!(depends_of(b"depends=\0name=x\0").is_empty());
        assert!(depends_of(b"").is_empty());
        let path = Path::new("kernel/drivers/block/ublk_drv.ko.xz");
        assert_eq!(module_name(path).as_deref(), Some("ublk-drv"));
    }
}
