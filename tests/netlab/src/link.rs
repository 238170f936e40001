//! What a test turns on a link while packets pass.

use crate::emulator::Shared;
use std::sync::Arc;
use std::time::Duration;

/// A way over a link, seen from the site that [`crate::Lab::link`] was given first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the first site to the second.
    Forth,
    /// From the second site to the first.
    Back,
    /// Both ways.
    Both,
}

/// The link between two sites.
#[derive(Clone, Debug)]
pub struct Link {
    pub(crate) shared: Arc<Shared>,
    /// Whether it was asked for the other way round than it was made.
    pub(crate) turned: bool,
}

/// Packets that came to a link in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Delivered.
    pub passed: u64,
    /// Lost to a cut, dice, or a full queue.
    pub dropped: u64,
}

/// How one direction treats its packets.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Weather {
    pub delay: Duration,
    pub jitter: Duration,
    pub reorder: bool,
    /// 0 to 1.
    pub loss: f64,
    /// Bits a second.
    pub bandwidth: Option<u64>,
    pub cut: bool,
}

impl Link {
    /// Time a packet takes, one way. A round trip takes both ways.
    pub fn set_delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |weather| weather.delay = delay);
    }

    /// Up to so much is added to each packet's delay, evenly spread. Packets stay in order unless
    /// `reorder` is set.
    pub fn set_jitter(&self, direction: Direction, jitter: Duration, reorder: bool) {
        self.change(direction, |weather| {
            (weather.jitter, weather.reorder) = (jitter, reorder)
        });
    }

    /// The share of packets lost, 0 to 1.
    ///
    /// # Panics
    /// If it is no share.
    pub fn set_loss(&self, direction: Direction, loss: f64) {
        assert!(
            (0.0..=1.0).contains(&loss),
            "a share of packets lies between 0 and 1: {loss}"
        );
        self.change(direction, |weather| weather.loss = loss);
    }

    /// Bits a second, and up to 200 ms of them wait; none is as fast as the machine.
    ///
    /// # Panics
    /// If it is 0: cut the link instead.
    pub fn set_bandwidth(&self, direction: Direction, bits: Option<u64>) {
        assert!(bits != Some(0), "a link without bandwidth is a cut one");
        self.change(direction, |weather| weather.bandwidth = bits);
    }

    /// Loses everything, what is under way too, until [`Self::heal`].
    pub fn cut(&self, direction: Direction) {
        self.change(direction, |weather| weather.cut = true);
    }

    /// Ends the cuts, of both directions; delay and the rest stay.
    pub fn heal(&self) {
        self.change(Direction::Both, |weather| weather.cut = false);
    }

    /// Packets so far. For [`Direction::Both`], of both together.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.ways(direction)
            .iter()
            .fold(Counts::default(), |sum, way| {
                let counts = self.shared.counts(*way);
                Counts {
                    passed: sum.passed + counts.passed,
                    dropped: sum.dropped + counts.dropped,
                }
            })
    }

    fn change(&self, direction: Direction, change: impl Fn(&mut Weather)) {
        self.shared.change(self.ways(direction), change);
    }

    /// Indices of the emulator's directions.
    fn ways(&self, direction: Direction) -> &'static [usize] {
        match (direction, self.turned) {
            (Direction::Both, _) => &[0, 1],
            (Direction::Forth, false) | (Direction::Back, true) => &[0],
            (Direction::Forth, true) | (Direction::Back, false) => &[1],
        }
    }
}
