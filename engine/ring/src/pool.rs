//! The buffer pool of one data-plane thread: one anonymous mapping, cut into blocks of 4 KiB to
//! 1 MiB, each aligned to 4 KiB and so fit for O_DIRECT, and registered with the ring as one fixed
//! buffer where the memory limit allows.
//!
//! A [`PoolBufMut`] is filled by one owner, then frozen to a [`Bytes`] that any thread may hold;
//! the last drop returns it. A drop on the owning thread goes straight to the free lists, a drop
//! elsewhere onto a lock-free stack that the owner empties: no lock on either way.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;

use crate::buddy::{Buddy, MAX_PAGES, ORDERS};
use crate::error::Exhausted;
use crate::sys;

const PAGE: usize = 4096;
/// The largest buffer: 1 MiB.
pub const MAX_BUFFER: usize = PAGE << (ORDERS - 1);
const EMPTY: u32 = u32::MAX;

/// A thread's pool. Cheap to clone, bound to the thread that made it.
#[derive(Clone)]
pub struct Pool {
    owner: Rc<Owner>,
}

/// Ends the pool when the last handle goes; buffers still out keep the memory itself alive.
struct Owner {
    region: Arc<Region>,
    _bound_to_its_thread: PhantomData<*mut ()>,
}

struct Region {
    base: NonNull<u8>,
    length: usize,
    /// The thread that may touch `local`.
    thread: usize,
    closed: AtomicBool,
    /// Blocks dropped by other threads: a stack through `returned_next`, by first page.
    returned: AtomicU32,
    returned_next: Box<[AtomicU32]>,
    local: UnsafeCell<Local>,
}

struct Local {
    buddy: Buddy,
    exhausted: u64,
}

// SAFETY: `base` is a private mapping owned by the region and unmapped only by its drop. Blocks of
// it are reached only through a `PoolBufMut` (exclusive) or shared immutably once frozen. `local`
// is touched only by the thread `thread` (checked in `give_back`; `Pool` itself is not `Send`);
// everything else is atomic or immutable.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Pool {
    /// Maps `bytes`, rounded up to whole MiB. Memory is taken from the system as it is touched.
    ///
    /// # Errors
    /// The system refuses the mapping.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let length = bytes.max(1).next_multiple_of(MAX_BUFFER);
        let pages = u32::try_from(length / PAGE).expect("a pool is smaller than 16 TiB");
        let base = sys::map_anonymous(length)?;
        let region = Region {
            base,
            length,
            thread: this_thread(),
            closed: AtomicBool::new(false),
            returned: AtomicU32::new(EMPTY),
            returned_next: (0..pages).map(|_| AtomicU32::new(EMPTY)).collect(),
            local: UnsafeCell::new(Local {
                buddy: Buddy::new(pages),
                exhausted: 0,
            }),
        };
        let region = Arc::new(region);
        Ok(Self {
            owner: Rc::new(Owner {
                region,
                _bound_to_its_thread: PhantomData,
            }),
        })
    }

    /// A writable buffer of exactly `length` bytes, 1 to [`MAX_BUFFER`]. Its content is whatever
    /// lay there before.
    ///
    /// # Errors
    /// [`Exhausted`], counted: push back, and try again after buffers have come home.
    pub fn get(&self, length: usize) -> Result<PoolBufMut, Exhausted> {
        assert!(
            (1..=MAX_BUFFER).contains(&length),
            "a buffer has 1 byte to 1 MiB, not {length}"
        );
        let order = length.div_ceil(PAGE).next_power_of_two().trailing_zeros() as usize;
        let region = &self.owner.region;
        let local = self.local();
        let mut first = local.buddy.take(order);
        if first.is_none() {
            region.reclaim(local);
            first = local.buddy.take(order);
        }
        let Some(first) = first else {
            local.exhausted += 1;
            return Err(Exhausted { bytes: length });
        };
        Ok(PoolBufMut {
            region: Arc::clone(region),
            first,
            order: order as u8,
            length,
        })
    }

    /// Takes in what other threads have dropped.
    pub fn reclaim(&self) {
        self.owner.region.reclaim(self.local());
    }

    /// Bytes free now, in blocks of any size.
    pub fn free_bytes(&self) -> usize {
        self.local().buddy.free_pages() as usize * PAGE
    }

    /// Bytes of the whole pool.
    pub fn size(&self) -> usize {
        self.owner.region.length
    }

    /// How often [`Self::get`] found nothing.
    pub fn exhausted(&self) -> u64 {
        self.local().exhausted
    }

    /// Where in the pool a slice lies, if it does: the offset from the start of the registered
    /// buffer (index 0).
    pub fn locate(&self, bytes: &[u8]) -> Option<usize> {
        let region = &self.owner.region;
        let offset = (bytes.as_ptr() as usize).checked_sub(region.base.as_ptr() as usize)?;
        (offset + bytes.len() <= region.length).then_some(offset)
    }

    /// The whole mapping, for registration.
    pub(crate) fn mapping(&self) -> libc::iovec {
        let region = &self.owner.region;
        libc::iovec {
            iov_base: region.base.as_ptr().cast(),
            iov_len: region.length,
        }
    }

    #[expect(
        clippy::mut_from_ref,
        reason = "the borrow never outlives one method; see SAFETY"
    )]
    fn local(&self) -> &mut Local {
        // SAFETY: `Pool` is not `Send`, so this is the owning thread. Every caller is a method of
        // this module that uses the reference and lets it go before any other code that could
        // reach `local` (a buffer's drop) can run.
        unsafe { &mut *self.owner.region.local.get() }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.region.closed.store(true, Ordering::Release);
    }
}

impl Region {
    fn give_back(&self, first: u32) {
        if self.closed.load(Ordering::Acquire) {
            return; // the mapping goes with its last buffer
        }
        if self.thread == this_thread() {
            // SAFETY: the owning thread, and the pool is not closed, so the mark cannot be that of
            // a later thread which reuses the place: the owner closes the pool before it ends
            // (`Pool` cannot leave its thread). No reference into `local` is live (see `local()`).
            unsafe { &mut *self.local.get() }.buddy.give(first);
            return;
        }
        let mut head = self.returned.load(Ordering::Relaxed);
        loop {
            self.returned_next[first as usize].store(head, Ordering::Relaxed);
            // Release: this thread's last reads of the buffer come before its reuse.
            match self.returned.compare_exchange_weak(
                head,
                first,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// The owner takes the whole stack at once, so that no block can be pushed twice under it.
    fn reclaim(&self, local: &mut Local) {
        if self.returned.load(Ordering::Relaxed) == EMPTY {
            return;
        }
        let mut first = self.returned.swap(EMPTY, Ordering::Acquire);
        while first != EMPTY {
            let next = self.returned_next[first as usize].load(Ordering::Relaxed);
            local.buddy.give(first);
            first = next;
        }
    }

    fn block(&self, first: u32) -> *mut u8 {
        let offset = first as usize * PAGE;
        assert!(offset < self.length, "a block lies inside its pool");
        // SAFETY: the offset is inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are those of `map_anonymous`, and the last reference to the
        // region is going, so no buffer is out.
        unsafe { sys::unmap(self.base, self.length) };
    }
}

/// A buffer being filled: exclusive, aligned to 4 KiB.
pub struct PoolBufMut {
    region: Arc<Region>,
    first: u32,
    order: u8,
    length: usize,
}

impl PoolBufMut {
    /// All that the block holds, from its length up to the next power of two of pages.
    pub fn capacity(&self) -> usize {
        PAGE << self.order
    }

    /// Shows another part of the block: at most its capacity.
    pub fn set_len(&mut self, length: usize) {
        assert!(
            length <= self.capacity(),
            "the length stays within the block"
        );
        self.length = length;
    }

    /// A part of the block by itself, up to its capacity: while the kernel fills another part, no
    /// reference to the whole may exist.
    pub(crate) fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(
            range.start <= range.end && range.end <= self.capacity(),
            "within the block"
        );
        let base = self.region.block(self.first);
        // SAFETY: the range is inside this buffer's own block, `&mut self` is exclusive, and every
        // byte of the mapping is initialised.
        unsafe { std::slice::from_raw_parts_mut(base.add(range.start), range.len()) }
    }

    /// Makes it immutable and shareable, without copying.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(Frozen(self))
    }
}

impl Deref for PoolBufMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the block is this buffer's alone until drop, `length` is within it, and the
        // mapping is zeroed at birth, so that every byte is initialised.
        unsafe { std::slice::from_raw_parts(self.region.block(self.first), self.length) }
    }
}

impl DerefMut for PoolBufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.region.block(self.first), self.length) }
    }
}

impl Drop for PoolBufMut {
    fn drop(&mut self) {
        self.region.give_back(self.first);
    }
}

impl std::fmt::Debug for PoolBufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolBufMut({} of {})", self.length, self.capacity())
    }
}

struct Frozen(PoolBufMut);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A mark no other living thread has: the address of a thread-local.
fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

const _: () = assert!(MAX_BUFFER == PAGE * MAX_PAGES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_sized_and_come_back() {
        let pool = Pool::new(2 * MAX_BUFFER).expect("maps");
        let all = pool.free_bytes();
        for length in [1, 4095, 4096, 4097, 65_536, 100_000, MAX_BUFFER] {
            let mut buffer = pool.get(length).expect("room");
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr() as usize % PAGE, 0);
            buffer.fill(0xa5);
            let bytes = buffer.freeze();
            assert!(bytes.iter().all(|&b| b == 0xa5));
            let tail = bytes.slice(length / 2..);
            assert_eq!(
                pool.locate(&tail).expect("inside") % PAGE,
                (length / 2) % PAGE
            );
            drop(bytes);
            assert!(pool.free_bytes() < all, "a slice keeps its buffer");
            drop(tail);
            assert_eq!(pool.free_bytes(), all);
        }
        assert_eq!(pool.locate(&[0u8; 16]), None);
    }

    #[test]
    fn exhaustion_is_an_answer_and_counted() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let held: Vec<_> = (0..256).map(|_| pool.get(PAGE).expect("room")).collect();
        assert_eq!(pool.get(PAGE).map(drop), Err(Exhausted { bytes: PAGE }));
        assert_eq!(pool.exhausted(), 1);
        drop(held);
        assert!(pool.get(MAX_BUFFER).is_ok());
    }

    #[test]
    fn buffers_dropped_on_other_threads_come_home_without_loss() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let (send, receive) = std::sync::mpsc::channel::<Bytes>();
        let receive = Arc::new(std::sync::Mutex::new(receive));
        let droppers: Vec<_> = (0..3)
            .map(|_| {
                let receive = Arc::clone(&receive);
                std::thread::spawn(move || {
                    let mut seen = 0u64;
                    loop {
                        let next = receive.lock().expect("no panic").recv();
                        let Ok(bytes) = next else { return seen };
                        assert!(bytes.iter().all(|b| *b == bytes[0]), "torn or shared");
                        seen += 1;
                    }
                })
            })
            .collect();
        let mut sent = 0u64;
        while sent < 50_000 {
            let Ok(mut buffer) = pool.get(PAGE << (sent % 3)) else {
                std::thread::yield_now();
                continue;
            };
            buffer.fill(sent as u8);
            send.send(buffer.freeze()).expect("droppers live");
            sent += 1;
        }
        drop(send);
        let seen: u64 = droppers
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .sum();
        assert_eq!(seen, sent);
        pool.reclaim();
        assert_eq!(pool.free_bytes(), pool.size());
    }

    #[test]
    fn memory_outlives_the_pool_while_a_buffer_is_out() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let mut buffer = pool.get(8192).expect("room");
        buffer.fill(7);
        let bytes = buffer.freeze();
        drop(pool);
        let elsewhere = std::thread::spawn(move || bytes.iter().map(|&b| u64::from(b)).sum());
        let sum: u64 = elsewhere.join().expect("no panic");
        assert_eq!(sum, 7 * 8192);
    }
}
