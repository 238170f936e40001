//! What a reactor counts, for metrics and for tests that hold copies and syscalls to their budget.

/// Totals since the reactor began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// `io_uring_enter` calls; at most one a turn unless the submission queue overflowed.
    pub enters: u64,
    /// Requests for a pool buffer that found none.
    pub pool_exhausted: u64,
    /// Disk writes issued, durable or not.
    pub disk_writes: u64,
    /// Disk reads issued.
    pub disk_reads: u64,
    /// Disk transfers that went on after a short result.
    pub disk_continued: u64,
    /// Disk requests that used the registered buffers.
    pub disk_fixed: u64,
    /// Bytes copied because a part was unaligned for O_DIRECT.
    pub bounced_bytes: u64,
    /// Runs of parts copied for that.
    pub bounced_runs: u64,
    /// `sendmsg` operations.
    pub sends: u64,
    /// `recv` operations.
    pub receives: u64,
    /// Bytes that went out on sockets.
    pub sent_bytes: u64,
    /// Bytes that came in on sockets.
    pub received_bytes: u64,
    /// Payload bytes that went through a staging buffer into their aligned buffer.
    pub copied_payload_bytes: u64,
    /// Payload bytes that the kernel put into their aligned buffer itself.
    pub direct_payload_bytes: u64,
    /// Output buffers for encryption taken from the heap because the pool had none.
    pub heap_outputs: u64,
    /// Times a connection waited for a pool buffer before it could receive on.
    pub receive_stalls: u64,
    /// Connections turned away at the limit.
    pub refused_connections: u64,
    /// Failed accepts other than by the peer's fault.
    pub accept_errors: u64,
}
