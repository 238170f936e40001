//! The story of a run for a reader, and its hash for the determinism check.

use lockstep_types::Nanos;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Collects what happened. The hash always, the words only when asked.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: StreamHasher,
    events: u64,
    /// Print each line as it comes.
    aloud: bool,
    /// The last lines, kept when not aloud, for the report of a failure.
    wanted: bool,
    lines: std::collections::VecDeque<String>,
    /// The hash after each event, kept only for runs that are compared.
    steps: Option<Vec<u64>>,
}

const KEPT_LINES: usize = 400;

impl Trace {
    /// Hash only.
    pub fn quiet() -> Self {
        Self::default()
    }

    /// Prints the story.
    pub fn aloud() -> Self {
        Self {
            aloud: true,
            wanted: true,
            ..Self::default()
        }
    }

    /// Keeps the last lines.
    pub fn remembering() -> Self {
        Self {
            wanted: true,
            ..Self::default()
        }
    }

    /// Keeps a hash an event, to say where two runs part.
    pub fn comparing() -> Self {
        Self {
            steps: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Whether words are wanted: making them is dear.
    pub fn wants_words(&self) -> bool {
        self.wanted
    }

    /// One line of the story.
    pub fn say(&mut self, now: Nanos, who: &str, what: fmt::Arguments<'_>) {
        if !self.wanted {
            return;
        }
        let line = format!(
            "{:>5}.{:06} {who:<8} {what}",
            now / 1_000_000_000,
            now / 1000 % 1_000_000
        );
        if self.aloud {
            crate::say!("{line}");
            return;
        }
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// An event: mixed into the hash of the run.
    pub fn event(&mut self, event: &impl Hash) {
        event.hash(&mut self.hasher);
        self.events += 1;
        if let Some(steps) = &mut self.steps {
            steps.push(self.hasher.finish());
        }
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The hashes after each event.
    pub fn steps(&self) -> &[u64] {
        self.steps.as_deref().unwrap_or_default()
    }

    /// The lines kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

/// A quick hash with no random key: the same on every run and machine of one word size.
#[derive(Clone, Debug, Default)]
pub struct StreamHasher(u64);

/// What a disk writes at once.
const SECTOR: usize = 512;

impl StreamHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.len() >= SECTOR {
            // Whoever wrote a sector stamped its beginning; the rest of payloads would take a tenth of
            // the time of a run.
            for sector in bytes.chunks(SECTOR) {
                let (first, _) = sector.split_at(sector.len().min(16));
                self.write(first);
            }
            return self.mix(bytes.len() as u64);
        }
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        for byte in chunks.remainder() {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }
}

/// The quick hash of a value.
pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = StreamHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}
