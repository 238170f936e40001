//! Which pages of the pool are free: a buddy allocator over page numbers. Plain data, no memory
//! of its own to hand out.

/// Sizes: 1, 2, 4 … 256 pages (4 KiB … 1 MiB).
pub(crate) const ORDERS: usize = 9;
/// Pages in a block of the highest order.
pub(crate) const MAX_PAGES: u32 = 1 << (ORDERS - 1);

const NONE: u32 = u32::MAX;

/// What a page is the first of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    /// Not the first page of a block.
    Inside,
    Free(u8),
    Taken(u8),
}

pub(crate) struct Buddy {
    pages: Vec<Page>,
    /// Doubly linked free lists through the first pages of free blocks.
    next: Vec<u32>,
    previous: Vec<u32>,
    heads: [u32; ORDERS],
    free_pages: u32,
}

impl Buddy {
    /// `pages` pages, all free. A multiple of [`MAX_PAGES`].
    pub(crate) fn new(pages: u32) -> Self {
        assert!(
            pages > 0 && pages.is_multiple_of(MAX_PAGES),
            "whole blocks of the highest order"
        );
        let count = pages as usize;
        let mut buddy = Self {
            pages: vec![Page::Inside; count],
            next: vec![NONE; count],
            previous: vec![NONE; count],
            heads: [NONE; ORDERS],
            free_pages: pages,
        };
        for first in (0..pages).step_by(MAX_PAGES as usize).rev() {
            buddy.link(first, ORDERS - 1);
        }
        buddy
    }

    pub(crate) fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// The first page of a block of 2^order pages, aligned to its size.
    pub(crate) fn take(&mut self, order: usize) -> Option<u32> {
        let from = (order..ORDERS).find(|&o| self.heads[o] != NONE)?;
        let first = self.heads[from];
        self.unlink(first, from);
        // Split down, keeping the lower half.
        for smaller in (order..from).rev() {
            self.link(first + (1 << smaller), smaller);
        }
        self.pages[first as usize] = Page::Taken(order as u8);
        self.free_pages -= 1 << order;
        Some(first)
    }

    /// Gives back a block by its first page.
    pub(crate) fn give(&mut self, mut first: u32) {
        let Page::Taken(order) = self.pages[first as usize] else {
            panic!("page {first} is not the first of a taken block");
        };
        let mut order = usize::from(order);
        self.free_pages += 1 << order;
        self.pages[first as usize] = Page::Inside;
        while order < ORDERS - 1 {
            let buddy = first ^ (1 << order);
            if self.pages[buddy as usize] != Page::Free(order as u8) {
                break;
            }
            self.unlink(buddy, order);
            first &= !(1 << order);
            order += 1;
        }
        self.link(first, order);
    }

    fn link(&mut self, first: u32, order: usize) {
        let head = self.heads[order];
        self.pages[first as usize] = Page::Free(order as u8);
        self.next[first as usize] = head;
        self.previous[first as usize] = NONE;
        if head != NONE {
            self.previous[head as usize] = first;
        }
        self.heads[order] = first;
    }

    fn unlink(&mut self, first: u32, order: usize) {
        let (next, previous) = (self.next[first as usize], self.previous[first as usize]);
        match previous {
            NONE => self.heads[order] = next,
            previous => self.next[previous as usize] = next,
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.pages[first as usize] = Page::Inside;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_use_never_overlaps_and_all_comes_back() {
        let pages = 4 * MAX_PAGES;
        let mut buddy = Buddy::new(pages);
        let mut owner = vec![0u32; pages as usize];
        let mut held: Vec<(u32, usize)> = Vec::new();
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut dice = |n: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % n as u64) as usize
        };
        for step in 1..200_000u32 {
            if dice(2) == 0 || held.is_empty() {
                let order = dice(ORDERS);
                let Some(first) = buddy.take(order) else {
                    continue;
                };
                assert_eq!(first % (1 << order), 0, "aligned to its size");
                for page in &mut owner[first as usize..first as usize + (1 << order)] {
                    assert_eq!(*page, 0, "handed out twice");
                    *page = step;
                }
                held.push((first, order));
            } else {
                let (first, order) = held.swap_remove(dice(held.len()));
                owner[first as usize..first as usize + (1 << order)].fill(0);
                buddy.give(first);
            }
            let taken: u32 = held.iter().map(|(_, order)| 1 << order).sum();
            assert_eq!(buddy.free_pages(), pages - taken);
        }
        for (first, _) in held.drain(..) {
            buddy.give(first);
        }
        for _ in 0..4 {
            assert!(
                buddy.take(ORDERS - 1).is_some(),
                "everything coalesced again"
            );
        }
        assert!(buddy.take(0).is_none());
    }

    #[test]
    #[should_panic(expected = "not the first of a taken block")]
    fn giving_twice_is_caught() {
        let mut buddy = Buddy::new(MAX_PAGES);
        let first = buddy.take(3).expect("free");
        buddy.give(first);
        buddy.give(first);
    }
}
