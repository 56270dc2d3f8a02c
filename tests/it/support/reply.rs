//! What a scripted origin does with a request: answers well, badly, slowly, or not at all.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::origin::Stop;

#[derive(Debug, Clone)]
pub struct Reply {
    act: Act,
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    interim: Vec<u8>,
    delay: Duration,
    head_pace: Duration,
    /// Bytes at a time, and the wait after each piece.
    body_pace: Option<(usize, Duration)>,
    cut: Option<usize>,
    after: After,
    pub(super) before_body: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Answer,
    /// `body` is all that is sent.
    Raw,
    /// `body` again and again, chunked.
    Endless,
    Hang,
    Nothing,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Announced(usize),
    Chunked,
    UntilClose,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum After {
    KeepAlive,
    Close,
    Reset,
}

impl Reply {
    /// An answer with this status, and a short body where the status may have one.
    pub fn status(status: u16) -> Reply {
        let body = if matches!(status, 204 | 304) { String::new() } else { format!("{status}\n") };
        Reply::new(Act::Answer, status, body.as_bytes())
    }

    /// A 200 with this body.
    pub fn ok(body: impl AsRef<[u8]>) -> Reply {
        Reply::new(Act::Answer, 200, body.as_ref())
    }

    /// These bytes and no others; then the connection is closed, unless `then_keep_alive(true)`.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Reply {
        Reply::new(Act::Raw, 0, bytes.as_ref()).then_keep_alive(false)
    }

    /// A 200 whose body is `chunk` for ever.
    pub fn endless(chunk: impl AsRef<[u8]>) -> Reply {
        Reply::new(Act::Endless, 200, chunk.as_ref()).chunked()
    }

    /// Never answers; the connection stays until the other side gives up.
    pub fn hang() -> Reply {
        Reply::new(Act::Hang, 0, b"")
    }

    /// Closes the connection (FIN) in place of an answer.
    pub fn close() -> Reply {
        Reply::new(Act::Nothing, 0, b"").then_keep_alive(false)
    }

    /// Resets the connection (RST) in place of an answer.
    pub fn reset() -> Reply {
        Reply { after: After::Reset, ..Reply::close() }
    }

    fn new(act: Act, status: u16, body: &[u8]) -> Reply {
        Reply {
            act,
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            framing: Framing::Length,
            interim: Vec::new(),
            delay: Duration::ZERO,
            head_pace: Duration::ZERO,
            body_pace: None,
            cut: None,
            after: After::KeepAlive,
            before_body: false,
        }
    }

    pub fn with_status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Reply {
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    pub fn chunked(mut self) -> Reply {
        self.framing = Framing::Chunked;
        self
    }

    /// No length: the body ends where the connection does.
    pub fn until_close(mut self) -> Reply {
        self.framing = Framing::UntilClose;
        self.then_keep_alive(false)
    }

    /// Says this length in `Content-Length`, whatever the body's is.
    pub fn announce(mut self, length: usize) -> Reply {
        self.framing = Framing::Announced(length);
        self
    }

    /// `count` interim answers before this one.
    pub fn interim(mut self, status: u16, count: usize) -> Reply {
        self.interim.extend(format!("HTTP/1.1 {status} Interim\r\n\r\n").repeat(count).bytes());
        self
    }

    /// Waits before the first byte.
    pub fn delay(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Sends the head byte by byte, with this wait between.
    pub fn slow_head(mut self, between: Duration) -> Reply {
        self.head_pace = between;
        self
    }

    /// Sends the body `piece` bytes at a time, with this wait after each.
    pub fn slow_body(mut self, piece: usize, between: Duration) -> Reply {
        self.body_pace = Some((piece, between));
        self
    }

    /// Sends only the first `n` bytes of the body, then closes the connection (FIN).
    pub fn cut_after(mut self, n: usize) -> Reply {
        self.cut = Some(n);
        self.after = After::Close;
        self
    }

    /// As `cut_after`, but with RST.
    pub fn reset_after(self, n: usize) -> Reply {
        Reply { after: After::Reset, ..self.cut_after(n) }
    }

    /// Whether the connection lives on. It is closed without a word; `.header("Connection", "close")` says so.
    pub fn then_keep_alive(mut self, keep_alive: bool) -> Reply {
        self.after = if keep_alive { After::KeepAlive } else { After::Close };
        self
    }

    /// Answers when the request's head is there, before its body is read.
    pub fn before_body(mut self) -> Reply {
        self.before_body = true;
        self
    }

    pub(super) fn after(&self) -> After {
        self.after
    }

    /// Carries it out. An error is the other side's leaving.
    pub(super) fn send(&self, mut stream: &TcpStream, to_head: bool, stop: &Stop) -> io::Result<()> {
        stop.wait(self.delay)?;
        match self.act {
            Act::Nothing => Ok(()),
            Act::Hang => {
                while stream.read(&mut [0; 1024])? > 0 {}
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Act::Raw => self.send_paced(stream, &self.body, stop),
            Act::Answer | Act::Endless => {
                stream.write_all(&self.interim)?;
                self.send_head(stream, stop)?;
                if to_head || matches!(self.status, 101 | 204 | 304) {
                    return Ok(());
                }
                match self.act {
                    Act::Endless => loop {
                        self.send_paced(stream, &chunks(&self.body), stop)?;
                        stop.wait(Duration::ZERO)?;
                    },
                    _ => self.send_paced(stream, &self.framed_body(), stop),
                }
            }
        }
    }

    fn send_head(&self, mut stream: &TcpStream, stop: &Stop) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        match self.framing {
            _ if matches!(self.status, 101 | 204) => {}
            // Of a 304 it would be the length of the body not sent, which a script seldom knows.
            Framing::Length if self.status == 304 => {}
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.body.len()),
            Framing::Announced(length) => head += &format!("Content-Length: {length}\r\n"),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::UntilClose => {}
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        if self.head_pace.is_zero() {
            return stream.write_all(head.as_bytes());
        }
        for byte in head.as_bytes() {
            stream.write_all(&[*byte])?;
            stop.wait(self.head_pace)?;
        }
        Ok(())
    }

    fn framed_body(&self) -> Vec<u8> {
        let body = &self.body[..self.cut.unwrap_or(usize::MAX).min(self.body.len())];
        match self.framing {
            Framing::Chunked if self.cut.is_some() => chunks(body),
            Framing::Chunked => [chunks(body), b"0\r\n\r\n".to_vec()].concat(),
            _ => body.to_vec(),
        }
    }

    fn send_paced(&self, mut stream: &TcpStream, bytes: &[u8], stop: &Stop) -> io::Result<()> {
        let Some((piece, between)) = self.body_pace else { return stream.write_all(bytes) };
        for piece in bytes.chunks(piece) {
            stream.write_all(piece)?;
            stop.wait(between)?;
        }
        Ok(())
    }
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + 64);
    for chunk in body.chunks(16 * 1024) {
        framed.extend(format!("{:x}\r\n", chunk.len()).bytes());
        framed.extend_from_slice(chunk);
        framed.extend(b"\r\n");
    }
    framed
}
