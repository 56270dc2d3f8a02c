//! Origins: things that can be asked for a file. One trait, `ask(request) -> Outcome`, and the answer with it.

mod answer;
mod bill;
mod idle;
mod live;
mod node;
mod s3;
mod store;
mod tape;
mod tls;
mod wire;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use crate::fallback::Outcome;
use crate::pool::Asker;
use crate::trip::Cached;

pub use answer::Answer;
pub use live::{Live, Upstream, check_head, connect_failure, connector, is_ours, request_head};
pub use node::NodeOrigin;
pub use s3::{S3Origin, Seen};
pub use store::StoreOrigin;
pub use tls::Tls;

/// What is asked of an origin.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// GET or HEAD.
    pub method: &'a Method,
    /// The request target in origin form.
    pub target: &'a [u8],
    /// The client's `Host`.
    pub host: Option<&'a http::HeaderValue>,
    /// The fields that a node may see, but for Host and our own hop.
    pub for_node: &'a HeaderMap,
    /// What this attempt is in the request's trace, for a node.
    pub traceparent: Option<&'a http::HeaderValue>,
    /// The fields that a store may see.
    pub for_store: &'a HeaderMap,
    /// What a pool's algorithm may go by.
    pub asker: Asker<'a>,
    /// When the route's patience ends.
    pub deadline: Instant,
}

/// What came of asking. An answer is there whenever a response head was read, whether or not it is served.
pub struct Asked {
    pub outcome: Outcome,
    pub answer: Option<Answer>,
    /// What a store's disk, or another request under way, had to do with it.
    pub cached: Option<Cached>,
}

impl Asked {
    fn without_answer(outcome: Outcome) -> Self {
        Asked { outcome, answer: None, cached: None }
    }
}

pub trait Origin: Send + Sync {
    /// Asks once. A pooled connection that turns out to be closed is replaced and not counted.
    fn ask(&self, ask: &Ask<'_>) -> impl Future<Output = Asked> + Send;

    /// Its connections, and their bounds.
    fn upstream(&self) -> &Upstream;
}

/// A piece of a body.
pub enum Piece<'a> {
    /// Where it was read.
    Read(&'a [u8]),
    /// Held by others, too.
    Shared(Bytes),
}

impl Piece<'_> {
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Read(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }

    pub fn into_bytes(self) -> Bytes {
        match self {
            Piece::Read(bytes) => Bytes::copy_from_slice(bytes),
            Piece::Shared(bytes) => bytes,
        }
    }
}
