//! The connection to a target, watched: see [`crate::framing`].

use std::any::Any;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::framing::{Body, Malformed, Watch};

pub struct Wire {
    stream: Stream,
    watch: Mutex<Watch>,
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Wire { stream, watch: Mutex::default() }
    }

    /// The wire under a Pingora stream, if it is one of ours.
    fn of(stream: &Stream) -> Option<&Wire> {
        let any: &dyn Any = stream.as_any();
        any.downcast_ref()
    }

    /// A request is about to be sent on `stream`, and an answer's head to be read.
    pub fn begin_head(stream: &Stream) {
        if let Some(wire) = Wire::of(stream) {
            *wire.watch() = Watch::new();
        }
    }

    /// An interim head of this many bytes is over.
    pub fn drop_interim(stream: &Stream, length: usize) {
        if let Some(wire) = Wire::of(stream) {
            wire.watch().drop_interim(length);
        }
    }

    /// The answer's head, of this many bytes, has been read from `stream`.
    pub fn begin_body(stream: &Stream, length: usize, chunked: bool) -> Result<(), Malformed> {
        // Only chunks need following: Pingora counts lengths right.
        let body = if chunked { Body::Chunked } else { Body::UntilClose };
        match Wire::of(stream) {
            Some(wire) => wire.watch().begin_body(Some(length), body).map(|_| ()),
            None => Ok(()),
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.watch().saw(&buf.filled()[before..])?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(self.stream.as_mut()).await;
    }
}

impl UniqueID for Wire {
    fn id(&self) -> i32 {
        self.stream.id()
    }
}

impl Ssl for Wire {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl Peek for Wire {}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.stream.id())
    }
}
