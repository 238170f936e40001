//! What is in the machine: a small shell, programs of this host with the libraries that they need, modules of the
//! kernel, and a script that is run. Its end is the machine's end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::archive::Archive;
use crate::{Kernel, find, output};

/// What the first process of the machine says last, with the script's exit code behind it.
pub(crate) const ENDED: &str = "LOCKSTEP-VM-ENDED";

/// The first process, with the modules to load in place of `MODULES`.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
ulimit -l unlimited
for module in MODULES; do
    insmod /modules/$module.ko || echo "module $module cannot be loaded"
done
if [ -b /dev/vda ]; then mkdir -p /var/tmp && mount /dev/vda /var/tmp; fi
cd /root
/bin/sh /root/script </dev/null
echo "ENDED $?"
sync
poweroff -f
"#;

/// A machine to be booted.
#[derive(Debug)]
pub struct Guest {
    kernel: Kernel,
    programs: Vec<(PathBuf, String)>,
    modules: Vec<String>,
    script: String,
    disk: u64,
    memory: u32,
}

impl Guest {
    /// Runs `script`, of busybox's shell.
    pub fn new(kernel: Kernel, script: impl Into<String>) -> Self {
        Self {
            kernel,
            programs: Vec::new(),
            modules: Vec::new(),
            script: script.into(),
            disk: 0,
            memory: 1024,
        }
    }

    /// With programs of this host, by name, under the same name.
    ///
    /// # Errors
    /// One is not installed.
    pub fn with_tools(mut self, tools: &[&str]) -> anyhow::Result<Self> {
        for tool in tools {
            let path = find(tool).with_context(|| format!("{tool} is not installed"))?;
            self.programs.push((path, format!("bin/{tool}")));
        }
        Ok(self)
    }

    /// With a program from anywhere, as `/bin/NAME`.
    #[must_use]
    pub fn with_program(mut self, path: impl Into<PathBuf>, name: &str) -> Self {
        self.programs.push((path.into(), format!("bin/{name}")));
        self
    }

    /// With these modules loaded, and what they depend on.
    #[must_use]
    pub fn with_modules(mut self, modules: &[&str]) -> Self {
        self.modules
            .extend(modules.iter().map(|it| (*it).to_owned()));
        self
    }

    /// With a disk of so many bytes and an empty ext4 on it, mounted as `/var/tmp`.
    #[must_use]
    pub fn with_disk(mut self, bytes: u64) -> Self {
        self.disk = bytes;
        // The checksum is not named among what ext4 depends on.
        self.with_modules(&["crc32c_generic", "virtio_blk", "ext4"])
    }

    /// With so many MiB of memory.
    #[must_use]
    pub fn with_memory(mut self, megabytes: u32) -> Self {
        self.memory = megabytes;
        self
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(crate) fn memory(&self) -> u32 {
        self.memory
    }

    /// The disk's image, made in `work`; none if there is none.
    pub(crate) fn disk(&self, work: &Path) -> anyhow::Result<Option<PathBuf>> {
        if self.disk == 0 {
            return Ok(None);
        }
        let path = work.join("disk");
        fs::File::create(&path)?.set_len(self.disk)?;
        output(Command::new("mkfs.ext4").arg("-q").arg(&path))?;
        Ok(Some(path))
    }

    /// The initramfs.
    pub(crate) fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let mut archive = Archive::new();
        for directory in [
            "proc", "sys", "dev", "tmp", "run", "root", "etc", "sbin", "var/tmp", "mnt",
        ] {
            archive.directory(directory);
        }
        archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
        archive.file("etc/group", b"root:x:0:\ndisk:x:6:\n");
        archive.file("etc/hosts", b"127.0.0.1 localhost\n");
        self.add_programs(&mut archive)?;
        let names: Vec<&str> = self.modules.iter().map(String::as_str).collect();
        let modules = self.kernel.modules(&names)?;
        let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        let init = INIT
            .replace("MODULES", &order.join(" "))
            .replace("ENDED", ENDED);
        archive.file("init", init.as_bytes());
        archive.file("root/script", self.script.as_bytes());
        for (name, bytes) in &modules {
            archive.file(&format!("modules/{name}.ko"), bytes);
        }
        Ok(archive.finish())
    }

    fn add_programs(&self, archive: &mut Archive) -> anyhow::Result<()> {
        let busybox = find("busybox").context("busybox is not installed")?;
        let applets = output(Command::new(&busybox).arg("--list"))?;
        let ours: BTreeSet<&str> = self
            .programs
            .iter()
            .filter_map(|(_, name)| name.strip_prefix("bin/"))
            .collect();
        for applet in String::from_utf8_lossy(&applets).lines() {
            if applet != "busybox" && !ours.contains(applet) {
                archive.link(&format!("bin/{applet}"), "busybox");
            }
        }
        let mut libraries = libraries_of(&busybox)?;
        archive.file("bin/busybox", &fs::read(&busybox)?);
        for (path, name) in &self.programs {
            archive.file(name, &without_symbols(path)?);
            libraries.append(&mut libraries_of(path)?);
        }
        for library in libraries {
            let name = library.strip_prefix("/").unwrap_or(&library);
            archive.file(&name.to_string_lossy(), &fs::read(&library)?);
        }
        Ok(())
    }
}

/// A program as it runs: what debuggers want of it takes most of its room.
fn without_symbols(path: &Path) -> anyhow::Result<Vec<u8>> {
    let stripped = tempfile::NamedTempFile::new()?;
    let done = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(stripped.path())
        .arg(path)
        .output();
    // Scripts, and hosts without binutils: as it is.
    let read = match done {
        Ok(output) if output.status.success() => stripped.path(),
        _ => path,
    };
    fs::read(read).with_context(|| format!("{} cannot be read", path.display()))
}

/// The libraries that the loader takes for a program, by path; none for one that is linked statically.
fn libraries_of(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}
