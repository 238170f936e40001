//! Where the areas of a pool lie. Computed once at format, kept in the superblock, checked on open.
//!
//! Order on disk: superblock ×2, anchor ×2, replica table, page directory, delta log, map pages,
//! checksum pages, journal ring, data. All offsets and lengths are multiples of 4096 bytes; data
//! starts on a multiple of 256 KiB.

use lockstep_types::{BLOCK, EXTENT};

/// Bytes of one page, as an offset.
const PAGE: u64 = BLOCK as u64;
/// Bytes of two slots of one page.
const PAIR: u64 = 2 * PAGE;
/// Physical extents one map page describes.
pub const EXTENTS_PER_MAP_PAGE: u32 = 126;
/// Physical extents one checksum page describes.
pub const EXTENTS_PER_CHECKSUM_PAGE: u32 = 15;
/// Metadata pages whose generation one directory page holds.
pub const GENERATIONS_PER_DIRECTORY_PAGE: u32 = 1008;
/// The smallest journal ring.
pub const MIN_RING: u64 = 256 * 1024;
/// The smallest delta log, in pages.
pub const MIN_DELTA_PAGES: u64 = 4;
/// Physical extents at most: an owner's place is a u32 and one value is kept for "none".
pub const MAX_EXTENTS: u32 = u32::MAX - 1;

/// A run of bytes on the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Area {
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Area {
    /// The byte after the last.
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }
}

/// What an operator chooses at format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormatOptions {
    /// Bytes of the device or file that may be used; rounded down to blocks.
    pub device_bytes: u64,
    /// Bytes of the journal ring; a multiple of 4096, at least [`MIN_RING`].
    pub ring_bytes: u64,
    /// Bytes of the delta log; a multiple of 4096, at least [`MIN_DELTA_PAGES`] pages.
    pub delta_bytes: u64,
    /// Replicas the pool can hold; at least 1.
    pub max_replicas: u32,
    /// Ring bytes reserved for each replica's window (S5); a multiple of 4096, at least one block.
    /// All windows together take at most half the ring.
    pub window_bytes: u32,
}

/// Why a device cannot be laid out as asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum GeometryError {
    /// Not even one extent fits.
    #[error(
        "the device is too small: it has {device} bytes, and metadata, ring and one extent need {needed}; give a larger device or a smaller ring"
    )]
    TooSmall {
        /// What it has.
        device: u64,
        /// What is needed.
        needed: u64,
    },
    /// An option is out of its bounds.
    #[error("{option} is {value} and must be {rule}")]
    Option {
        /// Which.
        option: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        rule: &'static str,
    },
    /// The windows would take more than half the ring.
    #[error("{replicas} replicas with a window of {window} bytes need {} bytes of the ring and may use {}; allow fewer replicas, or give a larger ring", u64::from(*.replicas) * u64::from(*.window), .ring / 2)]
    Windows {
        /// Replicas allowed.
        replicas: u32,
        /// Ring bytes reserved for each.
        window: u32,
        /// Ring bytes.
        ring: u64,
    },
    /// The areas kept in a superblock contradict each other.
    #[error("the areas of the pool contradict each other: {0}")]
    Areas(&'static str),
}

/// Where everything lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Geometry {
    /// Bytes of the device in use, a multiple of 4096.
    pub device_bytes: u64,
    /// Two slots of the anchor.
    pub anchors: Area,
    /// Two slots for each replica.
    pub replicas: Area,
    /// Two slots for each directory page.
    pub directory: Area,
    /// The metadata delta log.
    pub delta: Area,
    /// Two slots for each map page.
    pub map: Area,
    /// Two slots for each checksum page.
    pub checksums: Area,
    /// The journal.
    pub ring: Area,
    /// Extents of 256 KiB.
    pub data: Area,
    /// Physical extents in `data`.
    pub extents: u32,
    /// Replicas in `replicas`.
    pub max_replicas: u32,
    /// Ring bytes reserved for each replica (S5).
    pub window_bytes: u32,
}

impl Geometry {
    /// Lays out a device.
    ///
    /// # Errors
    /// If an option is out of bounds or the device is too small.
    pub fn compute(options: &FormatOptions) -> Result<Self, GeometryError> {
        check_options(options)?;
        let device = options.device_bytes / PAGE * PAGE;
        let one = Self::with_extents(options, device, 1);
        if one.data.end() > device {
            return Err(GeometryError::TooSmall {
                device,
                needed: one.data.end(),
            });
        }
        // The end of the data grows with the extents, so the largest count that fits is bisected.
        let (mut fits, mut fails) = (
            1,
            (device / EXTENT as u64 + 1).min(u64::from(MAX_EXTENTS) + 1),
        );
        while fits + 1 < fails {
            let middle = fits + (fails - fits) / 2;
            let count = u32::try_from(middle).expect("below MAX_EXTENTS + 1");
            if Self::with_extents(options, device, count).data.end() <= device {
                fits = middle;
            } else {
                fails = middle;
            }
        }
        let extents = u32::try_from(fits).expect("at most MAX_EXTENTS");
        let geometry = Self::with_extents(options, device, extents);
        assert_eq!(geometry.validate(), Ok(()), "what is computed is valid");
        Ok(geometry)
    }

    fn with_extents(options: &FormatOptions, device: u64, extents: u32) -> Self {
        let mut at = PAIR;
        let mut area = |length: u64| {
            let area = Area { offset: at, length };
            at += length;
            area
        };
        let anchors = area(PAIR);
        let replicas = area(u64::from(options.max_replicas) * PAIR);
        let directory = area(u64::from(directory_pages(extents)) * PAIR);
        let delta = area(options.delta_bytes);
        let map = area(u64::from(map_pages(extents)) * PAIR);
        let checksums = area(u64::from(checksum_pages(extents)) * PAIR);
        let ring = area(options.ring_bytes);
        let data = Area {
            offset: ring.end().next_multiple_of(EXTENT as u64),
            length: u64::from(extents) * EXTENT as u64,
        };
        Self {
            device_bytes: device,
            anchors,
            replicas,
            directory,
            delta,
            map,
            checksums,
            ring,
            data,
            extents,
            max_replicas: options.max_replicas,
            window_bytes: options.window_bytes,
        }
    }

    /// The areas in the order in which the superblock keeps them.
    pub const fn areas(&self) -> [Area; 8] {
        [
            self.anchors,
            self.replicas,
            self.directory,
            self.delta,
            self.map,
            self.checksums,
            self.ring,
            self.data,
        ]
    }

    /// Whether the areas are aligned, apart, inside the device, and as large as what they hold.
    ///
    /// # Errors
    /// [`GeometryError::Areas`] says what contradicts.
    pub fn validate(&self) -> Result<(), GeometryError> {
        let bad = |what| Err(GeometryError::Areas(what));
        let mut end = PAIR;
        for area in self.areas() {
            if !area.offset.is_multiple_of(PAGE) || !area.length.is_multiple_of(PAGE) {
                return bad("an area does not start and end on blocks");
            }
            if area.offset < end {
                return bad("two areas overlap");
            }
            end = match area.offset.checked_add(area.length) {
                Some(end) => end,
                None => return bad("an area ends beyond 2^64"),
            };
        }
        if end > self.device_bytes || !self.device_bytes.is_multiple_of(PAGE) {
            return bad("the data ends beyond the device");
        }
        let pairs = |area: Area, pages: u32| area.length == u64::from(pages) * PAIR;
        let extents = self.extents;
        if extents == 0 || extents > MAX_EXTENTS {
            return bad("the number of extents is out of bounds");
        }
        if self.data.length != u64::from(extents) * EXTENT as u64
            || !self.data.offset.is_multiple_of(EXTENT as u64)
        {
            return bad("the data area is not the extents");
        }
        if !pairs(self.anchors, 1)
            || !pairs(self.replicas, self.max_replicas)
            || !pairs(self.directory, directory_pages(extents))
            || !pairs(self.map, map_pages(extents))
            || !pairs(self.checksums, checksum_pages(extents))
        {
            return bad("a metadata area does not have the size of what it holds");
        }
        check_options(&FormatOptions {
            device_bytes: self.device_bytes,
            ring_bytes: self.ring.length,
            delta_bytes: self.delta.length,
            max_replicas: self.max_replicas,
            window_bytes: self.window_bytes,
        })
    }

    /// Where superblock `slot` (0 or 1) lies.
    pub const fn superblock_slot(slot: u32) -> u64 {
        assert!(slot < 2);
        slot as u64 * PAGE
    }

    /// Where the anchor of a generation lies.
    pub const fn anchor_slot(&self, generation: u64) -> u64 {
        self.anchors.offset + (generation & 1) * PAGE
    }

    /// Where the state of replica slot `slot` in a generation lies.
    pub const fn replica_slot(&self, slot: u32, generation: u64) -> u64 {
        assert!(slot < self.max_replicas);
        self.replicas.offset + slot as u64 * PAIR + (generation & 1) * PAGE
    }

    /// Where directory page `page` of a generation lies. The pages of one generation lie in a row,
    /// so that a checkpoint writes one run.
    pub const fn directory_slot(&self, page: u32, generation: u32) -> u64 {
        let pages = directory_pages(self.extents);
        assert!(page < pages);
        self.directory.offset + ((generation & 1) as u64 * pages as u64 + page as u64) * PAGE
    }

    /// Where map page `page` of a generation lies.
    pub const fn map_slot(&self, page: u32, generation: u32) -> u64 {
        assert!(page < map_pages(self.extents));
        self.map.offset + page as u64 * PAIR + (generation & 1) as u64 * PAGE
    }

    /// Where checksum page `page` of a generation lies.
    pub const fn checksum_slot(&self, page: u32, generation: u32) -> u64 {
        assert!(page < checksum_pages(self.extents));
        self.checksums.offset + page as u64 * PAIR + (generation & 1) as u64 * PAGE
    }

    /// Where delta page number `number` lies: numbers grow for ever and wrap around the area.
    pub const fn delta_page(&self, number: u64) -> u64 {
        self.delta.offset + number % self.delta_pages() * PAGE
    }

    /// Pages of the delta log.
    pub const fn delta_pages(&self) -> u64 {
        self.delta.length / PAGE
    }

    /// Where a physical extent's data lies.
    pub const fn extent_offset(&self, extent: u32) -> u64 {
        assert!(extent < self.extents);
        self.data.offset + extent as u64 * EXTENT as u64
    }

    /// Map pages.
    pub const fn map_pages(&self) -> u32 {
        map_pages(self.extents)
    }

    /// Checksum pages.
    pub const fn checksum_pages(&self) -> u32 {
        checksum_pages(self.extents)
    }

    /// Directory pages of one generation.
    pub const fn directory_pages(&self) -> u32 {
        directory_pages(self.extents)
    }

    /// The place of a map page's generation in the directory.
    pub const fn directory_index_of_map(&self, page: u32) -> u32 {
        assert!(page < map_pages(self.extents));
        page
    }

    /// The place of a checksum page's generation in the directory: after those of the map.
    pub const fn directory_index_of_checksums(&self, page: u32) -> u32 {
        assert!(page < checksum_pages(self.extents));
        map_pages(self.extents) + page
    }
}

const fn map_pages(extents: u32) -> u32 {
    extents.div_ceil(EXTENTS_PER_MAP_PAGE)
}

const fn checksum_pages(extents: u32) -> u32 {
    extents.div_ceil(EXTENTS_PER_CHECKSUM_PAGE)
}

const fn directory_pages(extents: u32) -> u32 {
    (map_pages(extents) + checksum_pages(extents)).div_ceil(GENERATIONS_PER_DIRECTORY_PAGE)
}

fn check_options(options: &FormatOptions) -> Result<(), GeometryError> {
    let check = |good: bool, option, value, rule| {
        if good {
            Ok(())
        } else {
            Err(GeometryError::Option {
                option,
                value,
                rule,
            })
        }
    };
    let (ring, delta, window) = (
        options.ring_bytes,
        options.delta_bytes,
        options.window_bytes,
    );
    // Bounds that keep every sum far from 2^64.
    const MOST: u64 = 1 << 44;
    check(
        ring.is_multiple_of(PAGE) && (MIN_RING..=MOST).contains(&ring),
        "the journal ring",
        ring,
        "a multiple of 4096 from 256 KiB to 16 TiB",
    )?;
    check(
        delta.is_multiple_of(PAGE) && (MIN_DELTA_PAGES * PAGE..=MOST).contains(&delta),
        "the delta log",
        delta,
        "a multiple of 4096 from 16 KiB to 16 TiB",
    )?;
    let replicas = options.max_replicas;
    check(
        (1..=1 << 20).contains(&replicas),
        "the number of replicas",
        replicas.into(),
        "from 1 to 1048576",
    )?;
    check(
        window >= BLOCK as u32 && window.is_multiple_of(BLOCK as u32),
        "the window of a replica",
        window.into(),
        "a multiple of 4096, at least 4096",
    )?;
    if u64::from(replicas) * u64::from(window) > ring / 2 {
        return Err(GeometryError::Windows {
            replicas,
            window,
            ring,
        });
    }
    Ok(())
}
