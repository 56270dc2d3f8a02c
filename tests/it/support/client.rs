//! A raw HTTP/1.1 client: sends exactly the bytes it is given, and says exactly what came back.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long a read may wait. Nothing in a test may hang.
const TIMEOUT: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    /// Received and not yet read by the test.
    received: Vec<u8>,
    /// For each request in flight: was it HEAD, so that its answer has no body?
    heads: VecDeque<bool>,
    /// The same of the response whose head was read last.
    bodiless: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The 1xx answers before it.
    pub interim: Vec<Response>,
    /// The body came whole. A body delimited by the end of the connection is whole when that end is orderly.
    pub complete: bool,
    pub end: End,
}

/// How a response's body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The connection was closed in the middle.
    Closed,
    Reset,
    /// Nothing came for the client's timeout.
    TimedOut,
    /// The chunked framing was broken.
    Malformed,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).first().copied()
    }

    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One GET on a connection of its own.
#[track_caller]
pub fn get(addr: impl ToSocketAddrs, target: &str) -> Response {
    Client::connect(addr).request("GET", target, &[("Connection", "close")]).response()
}

/// One HEAD on a connection of its own.
#[track_caller]
pub fn head(addr: impl ToSocketAddrs, target: &str) -> Response {
    Client::connect(addr).request("HEAD", target, &[("Connection", "close")]).response()
}

/// Asks for a path whose body is known, again and again until `stop`, on new connections or on ones that last as long as
/// they are let. Counts what it was served; panics at the first request that fails.
pub fn ask(
    addr: SocketAddr,
    (target, body): (&str, &str),
    each_on_its_own: bool,
    stop: &AtomicBool,
    served: &AtomicUsize,
) {
    let mut client = Client::connect(addr);
    while !stop.load(Ordering::Relaxed) {
        let answer = client.request("GET", target, &[]).response();
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, body, true));
        served.fetch_add(1, Ordering::Relaxed);
        if each_on_its_own || answer.header("connection") == Some("close") {
            client = Client::connect(addr);
        }
    }
}

impl Client {
    #[track_caller]
    pub fn connect(addr: impl ToSocketAddrs) -> Client {
        Client::try_connect(addr).unwrap_or_else(|error| panic!("cannot connect: {error}"))
    }

    pub fn try_connect(addr: impl ToSocketAddrs) -> io::Result<Client> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Client { stream, received: Vec::new(), heads: VecDeque::new(), bodiless: false })
    }

    /// Changes how long a read may wait.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Client {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        self
    }

    /// Lets at most about so many bytes wait on this side to be read; what is more waits at the sender.
    pub fn hold_at_most(&mut self, bytes: usize) -> &mut Client {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(bytes).unwrap();
        self
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends these bytes as they are. A request line among them tells whether its answer has a body.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
        self
    }

    /// As `send`, where the other side may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().is_some_and(|v| v.starts_with(b"HTTP/1.")) {
                self.heads.push_back(line.starts_with(b"HEAD "));
            }
        }
        self.stream.write_all(bytes)
    }

    /// Sends a request without a body. `Host` is added unless given.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> &mut Client {
        self.send(request_head(method, target, headers))
    }

    /// Sends a request with a body of known length.
    #[track_caller]
    pub fn upload(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> &mut Client {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", &length));
        self.send(request_head(method, target, &headers)).send_body(body)
    }

    /// Sends bytes that are no request.
    #[track_caller]
    pub fn send_body(&mut self, bytes: &[u8]) -> &mut Client {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("cannot send the body: {error}"));
        self
    }

    /// No more will be sent; the answer can still be read.
    pub fn half_close(&mut self) -> &mut Client {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// The next response. Panics if there is no head; a body cut short is told by `complete`.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|error| panic!("no response: {error}; received: {:?}", self.peeked()))
    }

    /// The next response. `UnexpectedEof`: closed without a byte; `InvalidData`: not a head.
    pub fn try_response(&mut self) -> io::Result<Response> {
        let mut response = self.try_response_head()?;
        self.read_body(&mut response);
        Ok(response)
    }

    /// The next response's head alone (and the interim ones before it): its body is left to `read_body`, or to
    /// `read_some` as it is framed.
    #[track_caller]
    pub fn response_head(&mut self) -> Response {
        self.try_response_head()
            .unwrap_or_else(|error| panic!("no response head: {error}; received: {:?}", self.peeked()))
    }

    pub fn try_response_head(&mut self) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let mut head = parse_head(&self.read_head()?)?;
            if (100..200).contains(&head.status) && head.status != 101 {
                interim.push(head);
                continue;
            }
            head.interim = interim;
            self.bodiless = self.heads.pop_front().unwrap_or(false) || matches!(head.status, 101 | 204 | 304);
            return Ok(head);
        }
    }

    /// One interim response, without waiting for the final one: `100 Continue`.
    #[track_caller]
    pub fn interim(&mut self) -> Response {
        let head = self.read_head().and_then(|head| parse_head(&head));
        let head = head.unwrap_or_else(|error| panic!("no interim response: {error}"));
        assert!((100..200).contains(&head.status), "not interim: {head:?}");
        head
    }

    /// The body of the response whose head was just read.
    pub fn read_body(&mut self, response: &mut Response) {
        response.end = match self.try_read_body(response) {
            Ok(()) => End::Whole,
            Err(error) if is_timeout(&error) => End::TimedOut,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => End::Closed,
            Err(error) if error.kind() == ErrorKind::InvalidData => End::Malformed,
            Err(_) => End::Reset,
        };
        response.complete = response.end == End::Whole;
    }

    /// What is there, at most `most` bytes, waiting for at least one; empty at the end of the connection.
    pub fn read_some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if self.received.is_empty() {
            self.fill()?;
        }
        let n = self.received.len().min(most);
        Ok(self.received.drain(..n).collect())
    }

    /// Everything until the connection ends, or nothing more comes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while matches!(self.fill(), Ok(1..)) {}
        std::mem::take(&mut self.received)
    }

    /// Whether the other side ends the connection within `timeout`, without another byte.
    pub fn closes_within(&mut self, timeout: Duration) -> bool {
        self.timeout(timeout);
        let closed = self.received.is_empty()
            && match self.fill() {
                Ok(n) => n == 0,
                Err(error) => !is_timeout(&error),
            };
        self.timeout(TIMEOUT);
        closed
    }

    fn read_head(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                return Ok(self.received.drain(..at + 4).collect());
            }
            if self.fill()? == 0 {
                let kind = if self.received.is_empty() { ErrorKind::UnexpectedEof } else { ErrorKind::InvalidData };
                return Err(io::Error::new(kind, "the connection ended before the head did"));
            }
        }
    }

    fn try_read_body(&mut self, response: &mut Response) -> io::Result<()> {
        let chunked = response.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked"));
        if self.bodiless {
            return Ok(());
        }
        if chunked {
            return self.read_chunked(response);
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid(format!("not a length: {length:?}")))?;
            return self.take_into(&mut response.body, length);
        }
        loop {
            let n = self.fill();
            response.body.append(&mut self.received);
            if n? == 0 {
                return Ok(());
            }
        }
    }

    fn read_chunked(&mut self, response: &mut Response) -> io::Result<()> {
        loop {
            let line = self.take_line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid(format!("not a chunk size: {line:?}")))?;
            if size == 0 {
                break;
            }
            self.take_into(&mut response.body, size)?;
            if !self.take_line()?.is_empty() {
                return Err(invalid("a chunk is longer than it says".to_string()));
            }
        }
        loop {
            let line = self.take_line()?;
            match line.split_once(':') {
                Some((name, value)) => response.trailers.push((name.to_string(), value.trim().to_string())),
                None => return Ok(()),
            }
        }
    }

    /// Moves exactly `length` bytes; what came is moved even if more did not.
    fn take_into(&mut self, into: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let mut missing = length;
        loop {
            let n = self.received.len().min(missing);
            into.extend(self.received.drain(..n));
            missing -= n;
            if missing == 0 {
                return Ok(());
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_string());
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let n = self.stream.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    fn peeked(&self) -> String {
        String::from_utf8_lossy(&self.received[..self.received.len().min(500)]).into_owned()
    }
}

fn request_head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: files.test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

fn parse_head(head: &[u8]) -> io::Result<Response> {
    let head = String::from_utf8_lossy(head);
    let malformed = || invalid(format!("not a response head: {head:?}"));
    let mut lines = head.trim_end().split("\r\n");
    let mut start = lines.next().unwrap_or_default().splitn(3, ' ');
    if !start.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(malformed());
    }
    let status = start.next().filter(|s| s.len() == 3).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        headers.push((name.to_string(), value.trim().to_string()));
    }
    Ok(Response {
        status,
        reason: start.next().unwrap_or_default().to_string(),
        headers,
        body: Vec::new(),
        trailers: Vec::new(),
        interim: Vec::new(),
        complete: true,
        end: End::Whole,
    })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
