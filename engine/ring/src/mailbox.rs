//! From any thread to a ring thread: a bounded queue, and a [`Waker`] that costs one atomic swap
//! while the ring is awake and one eventfd write only when it sleeps.
//!
//! The way back is any sender of the other side (a tokio channel, say), carried in the message.
//!
//! No wake-up is lost: a sender queues, then marks *notified*. The ring marks *asleep* only from
//! *awake*, so a mark made before makes it stay up, and a mark made after finds *asleep* and writes
//! the eventfd, which the ring is reading.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use crate::sys;

const AWAKE: u32 = 0;
const NOTIFIED: u32 = 1;
const ASLEEP: u32 = 2;

/// Wakes one reactor. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Waker {
    inner: Arc<Inner>,
}

struct Inner {
    state: AtomicU32,
    event: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> std::io::Result<Self> {
        let event = sys::eventfd()?;
        Ok(Self {
            inner: Arc::new(Inner {
                state: AtomicU32::new(AWAKE),
                event,
            }),
        })
    }

    /// Makes the reactor's current or next turn end with [`crate::Event::Mail`].
    pub fn wake(&self) {
        // AcqRel: what was queued before is seen by the ring that finds the mark.
        if self.inner.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP {
            sys::eventfd_signal(self.inner.event.as_fd());
        }
    }

    /// The ring wants to sleep; `false`: there is mail, stay up.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.inner
            .state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The ring is up; whether there is mail.
    pub(crate) fn get_up(&self) -> bool {
        self.inner.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }

    pub(crate) fn event_fd(&self) -> RawFd {
        self.inner.event.as_raw_fd()
    }
}

/// The sending end.
pub struct MailSender<T> {
    queue: SyncSender<T>,
    waker: Waker,
}

impl<T> Clone for MailSender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            waker: self.waker.clone(),
        }
    }
}

/// The ring's end; drain it on every [`crate::Event::Mail`].
pub struct MailReceiver<T> {
    queue: Receiver<T>,
}

/// A queue of at most `capacity` messages into the reactor of `waker`.
pub fn mailbox<T>(capacity: usize, waker: Waker) -> (MailSender<T>, MailReceiver<T>) {
    assert!(capacity > 0, "a mailbox holds at least one message");
    let (send, receive) = mpsc::sync_channel(capacity);
    (
        MailSender { queue: send, waker },
        MailReceiver { queue: receive },
    )
}

impl<T> MailSender<T> {
    /// Queues a message and wakes the ring if it sleeps.
    ///
    /// # Errors
    /// The queue is full or the receiver gone; the message comes back.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(message)?;
        self.waker.wake();
        Ok(())
    }
}

impl<T> MailReceiver<T> {
    /// The next message, if any is queued.
    pub fn take(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }
}
