//! An initramfs: a cpio archive of the kind `newc`, which every kernel unpacks.

use std::collections::BTreeSet;

/// An archive being written.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    last: u32,
}

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Archive {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            directories: BTreeSet::new(),
            last: 0,
        }
    }

    /// A directory, with those above it; `path` without a slash in front.
    pub(crate) fn directory(&mut self, path: &str) {
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.above(path);
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, &[]);
    }

    /// A file that can be run.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.above(path);
        self.entry(path, FILE, content);
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.above(path);
        self.entry(path, LINK, target.as_bytes());
    }

    /// Its bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.last += 1;
        let size = u32::try_from(content.len()).expect("a program of less than 4 GiB");
        let name = path.len() as u32 + 1;
        // inode, mode, uid, gid, links, mtime, size, device, device of a node, name's length, checksum
        let fields = [self.last, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_that_cpio_writes() {
        let mut archive = Archive::new();
        archive.file("a/b", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        let file = "070701\
            00000002\
            000081ed\
            00000000\
            00000000\
            00000001\
            00000000\
            00000005\
            00000000000000000000000000000000\
            00000004\
            00000000\
            a/b\0\0\0hello\0\0\0";
        assert!(text.contains(file), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
        assert_eq!(bytes.len() % 4, 0);
    }
}
