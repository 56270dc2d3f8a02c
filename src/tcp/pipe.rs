//! Pipes, through which the kernel moves a stream from one socket to another without showing it to us (splice(2)).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use log::debug;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The pipes that the process may have.
pub struct Pipes {
    places: Arc<Semaphore>,
}

/// An empty pipe, for one way of one connection.
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    _place: OwnedSemaphorePermit,
}

/// What came of waiting for a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// So many bytes were passed on.
    Bytes(usize),
    /// None came for a while: others may have more use for the pipe.
    Silence,
    /// The stream is at its end.
    End,
}

impl Pipes {
    /// None is open yet.
    #[allow(clippy::new_without_default)] // two of these would be twice the bound
    pub fn new() -> Self {
        Pipes { places: Arc::new(Semaphore::new(MOST)) }
    }

    /// A pipe, unless there are too many.
    pub(super) fn open(&self) -> Option<Pipe> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let opened = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)
            .and_then(|(out, into)| fcntl_setpipe_size(&into, CAPACITY).map(|_| (out, into)));
        match opened {
            Ok((out, into)) => Some(Pipe { out, into, _place: place }),
            // Out of files, or of what the kernel lets one user have in pipes.
            Err(error) => {
                debug!("no pipe: {error}");
                None
            }
        }
    }
}

impl Pipe {
    /// Waits for a piece and passes all of it on. After an error bytes may be left in the pipe: then both sides must end.
    ///
    /// # Errors
    /// When a side is broken.
    pub(super) async fn pass(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<Passed> {
        // The pipe is empty, so "would block" speaks of the socket.
        let filling = std::future::poll_fn(|cx| {
            loop {
                ready!(from.poll_read_ready(cx))?;
                let moved = from.try_io(Interest::READABLE, || {
                    splice(from, None, &self.into, None, CAPACITY, FLAGS).map_err(io::Error::from)
                });
                match moved {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    moved => return Poll::Ready(moved),
                }
            }
        });
        let Ok(filled) = timeout(SILENCE, filling).await else { return Ok(Passed::Silence) };
        let filled = filled?;
        let mut left = filled;
        while left > 0 {
            // It is not empty, so "would block" speaks of the socket again.
            left -= std::future::poll_fn(|cx| {
                loop {
                    ready!(to.poll_write_ready(cx))?;
                    let moved = to.try_io(Interest::WRITABLE, || {
                        splice(&self.out, None, to, None, left, FLAGS).map_err(io::Error::from)
                    });
                    match moved {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        moved => return Poll::Ready(moved),
                    }
                }
            })
            .await?;
        }
        Ok(if filled == 0 { Passed::End } else { Passed::Bytes(filled) })
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
/// What one pipe holds. A larger one saves calls; the kernel allows an ordinary user 1 MiB (pipe(7)).
const CAPACITY: usize = 256 * 1024;
/// With `CAPACITY`, 50 MiB: the kernel allows all pipes of an ordinary user 64 MiB (pipe(7), pipe-user-pages-soft).
const MOST: usize = 200;
/// How long a stream may pause and keep its pipe.
const SILENCE: Duration = Duration::from_secs(1);
