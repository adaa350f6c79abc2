//! The resources of the process.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard limit and returns it.
pub fn raise_file_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If this fails, the old limit remains and is what we report.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of processors available to this process: by affinity and by the quota of its control group.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The maximum number of open files of this process.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of open descriptors of this process, if the system reports it.
pub fn open_files() -> Option<u64> {
    std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64)
}

/// The resource usage and start time of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in user space and in the kernel.
    pub cpu: Duration,
    /// When the process was started, since system boot.
    pub started: Duration,
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

/// Processor time that the calling thread has spent.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// The resource usage of this process, if the system reports it.
pub fn usage() -> Option<Usage> {
    let pages = rustix::param::page_size() as u64;
    usage_of(&std::fs::read_to_string("/proc/self/stat").ok()?, ticks(), pages)
}

/// When the system was booted, since the Unix epoch, if it reports it.
pub fn booted() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

fn ticks() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Parses a line of `/proc/PID/stat`. Source: proc(5).
fn usage_of(stat: &str, ticks: u64, page: u64) -> Option<Usage> {
    // The second field is the name, in parentheses, and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let time = |count: u64| {
        let nanos = u128::from(count) * 1_000_000_000 / u128::from(ticks);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    Some(Usage {
        cpu: time(field(14)?.saturating_add(field(15)?)),
        started: time(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)?.saturating_mul(page),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_system_is_read_whatever_the_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 1234 8192 5 99\n";
        let used = usage_of(stat, 100, 4096).unwrap();
        assert_eq!(used.cpu, Duration::from_secs(2));
        assert_eq!(used.started, Duration::from_millis(12_340));
        assert_eq!((used.virtual_bytes, used.resident_bytes), (8192, 20_480));
        assert_eq!(usage_of("7 (a) S 1", 100, 4096), None);
        assert!(usage().is_some_and(|usage| usage.resident_bytes > 0));
    }
}
