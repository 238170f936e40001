//! What every measurement under `bench/` shares: processor time and bytes written of
//! processes, and latencies as figures.

pub mod cpu;
pub mod disk;
pub mod report;
