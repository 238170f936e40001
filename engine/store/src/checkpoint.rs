//! Checkpoints: metadata pages that changed are written to their other slot, then the directory that
//! names their generations, then the anchor, and only then is the delta log behind it free. Until the
//! anchor is durable the generations before it stay whole.

use crate::api::{DiskOp, Outputs};
use crate::format::{ChecksumPage, DELTAS_PER_PAGE, DirectoryPage, MapEntry, MapPage};
use crate::geometry::{EXTENTS_PER_MAP_PAGE, GENERATIONS_PER_DIRECTORY_PAGE};
use crate::store::{Op, Store};
use bytes::Bytes;
use lockstep_types::EXTENT_BLOCKS;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// Page writes in flight at once.
const DEPTH: usize = 8;
/// Deltas that an extent needs beside those of its blocks, at most: mapped, valid, what it replaces freed.
pub(crate) const DELTAS_BESIDE_BLOCKS: usize = 3;
const _: () = assert!(DELTAS_BESIDE_BLOCKS + EXTENT_BLOCKS as usize <= DELTAS_PER_PAGE);

/// A checkpoint under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Checkpoint {
    /// Every delta before this page is in what the checkpoint writes.
    delta_from: u64,
    sums_left: Vec<u32>,
    map_left: Vec<u32>,
    /// A checksum page that is being read.
    loading: Option<u32>,
    /// It could not be read: its blocks will be found corrupt and repaired.
    unreadable: BTreeSet<u32>,
    writing: usize,
    step: Step,
    sums_written: Vec<(ChecksumPage, u64)>,
    map_written: Vec<u32>,
    /// Deleted replicas whose extents no page written from now on names.
    deleted: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Pages,
    Flushing,
    Directory,
    Anchoring,
}

impl Store {
    /// Pages of the delta log that one destaging round may fill.
    pub(crate) fn round_pages(&self) -> u64 {
        (self.geometry.delta_pages() / 4).clamp(1, 64)
    }

    /// Whether the delta log has room for a round, by the anchor on disk.
    pub(crate) fn delta_room(&self) -> bool {
        self.delta_head - self.anchor.written.delta_tail + self.round_pages()
            <= self.geometry.delta_pages()
    }

    /// Begins a checkpoint when the delta log is half full, or drives the one that runs.
    pub(crate) fn advance_checkpoint(&mut self, out: &mut Outputs) {
        let used = self.delta_head - self.anchor.delta_tail;
        let deleted = self.slots_to_free().next().is_some();
        let wanted = used > self.geometry.delta_pages() / 2 || !self.delta_room() || deleted;
        // Deltas of a round that runs are not all in memory yet.
        if self.checkpoint.is_none() && wanted && self.round.is_none() {
            self.begin_checkpoint();
        }
        self.feed_checkpoint(out);
    }

    /// Deleted replicas that nothing in memory refers to any more.
    fn slots_to_free(&self) -> impl Iterator<Item = u32> + '_ {
        let gone = self.slots.values().filter(|s| s.purged && s.is_settled());
        gone.map(|s| s.number).filter(|n| !self.reads.concern(*n))
    }

    fn begin_checkpoint(&mut self) {
        self.checkpoint = Some(Checkpoint {
            delta_from: self.delta_head,
            sums_left: self.sums.dirty_pages(),
            map_left: std::mem::take(&mut self.map_dirty).into_iter().collect(),
            loading: None,
            unreadable: BTreeSet::new(),
            writing: 0,
            step: Step::Pages,
            sums_written: Vec::new(),
            map_written: Vec::new(),
            deleted: self.slots_to_free().collect(),
        });
    }

    fn feed_checkpoint(&mut self, out: &mut Outputs) {
        loop {
            let Some(checkpoint) = &mut self.checkpoint else {
                return;
            };
            if checkpoint.step != Step::Pages
                || checkpoint.writing >= DEPTH
                || checkpoint.loading.is_some()
            {
                return;
            }
            if let Some(page) = checkpoint.map_left.pop() {
                self.write_map_page(page, out);
                continue;
            }
            let Some(page) = checkpoint.sums_left.pop() else {
                break;
            };
            let generation = self.sums_generations[page as usize];
            let fresh = generation == 0 || checkpoint.unreadable.contains(&page);
            match self.sums.compose(page, fresh) {
                Some((composed, version)) => self.write_sums_page(composed, version, out),
                None => {
                    checkpoint.loading = Some(page);
                    self.prefetch_page(page, out);
                }
            }
        }
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        if checkpoint.writing == 0 {
            checkpoint.step = Step::Flushing;
            self.submit(Op::CheckpointFlush, |token| DiskOp::Flush { token }, out);
        }
    }

    pub(crate) fn checkpoint_page_loaded(&mut self, page: u32, good: bool) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        if checkpoint.loading == Some(page) {
            checkpoint.loading = None;
            checkpoint.sums_left.push(page);
            if !good {
                checkpoint.unreadable.insert(page);
            }
        }
    }

    fn write_map_page(&mut self, page: u32, out: &mut Outputs) {
        let mut map = MapPage::empty(page);
        map.generation = self.map_generations[page as usize] + 1;
        let first = page * EXTENTS_PER_MAP_PAGE;
        for (at, entry) in map.entries.iter_mut().enumerate() {
            let extent = first + at as u32;
            if extent >= self.extents.total() {
                break;
            }
            let mapped = self.extents.get(extent);
            *entry = MapEntry {
                owner: mapped.owner,
                index: mapped.index,
                valid: mapped.valid,
                newest: mapped.newest,
                birth: mapped.birth,
            };
        }
        let offset = self.geometry.map_slot(page, map.generation);
        let bytes = Bytes::copy_from_slice(&map.encode(&self.key));
        let checkpoint = self.checkpoint.as_mut().expect("the caller drives it");
        checkpoint.writing += 1;
        checkpoint.map_written.push(page);
        self.submit_write(
            Op::CheckpointPage,
            offset,
            SmallVec::from_elem(bytes, 1),
            false,
            out,
        );
    }

    fn write_sums_page(&mut self, mut page: ChecksumPage, version: u64, out: &mut Outputs) {
        page.generation = self.sums_generations[page.page as usize] + 1;
        let offset = self.geometry.checksum_slot(page.page, page.generation);
        let bytes = Bytes::copy_from_slice(&page.encode(&self.key));
        let checkpoint = self.checkpoint.as_mut().expect("the caller drives it");
        checkpoint.writing += 1;
        checkpoint.sums_written.push((page, version));
        self.submit_write(
            Op::CheckpointPage,
            offset,
            SmallVec::from_elem(bytes, 1),
            false,
            out,
        );
    }

    pub(crate) fn checkpoint_page_written(&mut self, out: &mut Outputs) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.writing -= 1;
        }
        self.feed_checkpoint(out);
    }

    /// The pages are on stable media: now the directory, whole, in its next generation.
    pub(crate) fn checkpoint_flushed(&mut self, out: &mut Outputs) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        let mut generations: Vec<u32> = self.map_generations.clone();
        generations.extend_from_slice(&self.sums_generations);
        let maps = self.map_generations.len();
        for page in &checkpoint.map_written {
            generations[*page as usize] += 1;
        }
        for (page, _) in &checkpoint.sums_written {
            generations[maps + page.page as usize] += 1;
        }
        checkpoint.step = Step::Directory;
        checkpoint.writing = self.geometry.directory_pages() as usize;
        let generation = self.anchor.directory_generation + 1;
        for (page, chunk) in generations
            .chunks(GENERATIONS_PER_DIRECTORY_PAGE as usize)
            .enumerate()
        {
            let page = page as u32;
            let directory = DirectoryPage {
                page,
                generation,
                generations: chunk.to_vec(),
            };
            let offset = self.geometry.directory_slot(page, generation);
            let bytes = Bytes::copy_from_slice(&directory.encode(&self.key));
            self.submit_write(
                Op::CheckpointDirectory,
                offset,
                SmallVec::from_elem(bytes, 1),
                true,
                out,
            );
        }
    }

    pub(crate) fn checkpoint_directory_written(&mut self, _out: &mut Outputs) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        checkpoint.writing -= 1;
        if checkpoint.writing > 0 {
            return;
        }
        checkpoint.step = Step::Anchoring;
        self.anchor.directory_generation += 1;
        self.anchor.delta_tail = checkpoint.delta_from;
        self.anchor.due = true;
    }

    /// An anchor is durable; if it was this checkpoint's, the checkpoint is complete.
    pub(crate) fn checkpoint_anchored(&mut self, out: &mut Outputs) {
        let complete = self
            .checkpoint
            .as_ref()
            .is_some_and(|c| c.step == Step::Anchoring)
            && self.anchor.written.directory_generation == self.anchor.directory_generation;
        if !complete {
            return;
        }
        let checkpoint = self.checkpoint.take().expect("looked at above");
        for page in checkpoint.map_written {
            self.map_generations[page as usize] += 1;
        }
        for (page, version) in checkpoint.sums_written {
            self.sums_generations[page.page as usize] += 1;
            self.sums.written(page, version);
        }
        for number in checkpoint.deleted {
            self.free_slot(number, out);
        }
    }
}
