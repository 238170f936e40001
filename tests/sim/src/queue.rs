//! What will happen, in order of time; at one moment, in order of scheduling.

use lockstep_types::Nanos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The events to come. They lie still in their places; only the heap that orders them is moved about.
#[derive(Debug)]
pub struct EventQueue<E> {
    heap: BinaryHeap<Reverse<Entry>>,
    places: Vec<Option<E>>,
    free: Vec<usize>,
    scheduled: u64,
    now: Nanos,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entry {
    at: Nanos,
    order: u64,
    place: usize,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
            scheduled: 0,
            now: 0,
        }
    }
}

impl<E> EventQueue<E> {
    /// The time: that of the last event taken.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// How many events are to come.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Schedules an event; one in the past happens now.
    pub fn at(&mut self, at: Nanos, event: E) {
        self.scheduled += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(event);
                place
            }
            None => {
                self.places.push(Some(event));
                self.places.len() - 1
            }
        };
        self.heap.push(Reverse(Entry {
            at: at.max(self.now),
            order: self.scheduled,
            place,
        }));
    }

    /// Schedules an event after a while.
    pub fn after(&mut self, delay: Nanos, event: E) {
        self.at(self.now + delay, event);
    }

    /// Takes the next event; its time is now.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        self.free.push(entry.place);
        let event = self.places[entry.place].take();
        Some(event.expect("an entry names a place that is taken"))
    }

    /// When the next event is due.
    pub fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_keep_their_order() {
        let mut queue = EventQueue::default();
        queue.at(5, 'b');
        queue.at(3, 'a');
        queue.at(5, 'c');
        assert_eq!(
            [queue.pop(), queue.pop(), queue.pop()],
            [Some('a'), Some('b'), Some('c')]
        );
        assert_eq!(queue.now(), 5);
        queue.at(1, 'd');
        assert_eq!((queue.pop(), queue.now()), (Some('d'), 5));
    }
}
