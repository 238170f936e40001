//! What is mounted, from /proc/self/mountinfo (proc(5)).

use std::path::PathBuf;

use super::HostError;

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// What of the file system is shown there: "/" for all of it.
    pub root: PathBuf,
    /// Where.
    pub at: PathBuf,
    /// Whether this mount takes no writes.
    pub read_only: bool,
    /// ext4, xfs, devtmpfs …
    pub filesystem: String,
    /// The device, if it has one.
    pub source: PathBuf,
}

/// Everything that is mounted in this process's namespace.
///
/// # Errors
/// The file cannot be read.
pub fn read() -> Result<Vec<Mount>, HostError> {
    let text = std::fs::read_to_string("/proc/self/mountinfo");
    let text = text.map_err(|error| HostError::failed("read what is mounted", error))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `36 35 98:0 /root /at rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=continue`: between the mount
/// options and the dash are as many fields as there are.
fn parse(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let mut filesystem = filesystem.split(' ');
    let id = mount.next()?.parse().ok()?;
    let root = unescape(mount.nth(2)?);
    let at = unescape(mount.next()?);
    let read_only = mount.next()?.split(',').any(|option| option == "ro");
    Some(Mount {
        id,
        root: root.into(),
        at: at.into(),
        read_only,
        filesystem: filesystem.next()?.to_owned(),
        source: unescape(filesystem.next()?).into(),
    })
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, later)) = rest.split_first() {
        let digits = later
            .get(..3)
            .filter(|it| it.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(digits) if *byte == b'\\' => {
                let value = digits
                    .iter()
                    .fold(0u32, |sum, b| sum * 8 + u32::from(b - b'0'));
                out.push(value as u8);
                rest = &later[3..];
            }
            _ => {
                out.push(*byte);
                rest = later;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = r"645 28 7:3 /sub /var/lib/a\040b ro,noatime shared:1 master:2 - xfs /dev/loop3 rw,nouuid";
        let mount = parse(line).expect("a mount");
        assert_eq!((mount.id, mount.read_only), (645, true));
        assert_eq!(mount.root, PathBuf::from("/sub"));
        assert_eq!(mount.at, PathBuf::from("/var/lib/a b"));
        assert_eq!(mount.source, PathBuf::from("/dev/loop3"));
        assert_eq!(mount.filesystem, "xfs");
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn this_process_has_mounts() {
        let all = read().expect("readable");
        assert!(
            all.iter()
                .any(|mount| mount.at == std::path::Path::new("/proc"))
        );
    }
}
