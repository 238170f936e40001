//! Any bytes at all, as recovery finds them where a structure of the store should be: they are refused
//! or are one structure, and then they are the very bytes that this structure encodes to. Compiled into
//! the fuzz target of this name and into a property test of `engine/store`.

use lockstep_store::format::{
    Anchor, Batch, ChecksumPage, DeltaPage, DirectoryPage, FormatError, MapPage, PoolKey,
    ReplicaEntry, Superblock, Why,
};

/// Of the pool that the bytes are to belong to; the golden files' key.
const KEY: PoolKey = PoolKey(*b"a key of a pool.");
const PAGE: usize = 4096;
/// Where a page keeps its checksum.
const CHECKSUM: std::ops::Range<usize> = 12..16;

type Reader = fn(&[u8]) -> Result<Vec<u8>, FormatError>;

/// The readers, each for the place that the golden file of its structure has.
const READERS: [Reader; 7] = [
    // A newer Lockstep may keep something of its own behind a feature that this one may ignore.
    |b| {
        Superblock::decode(b).map(|s| match s.features.all_known() {
            true => s.encode().to_vec(),
            false => b.to_vec(),
        })
    },
    |b| Anchor::decode(b, &KEY).map(|a| a.encode(&KEY).to_vec()),
    |b| ReplicaEntry::decode(b, &KEY, 3).map(|e| e.encode(&KEY).to_vec()),
    |b| DeltaPage::decode(b, &KEY).map(|p| p.encode(&KEY).to_vec()),
    |b| MapPage::decode(b, &KEY, 7, 12).map(|p| p.encode(&KEY).to_vec()),
    |b| ChecksumPage::decode(b, &KEY, 8, 5).map(|p| p.encode(&KEY).to_vec()),
    |b| DirectoryPage::decode(b, &KEY, 1, 9).map(|p| p.encode(&KEY).to_vec()),
];

/// Checks `data` as every structure, as it is and, padded to a page, with its checksum made right,
/// without which hardly any input would come as far as the fields.
pub fn check(data: &[u8]) {
    let mut page = data.to_vec();
    page.resize(PAGE, 0);
    page[CHECKSUM].fill(0);
    let sum = crc32c::crc32c(&page);
    page[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    for read in READERS {
        canonical(read, data);
        canonical(read, &page);
    }
    check_batch(data);
}

fn canonical(read: Reader, bytes: &[u8]) {
    if let Ok(again) = read(bytes) {
        assert_eq!(again, bytes, "a structure is canonical");
    }
}

/// What the first block says of a batch's shape is believed before the rest is authenticated, and must
/// stay inside what a ring can hold. Only what the pool wrote is a batch: so it is looked at once as it
/// is, and once with its MAC made right.
fn check_batch(data: &[u8]) {
    let mut block = data.to_vec();
    block.resize(PAGE, 0);
    let Some(length) = Batch::header_bytes(&block) else {
        assert!(Batch::peek(&block).is_err(), "no magic, no shape");
        return;
    };
    let mut header = data.to_vec();
    header.resize(length, 0);
    batch_is_canonical(&header);
    Batch::seal(&mut header, &KEY);
    batch_is_canonical(&header);
}

fn batch_is_canonical(header: &[u8]) {
    let shape = Batch::peek(header);
    if let Ok(shape) = shape {
        assert!(shape.header_bytes() >= PAGE && shape.bytes() >= shape.header_bytes() as u64);
    }
    match Batch::decode(header, &KEY) {
        Ok(parsed) => {
            assert_eq!(Ok(parsed.shape), shape, "the first block tells the shape");
            assert_eq!(parsed.batch.encode(&KEY).0, header, "a batch is canonical");
            assert_eq!(Batch::unknown(header, &KEY), None, "its version is known");
        }
        Err(error) => {
            let newer = matches!(error.why, Why::Version(_));
            let unknown = Batch::unknown(header, &KEY).is_some();
            assert!(newer || !unknown, "only of its version is a batch unknown");
        }
    }
}
