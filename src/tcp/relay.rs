//! Bytes both ways between two sockets, until both ways have ended or one broke.
//!
//! Small pieces are read and written: a buffer is taken when there is something to read and given back when it is
//! written, so a connection that waits holds none. A stream (several full buffers in a row) goes through a pipe inside
//! the kernel until it pauses. Always the buffer would cost a stream half as much again; always the pipe would cost
//! small pieces an extra call each (decision 0016).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use log::debug;
use prometheus::IntCounter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use super::Pipes;
use super::pipe::Passed;
use crate::access_log::Ended;
use crate::edge;

/// One side of a joined connection. Closed before its streams came to their ends, it is reset, whoever closes it: set
/// beforehand, this holds when the process is killed too.
pub(super) struct Side(TcpStream);

impl Side {
    pub(super) fn new(tcp: TcpStream) -> Self {
        if let Err(error) = tcp.set_zero_linger() {
            debug!("SO_LINGER: {error}");
        }
        Side(tcp)
    }

    /// All was said both ways: what the kernel still has to send, it sends.
    fn finish(&self) {
        if let Err(error) = socket2::SockRef::from(&self.0).set_linger(None) {
            debug!("SO_LINGER: {error}");
        }
    }
}

/// What joins two sides.
pub(super) struct Relay<'a> {
    pipes: &'a Pipes,
    idle_timeout: Duration,
    began: Instant,
    /// When a byte was last passed on, in milliseconds since the beginning.
    moved: AtomicU64,
    /// Ways that have come to their end.
    ended: AtomicUsize,
    up: Count<'a>,
    down: Count<'a>,
}

/// The bytes of one way: of this connection, and of all that the listener had.
struct Count<'a> {
    here: AtomicU64,
    all: &'a IntCounter,
}

impl<'a> Relay<'a> {
    /// `received` counts what comes from the client, `sent` what goes there.
    pub(super) fn new(
        pipes: &'a Pipes,
        idle_timeout: Duration,
        received: &'a IntCounter,
        sent: &'a IntCounter,
    ) -> Self {
        let count = |all| Count { here: AtomicU64::new(0), all };
        Relay {
            pipes,
            idle_timeout,
            began: Instant::now(),
            moved: AtomicU64::new(0),
            ended: AtomicUsize::new(0),
            up: count(received),
            down: count(sent),
        }
    }

    /// Passes bytes on until each side has said that it is done.
    ///
    /// # Errors
    /// When a side broke, or nothing came either way for `idle_timeout`. Both sides are reset when they are dropped then.
    pub(super) async fn run(&self, client: &mut Side, node: &mut Side) -> io::Result<()> {
        let sides = [client.0.as_raw_fd(), node.0.as_raw_fd()];
        let (from_client, to_client) = client.0.split();
        let (from_node, to_node) = node.0.split();
        tokio::select! {
            biased;
            ended = self.way(from_client, to_node, &self.up) => ended?,
            ended = self.way(from_node, to_client, &self.down) => ended?,
            () = self.idle(sides) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came either way for too long")),
        }
        client.finish();
        node.finish();
        Ok(())
    }

    /// Bytes from the client, and bytes to it.
    pub(super) fn passed(&self) -> (u64, u64) {
        (self.up.here.load(Ordering::Relaxed), self.down.here.load(Ordering::Relaxed))
    }

    /// One way to its end. Returns when it is the second to end, or when a side breaks.
    async fn way(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, count: &Count<'_>) -> io::Result<()> {
        self.pass(&mut from, &mut to, count).await?;
        to.shutdown().await?;
        if self.ended.fetch_add(1, Ordering::Relaxed) == 1 {
            return Ok(());
        }
        // It has nothing more to say, but may still be reset, and the other side must know.
        from.as_ref().ready(Interest::ERROR).await?;
        Err(io::ErrorKind::ConnectionReset.into())
    }

    async fn pass(&self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, count: &Count<'_>) -> io::Result<()> {
        // Full buffers in a row; below zero, a pipe was not to be had.
        let mut full = 0_i32;
        loop {
            let read = copy_once(from, to).await?;
            if read == 0 {
                return Ok(());
            }
            self.saw(read, count);
            full = if read == BUFFER { full + 1 } else { full.min(0) };
            if full < STREAM {
                continue;
            }
            let Some(mut pipe) = self.pipes.open() else {
                full = -TRY_AGAIN;
                continue;
            };
            full = 0;
            loop {
                match pipe.pass(from.as_ref(), to.as_ref()).await? {
                    Passed::Bytes(passed) => {
                        self.saw(passed, count);
                        if passed < BUFFER {
                            break;
                        }
                    }
                    Passed::Silence => break,
                    Passed::End => return Ok(()),
                }
            }
        }
    }

    fn saw(&self, bytes: usize, count: &Count<'_>) {
        count.here.fetch_add(bytes as u64, Ordering::Relaxed);
        count.all.inc_by(bytes as u64);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Ends when nothing was passed on for `idle_timeout`, neither by us nor by the kernel: a slow side may take longer for
    /// what we gave it in one piece.
    async fn idle(&self, sides: [RawFd; 2]) {
        let mut before = [None; 2];
        let mut until = self.began + self.idle_timeout;
        loop {
            sleep_until(until).await;
            let due = self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + self.idle_timeout;
            if Instant::now() < due {
                before = [None; 2];
                until = due;
                continue;
            }
            let taking = sides.map(edge::taking);
            if taking == before {
                return;
            }
            before = taking;
            until = Instant::now() + self.idle_timeout;
        }
    }
}

/// Passes on what is there, at most a buffer; 0 at the end of the stream.
async fn copy_once(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<usize> {
    loop {
        std::future::poll_fn(|cx| from.as_ref().poll_read_ready(cx)).await?;
        let mut buffer = Vec::with_capacity(BUFFER);
        let read = std::future::poll_fn(|cx| {
            let read = pin!(from.read_buf(&mut buffer));
            Poll::Ready(read.poll(cx))
        })
        .await;
        // There may be nothing after all; then the wait is without a buffer.
        let Poll::Ready(read) = read else { continue };
        let read = read?;
        if read > 0 {
            to.write_all(&buffer).await?;
        }
        return Ok(read);
    }
}

/// What the end of [`Relay::run`] was.
pub(super) fn ended(result: &io::Result<()>) -> Ended {
    match result {
        Ok(()) => Ended::Closed,
        // The kernel's own has a number.
        Err(error) if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() => Ended::Idle,
        Err(_) => Ended::Broken,
    }
}

/// What is read at once. Two of these are all that a connection can hold on to, each while its other side does not take
/// it.
const BUFFER: usize = 16 * 1024;
/// Full buffers in a row that make a stream.
const STREAM: i32 = 2;
/// Full buffers until a pipe is asked for again after none was to be had.
const TRY_AGAIN: i32 = 1024;
