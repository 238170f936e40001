//! The one clock of the data plane: CLOCK_BOOTTIME, which goes on while the machine sleeps, so
//! that a suspended node finds its leases expired (R13).

use lockstep_types::Nanos;

/// No deadline: sleep until something happens.
pub const NEVER: Nanos = Nanos::MAX;

/// Nanoseconds since boot, suspended time included.
pub fn boottime() -> Nanos {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid, writable timespec for the duration of the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    assert_eq!(done, 0, "every Linux since 2.6.39 has CLOCK_BOOTTIME");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_goes_back() {
        let mut last = super::boottime();
        for _ in 0..1000 {
            let now = super::boottime();
            assert!(now >= last);
            last = now;
        }
    }
}
