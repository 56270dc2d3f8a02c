//! The access log: one line a request, with its hops. Written by a thread of its own, off the hot path.

mod entry;
mod writer;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use crate::config::{self, AccessFormat, Clients};
use crate::trip::Trip;
pub use entry::Entry;
use writer::{Gathered, Sink};

/// Where lines go. When it is dropped, its thread writes what is waiting and ends; nobody waits for that but
/// [`AccessLog::flush`].
pub struct AccessLog {
    format: AccessFormat,
    clients: Clients,
    one_in: NonZeroU32,
    gathered: Arc<Gathered>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(config: &config::Log, dropped: IntCounter) -> anyhow::Result<Self> {
        let config::Access { format, ref output, sample_one_in: one_in } = config.access;
        let gathered = Arc::<Gathered>::default();
        if format != AccessFormat::Off {
            let (sink, source, lost) = (Sink::open(output)?, gathered.clone(), dropped.clone());
            let thread = std::thread::Builder::new().name("access-log".into());
            thread.spawn(move || source.write_to(sink, &lost))?;
        }
        Ok(AccessLog { format, clients: config.clients, one_in, gathered, dropped })
    }

    pub fn write(&self, entry: &Entry<'_>) {
        if self.format == AccessFormat::Off {
            return;
        }
        // Decided before anything is written: what is left out costs next to nothing.
        let Some(one_in) = sampled(entry.trip, entry.status, self.one_in, rand::random) else { return };
        let entry = Entry { client: self.clients.address(entry.client), ..*entry };
        let mut line = Vec::with_capacity(LINE);
        let written = match self.format {
            AccessFormat::Combined => entry.combined(&mut line),
            _ => entry.json((one_in > NonZeroU32::MIN).then_some(one_in), &mut line),
        };
        // invariant: a Vec takes all that is written to it, and an entry can always be told
        if written.is_err() || !self.gathered.enter(&line) {
            self.dropped.inc();
        }
    }

    /// Opens the file anew, after it was renamed; lines until now are written to the old one. A file that cannot be
    /// opened leaves the old one in use, and says why.
    pub fn reopen(&self) {
        self.gathered.reopen();
    }

    /// Waits until what was entered so far is written, or `patience` is over.
    pub fn flush(&self, patience: Duration) {
        if self.format != AccessFormat::Off {
            self.gathered.flush(patience);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // It may be dropped with a request, by a thread that has others to serve: a disk that hangs must not hold it up.
        self.gathered.close();
    }
}

/// How many requests a line stands for, if it is to be written; `random` is uniform.
fn sampled(trip: &Trip, status: u16, one_in: NonZeroU32, random: impl FnOnce() -> u32) -> Option<NonZeroU32> {
    if one_in == NonZeroU32::MIN || trip.went_wrong(status) {
        return Some(NonZeroU32::MIN);
    }
    (random() % one_in == 0).then_some(one_in)
}

/// Room for a usual line.
const LINE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_so_many_is_written_and_all_of_what_went_wrong() {
        let one = |one_in| NonZeroU32::new(one_in).unwrap();
        let never = || panic!("no die is cast where nothing is to be decided");
        let fine = Trip::default();
        assert_eq!(sampled(&fine, 200, one(1), never), Some(one(1)));
        assert_eq!(sampled(&fine, 404, one(10), never), Some(one(1)));
        assert_eq!(sampled(&Trip { aborted: Some("client"), ..Trip::default() }, 200, one(10), never), Some(one(1)));
        assert_eq!(sampled(&fine, 200, one(10), || 20), Some(one(10)));
        assert_eq!(sampled(&fine, 200, one(10), || 21), None);
        let written = (0..1000).filter(|random| sampled(&fine, 200, one(10), || *random).is_some()).count();
        assert_eq!(written, 100);
    }
}
