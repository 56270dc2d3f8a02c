//! Idle connections to one target, kept for the next request.
//!
//! Why not Pingora's pool: on several threads it drops a connection that is taken up again while the task
//! that watched it still lets go of it (one in ten, at the pace of one client), and it spawns such a task
//! per release. Here an idle connection is looked at when it is taken up, and by [`Idle::sweep`].

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

pub struct Idle {
    /// The one that was used last is at the end, and is taken first: the others may grow old and go.
    kept: Mutex<Vec<Kept>>,
    keepalive: Duration,
}

struct Kept {
    stream: Stream,
    address: SocketAddr,
    since: Instant,
}

/// Most connections that one target keeps.
const MOST: usize = 512;

impl Idle {
    pub fn new(keepalive: Duration) -> Self {
        Idle { kept: Mutex::default(), keepalive }
    }

    /// A connection to `address` that is still silent and open.
    pub fn take(&self, address: SocketAddr) -> Option<Stream> {
        loop {
            // One at a time, so that a dead one is closed outside the lock.
            let mut kept = self.kept().pop()?;
            if kept.address == address && kept.since.elapsed() < self.keepalive && is_silent(&mut kept.stream) {
                return Some(kept.stream);
            }
        }
    }

    pub fn put(&self, stream: Stream, address: SocketAddr) {
        let mut kept = self.kept();
        if kept.len() < MOST {
            kept.push(Kept { stream, address, since: Instant::now() });
        }
    }

    /// Closes what has grown old, and what the other side has closed or spoken on.
    pub fn sweep(&self) {
        let mut all = std::mem::take(&mut *self.kept());
        all.retain_mut(|kept| kept.since.elapsed() < self.keepalive && is_silent(&mut kept.stream));
        let mut kept = self.kept();
        all.append(&mut kept);
        *kept = all;
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a read would have to wait. Bytes that nobody asked for would be taken for the next answer's.
fn is_silent(stream: &mut Stream) -> bool {
    let mut byte = [0u8; 1];
    let mut byte = ReadBuf::new(&mut byte);
    // A task that has done much is told to wait by tokio, whatever there is to read.
    let reading = pin!(unconstrained(poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut byte))));
    reading.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}
