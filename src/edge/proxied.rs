//! The PROXY header of a connection that a trusted proxy made, read before anything else.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy_protocol::{Malformed, parse};

/// Why a connection is closed that should have begun with a header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Not a byte came: somebody looked whether the port is open.
    #[error("closed before a PROXY header")]
    Unused,
    #[error("closed in the middle of a PROXY header")]
    Cut,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the PROXY header could not be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header and not a byte more: the rest is TLS's, or the application's. Gives the client that it names; `None`
/// when the connection is the proxy's own, or of somebody whom it cannot name.
pub(super) async fn read_header(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, Refused> {
    let mut bytes = Vec::new();
    loop {
        let taken = bytes.len();
        bytes.resize(taken + LOOK, 0);
        let seen = taken + tcp.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(if taken == 0 { Refused::Unused } else { Refused::Cut });
        }
        let header = parse(&bytes[..seen])?;
        // All that was seen of a header that goes on is the header's.
        let ours = header.map_or(seen, |header| header.length);
        tcp.read_exact(&mut bytes[taken..ours]).await?;
        bytes.truncate(ours);
        if let Some(header) = header {
            return Ok(header.client);
        }
    }
}

/// Bytes looked at in one go: more than most headers have.
const LOOK: usize = 256;
