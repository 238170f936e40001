//! Any bytes at all, as recovery finds them where a structure of the store should be: they are refused
//! or are one structure, and then they are the very bytes that this structure encodes to. Compiled into
//! the fuzz target of this name and into a property test of `engine/store`.

use lockstep_store::format::{
    Anchor, Batch, ChecksumPage, DeltaPage, DirectoryPage, FormatError, MapPage, PoolKey,
    ReplicaEntry, Superblock,
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

/// A batch's header is authenticated, so only what the pool wrote is one; what its first block says of
/// its shape is believed before that, and must stay inside what a ring can hold.
fn check_batch(data: &[u8]) {
    let mut block = data.to_vec();
    block.resize(PAGE, 0);
    let Ok(shape) = Batch::peek(&block) else {
        return;
    };
    assert!(shape.header_bytes() >= PAGE && shape.bytes() >= shape.header_bytes() as u64);
    block.resize(shape.header_bytes(), 0);
    if let Ok(parsed) = Batch::decode(&block, &KEY) {
        assert_eq!(parsed.shape, shape, "the first block tells the shape");
        assert_eq!(parsed.batch.encode(&KEY).0, block, "a batch is canonical");
    }
}
