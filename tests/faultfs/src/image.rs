//! What stands on the simulated disk: directories and sparse files in memory. Copies share their
//! pages, so that an image a cut is cheap.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// The root directory.
pub(crate) const ROOT: u64 = 1;

type Page = Arc<[u8; PAGE]>;

/// A file system's content.
#[derive(Clone, Debug)]
pub struct Image {
    pub(crate) inodes: BTreeMap<u64, Inode>,
    next: u64,
}

/// A directory or a file.
#[derive(Clone, Debug)]
pub(crate) enum Inode {
    Directory(BTreeMap<String, u64>),
    File(Content),
}

/// A sparse file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub length: u64,
    pages: BTreeMap<u64, Page>,
}

/// Something that changes an image, as a disk sees it.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `durable`: the write was asked to be so when it returns (RWF_DSYNC).
    Write {
        file: u64,
        offset: u64,
        bytes: bytes::Bytes,
        durable: bool,
    },
    Resize {
        file: u64,
        length: u64,
    },
    Create {
        parent: u64,
        name: String,
        inode: u64,
        directory: bool,
    },
    Remove {
        parent: u64,
        name: String,
    },
    Rename {
        from: (u64, String),
        to: (u64, String),
    },
    /// Everything done to this file, or to the names in this directory, is durable.
    Sync {
        inode: u64,
    },
}

impl Default for Image {
    fn default() -> Self {
        let root = (ROOT, Inode::Directory(BTreeMap::new()));
        Self {
            inodes: BTreeMap::from([root]),
            next: ROOT + 1,
        }
    }
}

impl Image {
    /// A number for a new inode; never given twice.
    pub(crate) fn mint(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The entries of a directory.
    pub(crate) fn directory(&self, inode: u64) -> Option<&BTreeMap<String, u64>> {
        match self.inodes.get(&inode)? {
            Inode::Directory(entries) => Some(entries),
            Inode::File(_) => None,
        }
    }

    /// The content of a file.
    pub(crate) fn file(&self, inode: u64) -> Option<&Content> {
        match self.inodes.get(&inode)? {
            Inode::File(content) => Some(content),
            Inode::Directory(_) => None,
        }
    }

    fn file_mut(&mut self, inode: u64) -> Option<&mut Content> {
        match self.inodes.get_mut(&inode)? {
            Inode::File(content) => Some(content),
            Inode::Directory(_) => None,
        }
    }

    fn directory_mut(&mut self, inode: u64) -> Option<&mut BTreeMap<String, u64>> {
        match self.inodes.get_mut(&inode)? {
            Inode::Directory(entries) => Some(entries),
            Inode::File(_) => None,
        }
    }

    /// The inode at a path from the root, without a leading slash.
    pub(crate) fn find(&self, path: &str) -> Option<u64> {
        path.split('/')
            .try_fold(ROOT, |at, name| self.directory(at)?.get(name).copied())
    }

    /// The path of an inode; none for one without a name.
    pub(crate) fn path(&self, inode: u64) -> Option<String> {
        fn below(image: &Image, at: u64, wanted: u64, path: &str) -> Option<String> {
            image.directory(at)?.iter().find_map(|(name, inode)| {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}/{name}")
                };
                if *inode == wanted {
                    return Some(path);
                }
                below(image, *inode, wanted, &path)
            })
        }
        below(self, ROOT, inode, "")
    }

    /// Pages that have been written.
    pub(crate) fn pages(&self) -> u64 {
        let files = self.inodes.values().filter_map(|inode| match inode {
            Inode::File(content) => Some(content.pages.len() as u64),
            Inode::Directory(_) => None,
        });
        files.sum()
    }

    /// Does it. What it needs and is not there makes it nothing: a dropped creation takes the
    /// writes to its file with it.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write {
                file,
                offset,
                bytes,
                ..
            } => {
                if let Some(content) = self.file_mut(*file) {
                    content.write(*offset, bytes);
                }
            }
            Change::Resize { file, length } => {
                if let Some(content) = self.file_mut(*file) {
                    content.resize(*length);
                }
            }
            Change::Create {
                parent,
                name,
                inode,
                directory,
            } => {
                let made = match directory {
                    true => Inode::Directory(BTreeMap::new()),
                    false => Inode::File(Content::default()),
                };
                if let Some(entries) = self.directory_mut(*parent) {
                    entries.insert(name.clone(), *inode);
                    self.inodes.insert(*inode, made);
                    self.next = self.next.max(inode + 1);
                }
            }
            // The inode stays: it may be open.
            Change::Remove { parent, name } => {
                if let Some(entries) = self.directory_mut(*parent) {
                    entries.remove(name);
                }
            }
            Change::Rename { from, to } => {
                let moved = self
                    .directory_mut(from.0)
                    .and_then(|entries| entries.remove(&from.1));
                if let (Some(inode), Some(entries)) = (moved, self.directory_mut(to.0)) {
                    entries.insert(to.1.clone(), inode);
                }
            }
            Change::Sync { .. } => {}
        }
    }
}

impl Content {
    /// Up to `size` bytes from `offset`; fewer at the end.
    pub fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let size = size.min(self.length.saturating_sub(offset) as usize);
        let mut bytes = vec![0; size];
        for (page, at, within, length) in pieces(offset, size) {
            if let Some(page) = self.pages.get(&page) {
                bytes[at..at + length].copy_from_slice(&page[within..within + length]);
            }
        }
        bytes
    }

    /// How many pages of a range have never been written.
    pub fn missing(&self, offset: u64, size: usize) -> u64 {
        let pieces = pieces(offset, size);
        pieces
            .filter(|(page, ..)| !self.pages.contains_key(page))
            .count() as u64
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, at, within, length) in pieces(offset, bytes.len()) {
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE]));
            let page = Arc::make_mut(page);
            page[within..within + length].copy_from_slice(&bytes[at..at + length]);
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn resize(&mut self, length: u64) {
        if length < self.length {
            let whole = length.div_ceil(PAGE as u64);
            self.pages.split_off(&whole);
            let rest = (length % PAGE as u64) as usize;
            if rest > 0
                && let Some(page) = self.pages.get_mut(&(length / PAGE as u64))
            {
                Arc::make_mut(page)[rest..].fill(0);
            }
        }
        self.length = length;
    }
}

/// The pages of a range: number, offset in the range, offset in the page, length.
fn pieces(offset: u64, size: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == size {
            return None;
        }
        let absolute = offset + at as u64;
        let within = (absolute % PAGE as u64) as usize;
        let length = (PAGE - within).min(size - at);
        let piece = (absolute / PAGE as u64, at, within, length);
        at += length;
        Some(piece)
    })
}
