//! What the process takes of the machine, under the names that every Prometheus client library gives it.
//!
//! The `prometheus` crate's own collector counts CPU time in whole seconds, too coarse for a rate.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prometheus::{Counter, Gauge, IntGauge};
use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};

use super::catalog::Catalog;

pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    open_files: IntGauge,
    max_files: IntGauge,
    measuring: Mutex<()>,
}

impl Process {
    pub(super) fn new(catalog: &Catalog) -> anyhow::Result<Self> {
        let process = Process {
            cpu: catalog.add(Counter::new("process_cpu_seconds_total", "CPU time of the process, in all threads.")?)?,
            resident: catalog.add(IntGauge::new("process_resident_memory_bytes", "Resident memory.")?)?,
            open_files: catalog
                .add(IntGauge::new("process_open_fds", "Open file descriptors; each connection is one.")?)?,
            max_files: catalog.add(IntGauge::new("process_max_fds", "Most file descriptors that may be open.")?)?,
            measuring: Mutex::default(),
        };
        let start = catalog.add(Gauge::new(
            "process_start_time_seconds",
            "When the process began to count, as a Unix time: within a second of its start.",
        )?)?;
        start.set(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        Ok(process)
    }

    /// Looks now. What cannot be read stays as it was.
    pub(super) fn measure(&self) {
        let _one_at_a_time = self.measuring.lock().unwrap_or_else(PoisonError::into_inner);
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        if let Some(pages) = resident_pages() {
            set(&self.resident, pages.saturating_mul(page_size() as u64));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One of them is this folder.
            set(&self.open_files, (files.count() as u64).saturating_sub(1));
        }
        if let Ok((soft, _)) = rlimit::Resource::NOFILE.get() {
            set(&self.max_files, soft);
        }
    }
}

/// proc_pid_statm(5): size, resident, …, in pages.
fn resident_pages() -> Option<u64> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()
}
