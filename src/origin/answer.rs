//! An answer that has a head and gives its body piece by piece, wherever it comes from.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::live::Live;
use super::s3::S3Origin;
use super::tape::Reader;
use super::{Ask, Piece};
use crate::conditional::{Selected, select};
use crate::disk::Object;
use crate::fallback::Failure;

/// Most bytes that are read from the disk at once.
const READ: usize = 256 * 1024;

pub enum Answer {
    /// From a target, as it comes.
    Live(Box<Live>),
    /// Of a file that is held here.
    Held(Box<Held>),
}

/// What a request is to be given of a file that is held here: on the disk, in memory, or on its way.
pub struct Held {
    status: u16,
    fields: HeaderMap,
    body: Body,
    /// What of the file is still to be given.
    left: Range<u64>,
    source: Source,
}

enum Body {
    Empty,
    Object(Object),
    Tape(Reader),
    /// From the source, because the disk failed on the way.
    Live(Box<Live>),
}

/// Where the rest of a file can be had when what is held of it cannot be read.
#[derive(Clone)]
pub struct Source {
    pub s3: Arc<S3Origin>,
    pub key: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        match self {
            Answer::Live(live) => live.status(),
            Answer::Held(held) => held.status,
        }
    }

    pub fn fields(&self) -> &HeaderMap {
        match self {
            Answer::Live(live) => &live.head().headers,
            Answer::Held(held) => &held.fields,
        }
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// `HttpResponseIncomplete` when the body ends short or its framing breaks, `HttpResponseTimeout` after
    /// a silence of `idle`.
    pub async fn next_piece(&mut self, idle: Duration) -> Result<Option<Piece<'_>>, Failure> {
        match self {
            Answer::Live(live) => Ok(live.next_piece(idle).await?.map(Piece::Read)),
            Answer::Held(held) => Ok(held.next_piece(idle).await?.map(Piece::Shared)),
        }
    }

    /// The next piece of the body, if it is here already. What is held here comes in large pieces, and is not asked so.
    pub fn piece_at_hand(&mut self) -> Option<Result<Option<Piece<'_>>, Failure>> {
        match self {
            Answer::Live(live) => Some(live.piece_at_hand()?.map(|piece| piece.map(Piece::Read))),
            Answer::Held(_) => None,
        }
    }

    /// The length that the head announces.
    pub fn announced(&self) -> Option<usize> {
        self.fields().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Gives the connection back after the body was read to its end; one that is not reusable is closed.
    pub async fn finish(self) {
        match self {
            Answer::Live(live) => live.finish().await,
            Answer::Held(held) => {
                if let Body::Live(live) = held.body {
                    live.finish().await;
                }
            }
        }
    }

    /// Lets the answer go unserved.
    pub async fn discard(self) {
        if let Answer::Live(live) = self {
            live.discard().await;
        }
    }
}

impl Held {
    /// What `ask` is to be given of an object on the disk, whose `fields` say what it is.
    pub fn of_object(ask: &Ask<'_>, object: Object, fields: HeaderMap, age: Duration, source: Source) -> Held {
        let length = object.length();
        let mut held = Held::of(ask, fields, length, Body::Object(object), source);
        held.fields.insert(header::AGE, HeaderValue::from(age.as_secs()));
        held
    }

    /// What `ask` is to be given of a file that is on its way here.
    pub fn of_tape(ask: &Ask<'_>, reader: Reader, source: Source) -> Held {
        let (fields, length) = (reader.tape().fields().clone(), reader.tape().length());
        Held::of(ask, fields, length, Body::Tape(reader), source)
    }

    fn of(ask: &Ask<'_>, mut fields: HeaderMap, length: u64, body: Body, source: Source) -> Held {
        let is_get = *ask.method == http::Method::GET;
        let selected = select(is_get, ask.for_store, &fields, length);
        let mut left = 0..0;
        let mut span = |range: String| {
            // invariant: digits and `bytes`
            let range = HeaderValue::from_str(&range).expect("a range is a valid value");
            fields.insert(header::CONTENT_RANGE, range);
        };
        match &selected {
            Selected::Whole => left = 0..length,
            Selected::Part(part) => {
                span(format!("bytes {}-{}/{length}", part.start, part.end - 1));
                left = part.clone();
            }
            Selected::Unsatisfiable => span(format!("bytes */{length}")),
            Selected::NotModified | Selected::Failed => {}
        }
        // The fields of the content are those of the file, which is not sent (RFC 9110 §15.4.5).
        if !matches!(selected, Selected::Whole | Selected::Part(_)) {
            OF_THE_CONTENT.iter().for_each(|name| drop(fields.remove(name)));
        }
        if selected != Selected::NotModified {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(left.end - left.start));
        }
        let body = if is_get && !left.is_empty() { body } else { Body::Empty };
        Held { status: selected.status(), fields, body, left, source }
    }

    async fn next_piece(&mut self, idle: Duration) -> Result<Option<Bytes>, Failure> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let piece = match self.read(idle).await {
            Ok(piece) => piece,
            Err(failure) if matches!(self.body, Body::Live(_)) => return Err(failure),
            // What is held of it cannot be read. The rest is the store's, if it is still the same file.
            Err(failure) => {
                let deadline = tokio::time::Instant::now() + idle;
                let rest = self.source.s3.part(&self.source.key, &self.fields, self.left.clone(), deadline).await;
                self.body = Body::Live(Box::new(rest.ok_or(failure)?));
                self.read(idle).await?
            }
        };
        self.left.start += piece.len() as u64;
        Ok(Some(piece))
    }

    /// At least one byte of what is left, and no more than that.
    async fn read(&mut self, idle: Duration) -> Result<Bytes, Failure> {
        let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
        let (from, most) = (self.left.start, left.min(READ));
        let reading = async {
            match &mut self.body {
                Body::Empty => Ok(Bytes::new()),
                Body::Object(object) => object.read_at(from, most).await.map_err(|_| Failure::HttpResponseIncomplete),
                Body::Tape(reader) => reader.read_at(from, most).await,
                Body::Live(live) => Ok(live.next_piece(idle).await?.map(Bytes::copy_from_slice).unwrap_or_default()),
            }
        };
        let piece = tokio::time::timeout(idle, reading).await.map_err(|_| Failure::HttpResponseTimeout)??;
        // Less than the head promised is never taken for the whole, and neither is more.
        if piece.is_empty() || piece.len() > left { Err(Failure::HttpResponseIncomplete) } else { Ok(piece) }
    }
}

const OF_THE_CONTENT: [header::HeaderName; 4] =
    [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE];
