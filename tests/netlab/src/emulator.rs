//! The packets of one link: a thread reads them from a TUN device in either site, holds each as long
//! as its direction says, and writes it to the other.

use crate::link::{Counts, Weather};
use crate::sys;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes in a packet at most. Large, so that the emulator's own cost is small beside what is tested.
pub const MTU: usize = 9000;
/// How much waits for bandwidth before packets are dropped, as in a router's buffer.
const LONGEST_QUEUE: Duration = Duration::from_millis(200);
/// Bytes under way in one direction, however long the delay.
const MOST_UNDER_WAY: usize = 64 << 20;
/// Packets taken from one side before the other has its turn.
const TURN: usize = 64;

/// What the thread and the handles of a link share.
#[derive(Debug)]
pub struct Shared {
    ways: Mutex<[(Weather, Counts); 2]>,
}

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    pub shared: Arc<Shared>,
    /// Closing it tells the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    pub fn change(&self, ways: &[usize], change: impl Fn(&mut Weather)) {
        let mut all = self.lock();
        ways.iter().for_each(|way| change(&mut all[*way].0));
    }

    pub fn counts(&self, way: usize) -> Counts {
        self.lock()[way].1
    }

    fn lock(&self) -> MutexGuard<'_, [(Weather, Counts); 2]> {
        self.ways.lock().expect("nothing panics under this lock")
    }
}

impl Emulator {
    /// Starts between two TUN devices. Way 0 leads from the first to the second.
    pub fn start(devices: [File; 2]) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            ways: Mutex::default(),
        });
        let (stop, stopped) = UnixStream::pair()?;
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("netlab-link".into())
            .spawn(move || {
                let mut wire = Wire::new(devices, of_thread);
                wire.run(stopped.as_raw_fd())
                    .expect("TUN devices stay readable while they are open");
            })?;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
            && !std::thread::panicking()
        {
            panic!("the emulator of a link panicked; its words are above");
        }
    }
}

struct Wire {
    devices: [File; 2],
    ways: [Way; 2],
    shared: Arc<Shared>,
    dice: Dice,
}

/// Packets under way in one direction.
#[derive(Default)]
struct Way {
    queue: BinaryHeap<Reverse<Packet>>,
    bytes: usize,
    /// Packets that ever entered: breaks ties of the clock in order.
    entered: u64,
    /// When the line is free again, where there is a bandwidth.
    free_at: Option<Instant>,
    last_due: Option<Instant>,
    counts: Counts,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    number: u64,
    bytes: Vec<u8>,
}

impl Wire {
    fn new(devices: [File; 2], shared: Arc<Shared>) -> Self {
        Self {
            devices,
            ways: Default::default(),
            shared,
            dice: Dice(0x10c4_57e9),
        }
    }

    fn run(&mut self, stop: RawFd) -> io::Result<()> {
        sys::sharpen_timers()?;
        let readable = [
            self.devices[0].as_raw_fd(),
            self.devices[1].as_raw_fd(),
            stop,
        ];
        let mut buffer = vec![0; MTU];
        loop {
            let due = self.ways.iter().filter_map(Way::next_due).min();
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            if timeout != Some(Duration::ZERO) {
                sys::wait_readable(&readable, timeout)?;
            }
            if sys::is_closed(stop)? {
                return Ok(());
            }
            let weather = self.shared.lock().map(|(weather, _)| weather);
            for (way, weather) in weather.iter().enumerate() {
                self.take_in(way, weather, &mut buffer)?;
                self.give_out(way, weather);
            }
            let counts = [self.ways[0].counts, self.ways[1].counts];
            let mut shared = self.shared.lock();
            (shared[0].1, shared[1].1) = (counts[0], counts[1]);
        }
    }

    fn take_in(&mut self, way: usize, weather: &Weather, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..TURN {
            let length = match self.devices[way].read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // EIO or EBADFD: the site's end of it is down just now.
                Err(error)
                    if [Some(libc::EIO), Some(libc::EBADFD)].contains(&error.raw_os_error()) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let packet = &buffer[..length];
            // The site's kernel also says things of its own in IPv6; they are nobody's traffic.
            if packet.first().is_none_or(|first| first >> 4 != 4) {
                continue;
            }
            self.ways[way].enter(packet, weather, &mut self.dice, Instant::now());
        }
        Ok(())
    }

    fn give_out(&mut self, way: usize, weather: &Weather) {
        if weather.cut {
            self.ways[way].lose_all();
            return;
        }
        let now = Instant::now();
        while let Some(packet) = self.ways[way].leave(now) {
            // A device that is down or full loses the packet, as a wire does.
            let counts = &mut self.ways[way].counts;
            match self.devices[1 - way].write_all(&packet.bytes) {
                Ok(()) => counts.passed += 1,
                Err(_) => counts.dropped += 1,
            }
        }
    }
}

impl Way {
    fn enter(&mut self, packet: &[u8], weather: &Weather, dice: &mut Dice, now: Instant) {
        if weather.cut || dice.share() < weather.loss || self.bytes + packet.len() > MOST_UNDER_WAY
        {
            self.counts.dropped += 1;
            return;
        }
        let mut sent = now;
        if let Some(bandwidth) = weather.bandwidth {
            let start = self.free_at.map_or(now, |free| free.max(now));
            if start - now > LONGEST_QUEUE {
                self.counts.dropped += 1;
                return;
            }
            sent = start + Duration::from_secs_f64(packet.len() as f64 * 8.0 / bandwidth as f64);
            self.free_at = Some(sent);
        }
        let mut due = sent + weather.delay + weather.jitter.mul_f64(dice.share());
        if !weather.reorder {
            due = self.last_due.map_or(due, |last| last.max(due));
        }
        self.last_due = Some(due);
        self.entered += 1;
        self.bytes += packet.len();
        self.queue.push(Reverse(Packet {
            due,
            number: self.entered,
            bytes: packet.to_vec(),
        }));
    }

    fn next_due(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse(packet)| packet.due)
    }

    fn leave(&mut self, now: Instant) -> Option<Packet> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(packet) = self.queue.pop()?;
        self.bytes -= packet.bytes.len();
        Some(packet)
    }

    fn lose_all(&mut self) {
        self.counts.dropped += self.queue.len() as u64;
        self.queue.clear();
        (self.bytes, self.free_at, self.last_due) = (0, None, None);
    }
}

/// SplitMix64: which packets are lost does not matter, how many does.
struct Dice(u64);

impl Dice {
    /// 0 to 1, without 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn dues(weather: Weather, packets: usize) -> Vec<Duration> {
        let (mut way, mut dice, now) = (Way::default(), Dice(1), Instant::now());
        for _ in 0..packets {
            way.enter(&[0x45; 1000], &weather, &mut dice, now);
        }
        let later = now + Duration::from_secs(60);
        std::iter::from_fn(|| way.leave(later))
            .map(|packet| packet.due - now)
            .collect()
    }

    #[test]
    fn delay_is_added_and_bandwidth_spaces() {
        let delay = milliseconds(5);
        assert_eq!(
            dues(
                Weather {
                    delay,
                    ..Weather::default()
                },
                2
            ),
            [delay, delay]
        );
        let slow = Weather {
            delay,
            bandwidth: Some(8_000_000),
            ..Weather::default()
        };
        assert_eq!(
            dues(slow, 3),
            [milliseconds(6), milliseconds(7), milliseconds(8)]
        );
        assert_eq!(dues(slow, 1000).len(), 201, "the queue holds 200 ms");
    }

    #[test]
    fn jitter_keeps_order_unless_told_otherwise() {
        let jitter = Weather {
            jitter: milliseconds(9),
            ..Weather::default()
        };
        let numbers = |weather| {
            let (mut way, mut dice, now) = (Way::default(), Dice(1), Instant::now());
            (0..100).for_each(|_| way.enter(&[0x45; 100], &weather, &mut dice, now));
            let later = now + Duration::from_secs(1);
            std::iter::from_fn(|| way.leave(later))
                .map(|packet| packet.number)
                .collect::<Vec<_>>()
        };
        assert!(numbers(jitter).is_sorted());
        let reordered = numbers(Weather {
            reorder: true,
            ..jitter
        });
        assert_eq!(reordered.len(), 100);
        assert!(!reordered.is_sorted());
    }

    #[test]
    fn loss_is_about_as_asked_and_a_cut_loses_all() {
        let kept = dues(
            Weather {
                loss: 0.25,
                ..Weather::default()
            },
            4000,
        )
        .len();
        assert!(
            (2900..3100).contains(&kept),
            "{kept} of 4000 kept at a quarter lost"
        );
        assert_eq!(
            dues(
                Weather {
                    cut: true,
                    ..Weather::default()
                },
                9
            ),
            []
        );
    }
}
