//! A tape: a body that one request has asked for and any number read, as it comes and from wherever they like.
//!
//! It is in memory, where it has taken its whole length from a budget; or it is the file that is being written to the
//! disk. Either way no reader keeps another waiting, and none costs memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::watch;

use crate::disk::Partial;
use crate::fallback::Failure;

pub struct Tape {
    /// Of the whole answer, as it goes to clients.
    fields: HeaderMap,
    length: u64,
    body: Body,
    end: watch::Sender<Option<Result<(), Failure>>>,
    readers: Mutex<Readers>,
}

enum Body {
    Memory { pieces: Mutex<Pieces>, grown: watch::Sender<u64>, _share: Share },
    Disk(Partial),
}

#[derive(Default)]
struct Pieces {
    /// Each with where it ends.
    all: Vec<(u64, Bytes)>,
}

#[derive(Default)]
struct Readers {
    count: usize,
    /// Nobody read it any more, so it was given up.
    closed: bool,
}

/// Reads a tape.
pub struct Reader {
    tape: Arc<Tape>,
    end: watch::Receiver<Option<Result<(), Failure>>>,
    cursor: Cursor,
}

/// What a reader waits for.
enum Cursor {
    Memory(watch::Receiver<u64>),
    Disk(Partial),
}

/// Memory that tapes may take.
#[derive(Clone)]
pub struct Room {
    left: Arc<AtomicU64>,
    /// Most for one tape.
    most: u64,
}

/// A part of the room, given back when dropped.
pub struct Share {
    left: Arc<AtomicU64>,
    bytes: u64,
}

/// A part that begins so far behind what is there is waited for.
const NEAR: u64 = 1024 * 1024;
/// No single body may take more than this part of the room.
const PART: u64 = 4;

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: u64) -> Room {
        Room { left: Arc::new(AtomicU64::new(bytes)), most: bytes / PART }
    }

    /// `None` when there is not so much left, or it is too much for one.
    pub fn take(&self, bytes: u64) -> Option<Share> {
        if bytes > self.most {
            return None;
        }
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.ok().map(|_| Share { left: self.left.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Tape {
    /// A tape in memory.
    pub fn in_memory(fields: HeaderMap, length: u64, share: Share) -> Arc<Tape> {
        let body = Body::Memory { pieces: Mutex::default(), grown: watch::Sender::new(0), _share: share };
        Tape::new(fields, length, body)
    }

    /// A tape that is read from the file that is being written.
    pub fn on_disk(fields: HeaderMap, length: u64, partial: Partial) -> Arc<Tape> {
        Tape::new(fields, length, Body::Disk(partial))
    }

    fn new(fields: HeaderMap, length: u64, body: Body) -> Arc<Tape> {
        Arc::new(Tape { fields, length, body, end: watch::Sender::new(None), readers: Mutex::default() })
    }

    /// `None` when it was given up.
    pub fn read(self: &Arc<Self>) -> Option<Reader> {
        let mut readers = self.readers();
        if readers.closed {
            return None;
        }
        readers.count += 1;
        let cursor = match &self.body {
            Body::Memory { grown, .. } => Cursor::Memory(grown.subscribe()),
            Body::Disk(partial) => Cursor::Disk(partial.clone()),
        };
        Some(Reader { tape: self.clone(), end: self.end.subscribe(), cursor })
    }

    /// Gives it up if nobody reads it; from then on nobody can.
    pub fn close_unread(&self) -> bool {
        let mut readers = self.readers();
        readers.closed = readers.count == 0;
        readers.closed
    }

    pub fn fields(&self) -> &HeaderMap {
        &self.fields
    }

    /// Bytes of the whole body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether the bytes from `offset` on are there, or soon will be. `None`: from somewhere near the end.
    pub fn is_near(&self, offset: Option<u64>) -> bool {
        let there = match &self.body {
            Body::Memory { grown, .. } => *grown.borrow(),
            Body::Disk(partial) => partial.written(),
        };
        offset.unwrap_or(self.length) <= there + NEAR
    }

    /// What is there, if it is in memory.
    pub fn pieces(&self) -> Vec<Bytes> {
        match &self.body {
            Body::Memory { pieces, .. } => {
                let pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
                pieces.all.iter().map(|(_, piece)| piece.clone()).collect()
            }
            Body::Disk(_) => Vec::new(),
        }
    }

    /// What is in memory from `offset` to the end of its piece.
    fn at(&self, offset: u64) -> Bytes {
        match &self.body {
            Body::Memory { pieces, .. } => {
                pieces.lock().unwrap_or_else(PoisonError::into_inner).at(offset).unwrap_or_default()
            }
            Body::Disk(_) => Bytes::new(),
        }
    }

    /// Adds a piece. On a tape on the disk that is the writer's business.
    pub fn push(&self, piece: &[u8]) {
        if let Body::Memory { pieces, grown, .. } = &self.body {
            let piece = Bytes::copy_from_slice(piece);
            let mut pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
            let end = pieces.end() + piece.len() as u64;
            pieces.all.push((end, piece));
            drop(pieces);
            grown.send_replace(end);
        }
    }

    /// The body is there, or will not come.
    pub fn end(&self, result: Result<(), Failure>) {
        self.end.send_replace(Some(result));
    }

    pub fn is_on_disk(&self) -> bool {
        matches!(self.body, Body::Disk(_))
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pieces {
    fn end(&self) -> u64 {
        self.all.last().map_or(0, |(end, _)| *end)
    }

    /// From `offset` to the end of its piece.
    fn at(&self, offset: u64) -> Option<Bytes> {
        let (end, piece) = self.all.get(self.all.partition_point(|(end, _)| *end <= offset))?;
        let from = piece.len() - usize::try_from(end - offset).ok()?;
        Some(piece.slice(from..))
    }
}

impl Reader {
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The bytes from `offset` on, at most `most`, as soon as there are any; none at the end of the body.
    ///
    /// # Errors
    /// When the body broke off before.
    pub async fn read_at(&mut self, offset: u64, most: usize) -> Result<Bytes, Failure> {
        loop {
            // Before the look: what came before the end is there.
            let ended = *self.end.borrow_and_update();
            let mut bytes = match &mut self.cursor {
                Cursor::Memory(grown) => {
                    grown.mark_unchanged();
                    self.tape.at(offset)
                }
                Cursor::Disk(partial) => {
                    partial.read_at(offset, most).await.map_err(|_| Failure::HttpResponseIncomplete)?
                }
            };
            if !bytes.is_empty() {
                bytes.truncate(most);
                return Ok(bytes);
            }
            match ended {
                Some(Ok(())) => return Ok(Bytes::new()),
                Some(Err(failure)) => return Err(failure),
                None => {}
            }
            // The senders are in the tape, which is held here.
            match &mut self.cursor {
                Cursor::Memory(grown) => tokio::select! { _ = grown.changed() => {}, _ = self.end.changed() => {} },
                Cursor::Disk(partial) => tokio::select! { () = partial.grown() => {}, _ = self.end.changed() => {} },
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tape.readers().count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(tape: &Arc<Tape>, from: u64) -> Result<Vec<u8>, Failure> {
        let mut reader = tape.read().unwrap();
        let mut bytes = Vec::new();
        loop {
            let piece = reader.read_at(from + bytes.len() as u64, 3).await?;
            if piece.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&piece);
        }
    }

    #[tokio::test]
    async fn readers_come_early_late_and_in_the_middle() {
        let tape = Tape::in_memory(HeaderMap::new(), 10, Room::new(40).take(10).unwrap());
        let early: Vec<_> = [0, 4, 9]
            .into_iter()
            .map(|from| {
                let tape = tape.clone();
                tokio::spawn(async move { read(&tape, from).await })
            })
            .collect();
        for piece in ["01234", "5", "6789"] {
            tape.push(piece.as_bytes());
            tokio::task::yield_now().await;
        }
        tape.end(Ok(()));
        let expected: [&[u8]; 3] = [b"0123456789", b"456789", b"9"];
        for (reader, expected) in early.into_iter().zip(expected) {
            assert_eq!(reader.await.unwrap().unwrap(), expected);
        }
        assert_eq!(read(&tape, 3).await.unwrap(), b"3456789");
    }

    #[tokio::test]
    async fn a_body_that_broke_off_is_not_whole() {
        let tape = Tape::in_memory(HeaderMap::new(), 10, Room::new(40).take(10).unwrap());
        tape.push(b"0123");
        tape.end(Err(Failure::HttpResponseIncomplete));
        let mut reader = tape.read().unwrap();
        assert_eq!(reader.read_at(0, 9).await.unwrap(), "0123", "what came is given");
        assert_eq!(reader.read_at(4, 9).await, Err(Failure::HttpResponseIncomplete));
    }

    #[test]
    fn memory_has_a_bound_and_comes_back() {
        let room = Room::new(100);
        assert!(room.take(26).is_none(), "too much for one");
        let shares: Vec<_> = (0..4).map(|_| room.take(25).unwrap()).collect();
        assert!(room.take(1).is_none());
        drop(shares);
        assert!(room.take(25).is_some());
    }

    #[test]
    fn what_nobody_reads_is_given_up() {
        let tape = Tape::in_memory(HeaderMap::new(), 1, Room::new(40).take(1).unwrap());
        let reader = tape.read().unwrap();
        assert!(!tape.close_unread());
        drop(reader);
        assert!(tape.close_unread());
        assert!(tape.read().is_none());
    }
}
