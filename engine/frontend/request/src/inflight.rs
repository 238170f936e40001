//! The requests handed up and not answered yet. A slab: no allocation per request once it has
//! grown to the limit, and a tag that is never reused while unanswered.

/// Entries by tag. A tag is (generation << 32 | slot), so that a completion given twice is found.
#[derive(Clone, Debug)]
pub struct InFlight<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> InFlight<T> {
    /// Keeps `entry` and names it.
    pub fn insert(&mut self, entry: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                entry: None,
            });
            u32::try_from(self.slots.len() - 1).expect("callers bound the requests in flight")
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(entry);
        self.len += 1;
        u64::from(place.generation) << 32 | u64::from(slot)
    }

    /// Takes the entry of `tag`. Panics if it was never given or was taken before: a request
    /// answered twice is a fault of the caller that must not reach a client.
    pub fn take(&mut self, tag: u64) -> T {
        let slot = tag as u32;
        let place = self
            .slots
            .get_mut(slot as usize)
            .expect("a tag this table gave");
        assert_eq!(
            u64::from(place.generation),
            tag >> 32,
            "a request answered twice"
        );
        let entry = place.entry.take().expect("a request answered twice");
        self.free.push(slot);
        self.len -= 1;
        entry
    }

    /// Unanswered requests.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all are answered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_fresh_and_slots_reused() {
        let mut table = InFlight::default();
        let (a, b) = (table.insert('a'), table.insert('b'));
        assert_eq!(table.take(a), 'a');
        let c = table.insert('c');
        assert_ne!(a, c);
        assert_eq!(a as u32, c as u32);
        assert_eq!((table.take(b), table.take(c)), ('b', 'c'));
        assert!(table.is_empty());
        assert_eq!(table.slots.len(), 2);
    }

    #[test]
    #[should_panic(expected = "answered twice")]
    fn a_second_answer_panics() {
        let mut table = InFlight::default();
        let tag = table.insert(());
        table.take(tag);
        table.insert(());
        table.take(tag);
    }
}
