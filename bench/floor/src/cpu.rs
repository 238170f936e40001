//! Processor time of processes, and where they run.

use std::io;

/// CPU time a process has used, in nanoseconds, all its threads together.
pub fn used_by(pid: u32) -> io::Result<u64> {
    // The kernel's own coding of "the CPU clock of process pid" (clock_getcpuclockid).
    let clock = (!(pid as libc::clockid_t) << 3) | 2;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable for the duration of the call.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPUs of the machine, whichever this process may use.
pub fn count() -> usize {
    // SAFETY: takes no pointer.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(0)
}

/// Binds this process (threads made later included) to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: all-zero is the empty set, and CPU_SET stays within it for a CPU below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= 8 * size_of_val(&set) {
            return Err(io::Error::other("no such CPU"));
        }
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: the pointer and size describe a live set.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn work_takes_time() {
        let before = super::used_by(std::process::id()).expect("ourselves");
        let mut sum = 0u64;
        while super::used_by(std::process::id()).expect("ourselves") < before + 5_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
        assert!(super::used_by(u32::MAX / 16).is_err(), "no such process");
    }
}
