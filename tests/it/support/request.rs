//! A request as a scripted origin receives it.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which accepted connection it came on, from 1.
    pub connection: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).first().copied()
    }

    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// Reads requests and always leaves the last byte of one in the kernel, known but not taken: closing a socket that
/// has unread bytes sends RST, and std offers no other way to ask for one.
pub struct Reader<'a> {
    stream: &'a TcpStream,
    left: bool,
}

impl<'a> Reader<'a> {
    pub fn new(stream: &'a TcpStream) -> Reader<'a> {
        Reader { stream, left: false }
    }

    /// Takes the byte left behind: from here on a close is an orderly one.
    pub fn settle(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.left) {
            self.take(1)?;
        }
        Ok(())
    }

    /// The next request's head; `None` at the end of the connection.
    pub fn head(&mut self, connection: usize) -> io::Result<Option<Request>> {
        self.settle()?;
        let mut head: Vec<u8> = Vec::new();
        let mut waiting = [0; 8 * 1024];
        loop {
            let n = self.stream.peek(&mut waiting)?;
            if n == 0 {
                return Ok(None);
            }
            let before = head.len();
            head.extend_from_slice(&waiting[..n]);
            if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                head.truncate(at + 4);
                self.take(head.len() - before - 1)?;
                self.left = true;
                return Ok(Some(parse(&head, connection)));
            }
            self.take(n)?;
        }
    }

    /// Reads the body of the request whose head was just read.
    pub fn body(&mut self, request: &mut Request) -> io::Result<()> {
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let chunked = request.header("transfer-encoding").is_some();
        if length == 0 && !chunked {
            return Ok(());
        }
        self.settle()?;
        if chunked {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
                match size.map_err(|_| io::Error::new(ErrorKind::InvalidData, line))? {
                    0 => break,
                    size => request.body.extend(self.take(size)?),
                }
                self.line()?;
            }
            while self.take(1)? != b"\r" {
                self.line()?; // a trailer
            }
        } else {
            request.body = self.take(length - 1)?;
        }
        let mut last = [0];
        if self.stream.peek(&mut last)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left = true;
        if !chunked {
            request.body.push(last[0]);
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.take(1)?);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

fn parse(head: &[u8], connection: usize) -> Request {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.trim_end().split("\r\n");
    let mut start = lines.next().unwrap_or_default().split(' ');
    let fields = lines.filter_map(|line| line.split_once(':'));
    Request {
        method: start.next().unwrap_or_default().to_string(),
        target: start.next().unwrap_or_default().to_string(),
        headers: fields.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect(),
        body: Vec::new(),
        connection,
    }
}
