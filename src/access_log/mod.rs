//! The access log: one line a request, with its hops, and one a connection of a tcp listener. Written by a thread of its
//! own, off the hot path.

mod entry;
mod joined;
mod writer;

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use crate::config::{self, AccessFormat, Clients};
pub use entry::Entry;
pub use joined::{Ended, Joined};
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
        self.put(
            || entry.trip.went_wrong(entry.status),
            |format, one_in, line| {
                let entry = Entry { client: self.clients.address(entry.client), ..*entry };
                match format {
                    AccessFormat::Combined => entry.combined(line),
                    _ => entry.json(one_in, line),
                }
            },
        );
    }

    /// The same of a connection of a tcp listener.
    pub fn write_joined(&self, joined: &Joined<'_>) {
        self.put(
            || joined.went_wrong(),
            |format, one_in, line| {
                let joined = Joined { client: self.clients.address(joined.client), ..*joined };
                match format {
                    AccessFormat::Combined => joined.combined(line),
                    _ => joined.json(one_in, line),
                }
            },
        );
    }

    fn put(
        &self,
        went_wrong: impl FnOnce() -> bool,
        write: impl FnOnce(AccessFormat, Option<NonZeroU32>, &mut Vec<u8>) -> io::Result<()>,
    ) {
        if self.format == AccessFormat::Off {
            return;
        }
        // Decided before anything is written: what is left out costs next to nothing.
        let Some(one_in) = sampled(went_wrong, self.one_in, rand::random) else { return };
        let mut line = Vec::with_capacity(LINE);
        let written = write(self.format, (one_in > NonZeroU32::MIN).then_some(one_in), &mut line);
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
fn sampled(went_wrong: impl FnOnce() -> bool, one_in: NonZeroU32, random: impl FnOnce() -> u32) -> Option<NonZeroU32> {
    if one_in == NonZeroU32::MIN || went_wrong() {
        return Some(NonZeroU32::MIN);
    }
    (random() % one_in == 0).then_some(one_in)
}

/// Room for a usual line.
const LINE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trip::Trip;

    #[test]
    fn one_line_in_so_many_is_written_and_all_of_what_went_wrong() {
        let one = |one_in| NonZeroU32::new(one_in).unwrap();
        let never = || panic!("no die is cast where nothing is to be decided");
        let fine = || Trip::default().went_wrong(200);
        assert_eq!(sampled(fine, one(1), never), Some(one(1)));
        assert_eq!(sampled(|| Trip::default().went_wrong(404), one(10), never), Some(one(1)));
        let aborted = Trip { aborted: Some("client"), ..Trip::default() };
        assert_eq!(sampled(|| aborted.went_wrong(200), one(10), never), Some(one(1)));
        assert_eq!(sampled(fine, one(10), || 20), Some(one(10)));
        assert_eq!(sampled(fine, one(10), || 21), None);
        let written = (0..1000).filter(|random| sampled(fine, one(10), || *random).is_some()).count();
        assert_eq!(written, 100);
    }
}
