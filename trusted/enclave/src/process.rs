//! What the operating system knows of this process.

use rustix::time::{ClockId, clock_gettime};

/// Processor seconds so far, of all threads.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds since some moment, by a clock that only goes forward; for profiles.
pub(crate) fn clock_seconds() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Largest resident memory so far, in bytes; 0 where the system does not say.
pub(crate) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    kilobytes.and_then(|n| n.trim().parse::<u64>().ok()).map_or(0, |n| n * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_grow_with_use() {
        let (cpu, peak) = (cpu_seconds(), peak_bytes());
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
        assert_eq!(sum, 64 << 20);
        assert!(cpu_seconds() > cpu);
        assert!(peak_bytes() >= peak.max(64 << 20));
    }
}
