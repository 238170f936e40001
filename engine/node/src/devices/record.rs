//! What is kept of a device beside its descriptors, with the keeper: enough for the next daemon to
//! serve it, and for anybody to take it apart. The attachment id is there before the first request
//! (R12).

use std::path::PathBuf;

use lockstep_fuse::Negotiated;
use lockstep_types::{AttachmentId, VolumeId};
use serde::{Deserialize, Serialize};

/// A device as the keeper's text says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The volume's id.
    pub volume: String,
    /// The publication's id; the entry's key too.
    pub attachment: String,
    /// The volume's name: the file in the mount, and the link in /dev/lockstep.
    pub name: String,
    /// Its bytes when it was made, or has grown since.
    pub bytes: u64,
    /// Where the FUSE file system is mounted.
    pub mount: PathBuf,
    /// What was agreed with the kernel; none before that, and nobody uses the device yet.
    pub agreed: Option<Agreed>,
    /// The loop device; none before it is attached.
    pub number: Option<u32>,
}

/// As [`Negotiated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    minor: u32,
    flags: u64,
}

impl Record {
    /// Reads a keeper's text.
    ///
    /// # Errors
    /// It is not one of this version's.
    pub fn parse(text: &[u8]) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(text)?)
    }

    /// As the keeper keeps it.
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }

    /// The ids.
    ///
    /// # Errors
    /// They are malformed.
    pub fn ids(&self) -> anyhow::Result<(VolumeId, AttachmentId)> {
        Ok((self.volume.parse()?, self.attachment.parse()?))
    }

    /// The file behind the device.
    pub fn file(&self) -> lockstep_fuse::Volume {
        lockstep_fuse::Volume {
            name: self.name.clone(),
            size: self.bytes,
            read_only: false,
        }
    }

    /// What the loop device is called in the kernel.
    pub fn label(&self) -> String {
        label(&self.attachment)
    }
}

/// The label of the loop device of a publication.
pub fn label(attachment: &str) -> String {
    format!("lockstep:{attachment}")
}

impl From<Negotiated> for Agreed {
    fn from(agreed: Negotiated) -> Self {
        Self {
            minor: agreed.minor,
            flags: agreed.flags,
        }
    }
}

impl From<Agreed> for Negotiated {
    fn from(agreed: Agreed) -> Self {
        Self {
            minor: agreed.minor,
            flags: agreed.flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen;

    /// The keeper lives on while daemons come and go, newer and older ones.
    const FROZEN: [&str; 2] = [
        r#"{"volume":"00000000000000000000000000000001","attachment":"00000000000000000000000000000002","name":"pg","bytes":1073741824,"mount":"/somewhere","agreed":{"minor":41,"flags":7},"number":3}"#,
        r#"{"volume":"00000000000000000000000000000001","attachment":"00000000000000000000000000000002","name":"pg","bytes":1073741824,"mount":"/somewhere","agreed":null,"number":null}"#,
    ];

    fn record() -> Record {
        Record {
            volume: VolumeId::from_u128(1).to_string(),
            attachment: AttachmentId::from_u128(2).to_string(),
            name: "pg".into(),
            bytes: 1 << 30,
            mount: "/somewhere".into(),
            agreed: Some(
                Negotiated {
                    minor: 41,
                    flags: 7,
                }
                .into(),
            ),
            number: Some(3),
        }
    }

    #[test]
    fn golden_text_of_a_device() {
        let made = Record {
            agreed: None,
            number: None,
            ..record()
        };
        for (record, text) in [record(), made].iter().zip(FROZEN) {
            let now = String::from_utf8(record.text()).expect("JSON");
            frozen::assert_frozen("a device with the keeper", &now, text);
            let read = frozen::read("a device with the keeper", Record::parse(text.as_bytes()));
            assert_eq!(&read, record);
        }
    }

    #[test]
    fn a_record_is_read_back_and_a_strange_one_refused() {
        let record = record();
        let read = Record::parse(&record.text()).expect("reads");
        assert_eq!(read, record);
        let ids = read.ids().expect("ids");
        assert_eq!(ids, (VolumeId::from_u128(1), AttachmentId::from_u128(2)));
        assert!(Record::parse(b"{}").is_err());
    }
}
