//! Disks that fail on request under a fleet's nodes, and nodes made once more from an image of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use faultfs::{FaultFs, Image};

use super::{Fleet, Member, addresses};
use crate::directory;

impl Fleet {
    /// Puts a node's pool and raft log on a disk that fails on request.
    ///
    /// # Panics
    /// If it cannot be mounted: that takes root.
    pub fn insert_disk(&mut self, name: &str, image: Image) {
        let (mount, home) = (self.mount_point(name), self.home(name));
        for place in [&mount, &home] {
            std::fs::create_dir_all(place).expect("a directory");
        }
        let disk = FaultFs::mount(&mount, image).expect("root can mount");
        let (raft, link) = (mount.join("raft"), home.join("raft"));
        if !raft.exists() {
            std::fs::create_dir(&raft).expect("made");
        }
        if !link.is_symlink() {
            std::os::unix::fs::symlink(raft, link).expect("linked");
        }
        self.disks.insert(name.to_owned(), disk);
    }

    /// A node once more, alone, on other ports, in the state that its directory and an image of its
    /// disk give it. Nothing of this fleet is touched.
    ///
    /// # Panics
    /// If the node's disk is not one that fails on request.
    pub fn twin(&self, name: &str, image: Image) -> Self {
        assert!(self.disks.contains_key(name), "{name} has a plain disk");
        let old = &self.members[name];
        let [control, data, metrics] = addresses(None);
        let texts = [
            (old.control.clone(), control.clone()),
            (old.data.clone(), data.clone()),
            (old.metrics.clone(), metrics.clone()),
        ];
        let member = Member {
            site: old.site.clone(),
            is_witness: old.is_witness,
            node: None,
            control,
            data,
            metrics,
            daemon: None,
        };
        let mut twin = Self {
            members: BTreeMap::from([(name.to_owned(), member)]),
            disks: BTreeMap::new(),
            lab: None,
            directory: directory(),
            setup: self.setup.clone(),
        };
        let mut texts = texts.to_vec();
        let mount = |fleet: &Self| fleet.mount_point(name).display().to_string();
        texts.push((mount(self), mount(&twin)));
        copy(&self.home(name), &twin.home(name), &texts);
        twin.insert_disk(name, image);
        twin
    }

    /// The disk of a node.
    pub fn disk(&self, name: &str) -> &FaultFs {
        &self.disks[name]
    }

    pub(super) fn mount_point(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.disk"))
    }
}

/// Copies the plain files of a data directory, with other words in those that name addresses and
/// paths.
fn copy(from: &Path, to: &Path, texts: &[(String, String)]) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            copy(&path, &target, texts);
        } else if kind.is_file() {
            std::fs::copy(&path, &target).expect("copied");
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                let text = std::fs::read_to_string(&path).expect("text");
                let replace = |text: String, (old, new): &(String, String)| text.replace(old, new);
                let text = texts.iter().fold(text, replace);
                std::fs::write(&target, text).expect("written");
            }
        }
    }
}
