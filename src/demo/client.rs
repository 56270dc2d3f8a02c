//! A client so small that what it sends can be seen: one request, one connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::headers::{PROXY_STATUS, SERVER_TIMING};

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Bytes,
}

/// One hop of `Server-Timing`: who was asked, and what came of it.
#[derive(Debug)]
pub struct Hop<'a> {
    pub name: &'a str,
    pub result: &'a str,
}

/// Asks `address` for `path` with `fields`, and waits for the whole answer.
///
/// # Errors
/// When no whole answer comes.
pub async fn ask(address: SocketAddr, method: &Method, path: &str, fields: &HeaderMap) -> anyhow::Result<Reply> {
    let exchange = tokio::time::timeout(PATIENCE, exchange(address, method, path, fields));
    exchange.await.map_err(anyhow::Error::from).flatten().with_context(|| format!("{method} http://{address}{path}"))
}

async fn exchange(address: SocketAddr, method: &Method, path: &str, fields: &HeaderMap) -> anyhow::Result<Reply> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n").into_bytes();
    if !fields.contains_key(header::HOST) {
        request.extend_from_slice(format!("Host: {address}\r\n").as_bytes());
    }
    for (name, value) in fields {
        request.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    request.extend_from_slice(b"\r\n");

    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let reply = Reply::parse(&answer).context("not an HTTP answer")?;
    let length = reply.field(&header::CONTENT_LENGTH).parse::<usize>();
    let bodiless = *method == Method::HEAD || reply.status == 304;
    anyhow::ensure!(bodiless || length.is_ok_and(|length| length == reply.body.len()), "the body was cut short");
    Ok(reply)
}

impl Reply {
    fn parse(answer: &[u8]) -> Option<Reply> {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let mut lines = std::str::from_utf8(&answer[..end]).ok()?.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut fields = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            fields.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?);
        }
        Some(Reply { status, fields, body: Bytes::copy_from_slice(&answer[end + 4..]) })
    }

    /// The value of a field; empty if it is not there.
    pub fn field(&self, name: &HeaderName) -> &str {
        self.fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The hops that hopfall tells of, in order: `taiga;desc="404";dur=3.0, s3;desc="200";dur=5.0`.
    pub fn hops(&self) -> Vec<Hop<'_>> {
        let hop = |text| {
            let (name, rest) = str::split_once(text, ";desc=\"")?;
            Some(Hop { name: name.trim(), result: rest.split('"').next()? })
        };
        self.field(&SERVER_TIMING).split(',').filter_map(hop).collect()
    }

    /// Whose answer it is: the last hop's if it is one to hand on, else hopfall's own.
    pub fn served_by(&self) -> String {
        let status = self.status.to_string();
        let last = self.hops().pop().filter(|hop| self.status < 400 && hop.result == status);
        last.map_or("hopfall", |hop| hop.name).to_owned()
    }

    /// The error that hopfall names in `Proxy-Status` (RFC 9209 §2.1.1), if any.
    pub fn error(&self) -> Option<&str> {
        self.field(&PROXY_STATUS).split("; ").find_map(|part| part.strip_prefix("error="))
    }
}

/// Longest wait for an answer. Nothing here takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(10);
