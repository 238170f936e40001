//! LUKS2 above a volume's device: the key comes with each call, from the node-stage secret, and goes to cryptsetup by
//! its standard input; it is in no argument, no log and no error.
//!
//! A volume is formatted only if it is blank, as with a file system, and the same note ([`super::marker`]) tells a
//! formatting that was interrupted from other data. The note stays until the file system inside is made, too: what
//! lies inside an encrypted volume looks like nothing to anybody.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_types::VolumeId;
use rustix::fs::{MemfdFlags, memfd_create};

use super::HostError;
use super::command::{Said, run_with, succeed};
use super::filesystem::{Candidate, Content, clear_note, has_note, put_note};

/// Opening a device: deriving a key from another is slow on purpose.
const WORK: Duration = Duration::from_secs(120);
/// The name of the secret's entry with the key.
pub const KEY: &str = "encryptionKey";
/// Of the one with the key before, while it is rotated.
pub const PREVIOUS: &str = "encryptionKeyPrevious";
/// What blkid calls it.
const SIGNATURE: &str = "crypto_LUKS";
/// How a slot's key is derived: without the hundreds of megabytes that argon2 takes, which a driver's pod does not have.
/// Keys are to be random, not words.
const DERIVATION: [&str; 2] = ["--pbkdf", "pbkdf2"];
/// cryptsetup's exit code for a key that fits no slot.
const WRONG_KEY: i32 = 2;

/// The keys of one call. They cannot be printed.
pub struct Keys {
    key: Vec<u8>,
    previous: Option<Vec<u8>>,
}

impl Keys {
    /// From a secret's entries.
    ///
    /// # Errors
    /// There is no key, or an empty one; for people.
    pub fn of(secret: &std::collections::HashMap<String, String>) -> Result<Self, String> {
        let entry = |name: &str| secret.get(name).map(|text| text.as_bytes().to_vec());
        let key = entry(KEY).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| {
            format!(
                "the volume is encrypted, and the node-stage secret has no '{KEY}' (StorageClass parameters csi.storage.k8s.io/node-stage-secret-name and -namespace name it)"
            )
        })?;
        let previous = entry(PREVIOUS).filter(|key| !key.is_empty());
        Ok(Self { key, previous })
    }
}

/// The name of a volume's mapping.
fn name(volume: VolumeId) -> String {
    format!("lockstep-{volume}")
}

/// Where a volume is read and written in the clear; none if it is not open. As the kernel names it.
pub fn opened(volume: VolumeId) -> Option<PathBuf> {
    std::fs::canonicalize(Path::new("/dev/mapper").join(name(volume))).ok()
}

/// An open volume.
pub struct Opened {
    /// Where it is read and written in the clear.
    pub path: PathBuf,
    /// Nothing was ever written to it: it was formatted just now, or by a call that was broken off before there was a
    /// file system inside. [`done`] ends that.
    pub fresh: bool,
}

/// Opens a volume; formats it before if it is blank.
///
/// # Errors
/// Something else is on it; no key fits; a tool fails. Nothing is changed then.
pub async fn open(
    candidate: Candidate<'_>,
    found: Content,
    blank: bool,
    keys: &Keys,
) -> Result<Opened, HostError> {
    let volume = candidate.volume;
    let device = candidate.device.display().to_string();
    let unfinished = has_note(candidate)?;
    if unfinished {
        close(volume).await?;
    }
    if let Some(path) = opened(volume) {
        return Ok(Opened { path, fresh: false });
    }
    let fresh = unfinished || (found == Content::Unknown && blank);
    match found {
        _ if fresh => format(candidate, &device, keys).await?,
        Content::Other(what) if what == SIGNATURE => {}
        Content::FileSystem(found) => {
            return Err(HostError::Refused(format!(
                "volume {volume} holds {} in the clear, and encryption is asked for; it stays as it is",
                found.name()
            )));
        }
        Content::Other(what) => {
            return Err(HostError::Refused(format!(
                "volume {volume} holds {what}; it is not formatted"
            )));
        }
        Content::Unknown => {
            return Err(HostError::Refused(format!(
                "volume {volume} has been written to, and nobody recognises what is on it; it is not formatted. If it may be, discard all of it first (blkdiscard)"
            )));
        }
    }
    unlock(volume, &device, keys).await?;
    let path = opened(volume).ok_or_else(|| {
        HostError::failed("open an encrypted volume", "there is no mapping of it")
    })?;
    Ok(Opened { path, fresh })
}

/// The file system inside a fresh volume is made: from here on it is data.
///
/// # Errors
/// The system's.
pub fn done(candidate: Candidate<'_>) -> Result<(), HostError> {
    clear_note(candidate)
}

/// Closes a volume; nothing happens if it is not open.
///
/// # Errors
/// It is in use.
pub async fn close(volume: VolumeId) -> Result<(), HostError> {
    if opened(volume).is_none() {
        return Ok(());
    }
    succeed("cryptsetup", &["close", &name(volume)], WORK)
        .await
        .map(drop)
}

/// An open volume follows its device, which has grown.
///
/// # Errors
/// The tool's.
pub async fn grow(volume: VolumeId) -> Result<(), HostError> {
    succeed("cryptsetup", &["resize", &name(volume)], WORK)
        .await
        .map(drop)
}

async fn format(candidate: Candidate<'_>, device: &str, keys: &Keys) -> Result<(), HostError> {
    put_note(candidate)?;
    tracing::info!(volume = %candidate.volume, "formatting the volume as LUKS2");
    let mut arguments = vec![
        "luksFormat",
        "-q",
        "--type",
        "luks2",
        "--sector-size",
        "4096",
    ];
    arguments.extend(DERIVATION);
    arguments.extend(["--key-file", "-", device]);
    let said = run_with("cryptsetup", &arguments, &keys.key, WORK).await?;
    good(&said, "format an encrypted volume")
}

async fn unlock(volume: VolumeId, device: &str, keys: &Keys) -> Result<(), HostError> {
    // The same key twice is no rotation, and its removal would be the last key's.
    let previous = keys.previous.as_ref().filter(|it| **it != keys.key);
    if try_key(volume, device, &keys.key).await? {
        // A rotation that was broken off between its two steps has left the old key.
        return match previous {
            Some(previous) => retire(device, previous).await,
            None => Ok(()),
        };
    }
    if let Some(previous) = previous
        && try_key(volume, device, previous).await?
    {
        return rotate(volume, device, keys, previous).await;
    }
    Err(HostError::Refused(format!(
        "the key in the node-stage secret ('{KEY}') does not open volume {volume}: it is another one's, or was changed without '{PREVIOUS}'; nothing on the volume was changed"
    )))
}

/// Whether this key opens it.
async fn try_key(volume: VolumeId, device: &str, key: &[u8]) -> Result<bool, HostError> {
    // Without the kernel's keyring, growing needs no key.
    let mapping = name(volume);
    let arguments = [
        "open",
        "--type",
        "luks2",
        "--disable-keyring",
        "--key-file",
        "-",
        device,
        &mapping,
    ];
    let said = run_with("cryptsetup", &arguments, key, WORK).await?;
    if said.code == Some(WRONG_KEY) {
        return Ok(false);
    }
    good(&said, "open an encrypted volume").map(|()| true)
}

/// Puts the new key in the old one's place; the data stays as it is.
async fn rotate(
    volume: VolumeId,
    device: &str,
    keys: &Keys,
    previous: &[u8],
) -> Result<(), HostError> {
    tracing::info!(%volume, "rotating the key of an encrypted volume");
    // The second key of one command, in memory that only this user's processes can open.
    let failed = |error: std::io::Error| HostError::failed("hand over a key", error);
    let memory = memfd_create("key", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut file = File::from(memory);
    file.write_all(&keys.key).map_err(failed)?;
    let added = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mut arguments = vec!["luksAddKey", "-q"];
    arguments.extend(DERIVATION);
    arguments.extend(["--key-file", "-", device, &added]);
    let said = run_with("cryptsetup", &arguments, previous, WORK).await?;
    good(&said, "add the new key of an encrypted volume")?;
    retire(device, previous).await
}

/// Has a key open the volume no more; nothing happens if it does not. There must be another that does.
async fn retire(device: &str, key: &[u8]) -> Result<(), HostError> {
    let arguments = ["luksRemoveKey", "-q", device, "-"];
    let said = run_with("cryptsetup", &arguments, key, WORK).await?;
    if said.code == Some(WRONG_KEY) {
        return Ok(());
    }
    good(&said, "remove the old key of an encrypted volume")
}

fn good(said: &Said, what: &str) -> Result<(), HostError> {
    match said.code {
        Some(0) => Ok(()),
        // cryptsetup's words name devices and slots, never a key.
        _ => Err(HostError::failed(what, &said.words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_secret_without_a_key_is_told_of_by_the_entrys_name() {
        let none = Keys::of(&HashMap::new()).err().expect("no key");
        assert!(none.contains("encryptionKey") && none.contains("node-stage-secret-name"));
        let empty = HashMap::from([(KEY.to_owned(), String::new())]);
        assert!(Keys::of(&empty).is_err());
        let both = HashMap::from([
            (KEY.to_owned(), "new".to_owned()),
            (PREVIOUS.to_owned(), "old".to_owned()),
        ]);
        let keys = Keys::of(&both).expect("keys");
        assert_eq!(
            (keys.key, keys.previous),
            (b"new".to_vec(), Some(b"old".to_vec()))
        );
    }
}
