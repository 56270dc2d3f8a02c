//! A scripted origin over raw sockets, in the manner of varnishtest: it does to each request what the script says.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::reply::After;
use super::request::Reader;
use super::wait;

pub use super::reply::Reply;
pub use super::request::Request;

/// The status given to a request that the script did not foresee.
pub const BEYOND_SCRIPT: u16 = 555;

pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// Where an origin will listen.
pub struct At(String);

struct Shared {
    role: Role,
    stop: Stop,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    accepted: usize,
    open: HashMap<usize, TcpStream>,
}

enum Role {
    /// One reply per request, in the order the requests come, over all connections.
    Script(Mutex<std::vec::IntoIter<Reply>>),
    Respond(Box<dyn Fn(&Request) -> Reply + Send + Sync>),
    /// Accepts and closes.
    Closing,
}

impl Origin {
    /// On 127.0.0.1: the n-th request, on whichever connection, gets the n-th reply. Later ones get a 555.
    pub fn script(replies: impl IntoIterator<Item = Reply>) -> Origin {
        Origin::at("127.0.0.1").script(replies)
    }

    /// On 127.0.0.1: every request gets what `answer` makes of it.
    pub fn respond(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Origin {
        Origin::at("127.0.0.1").respond(answer)
    }

    /// On 127.0.0.1: every request gets this reply.
    pub fn always(reply: Reply) -> Origin {
        Origin::respond(move |_| reply.clone())
    }

    /// On 127.0.0.1: every connection is closed as soon as it is accepted.
    pub fn closing() -> Origin {
        Origin::at("127.0.0.1").start(Role::Closing)
    }

    /// On another address: `"127.0.0.2"`, or with a port.
    pub fn at(address: &str) -> At {
        At(if address.contains(':') { address.to_string() } else { format!("{address}:0") })
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, in the order they came. One is here as soon as its head, and its body if the reply
    /// waits for it, has been read.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.connections.lock().unwrap().accepted
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.connections.lock().unwrap().open.len()
    }

    /// Ends all connections (FIN), as a server does with idle ones.
    pub fn hang_up(&self) {
        for stream in self.shared.connections.lock().unwrap().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        wait::wait_until("the connections to end", wait::PATIENCE, || self.open() == 0);
    }

    /// Sends bytes nobody asked for on every open connection.
    pub fn blurt(&self, bytes: impl AsRef<[u8]>) {
        for mut stream in self.shared.connections.lock().unwrap().open.values() {
            let _ = stream.write_all(bytes.as_ref());
        }
    }
}

impl At {
    pub fn script(self, replies: impl IntoIterator<Item = Reply>) -> Origin {
        let replies: Vec<Reply> = replies.into_iter().collect();
        self.start(Role::Script(Mutex::new(replies.into_iter())))
    }

    pub fn respond(self, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Origin {
        self.start(Role::Respond(Box::new(answer)))
    }

    fn start(self, role: Role) -> Origin {
        let listener = TcpListener::bind(&self.0).unwrap_or_else(|error| panic!("cannot bind {}: {error}", self.0));
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { role, stop: Stop::default(), requests: Mutex::default(), connections: Mutex::default() });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &accepting));
        Origin { address, shared, acceptor: Some(acceptor) }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.now();
        let _ = TcpStream::connect(self.address); // wakes the acceptor
        let _ = self.acceptor.take().map(JoinHandle::join);
        for stream in self.shared.connections.lock().unwrap().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if shared.stop.is_now() {
            return;
        }
        let _ = stream.set_nodelay(true);
        let number = {
            let mut connections = shared.connections.lock().unwrap();
            connections.accepted += 1;
            if matches!(shared.role, Role::Closing) {
                continue;
            }
            let Ok(handle) = stream.try_clone() else { continue };
            let number = connections.accepted;
            connections.open.insert(number, handle);
            number
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // An error is the other side's leaving, or the end of the test.
            let _ = shared.serve(&stream, number);
            // The socket closes with its last handle: this one goes first, `stream` next.
            shared.connections.lock().unwrap().open.remove(&number);
        });
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream, number: usize) -> io::Result<()> {
        let mut reader = Reader::new(stream);
        while let Some(mut request) = reader.head(number)? {
            let scripted = match &self.role {
                Role::Script(replies) => {
                    Some(replies.lock().unwrap().next().unwrap_or_else(|| Reply::status(BEYOND_SCRIPT)))
                }
                _ => None,
            };
            let early = scripted.as_ref().is_some_and(|reply| reply.before_body);
            if !early {
                self.read_body(stream, &mut reader, &mut request)?;
            }
            self.requests.lock().unwrap().push(request.clone());
            let reply = match &self.role {
                Role::Respond(answer) => answer(&request),
                _ => scripted.expect("taken above"),
            };
            if reply.after() != After::Reset {
                reader.settle()?;
            }
            reply.send(stream, request.method == "HEAD", &self.stop)?;
            if reply.after() != After::KeepAlive {
                return Ok(());
            }
            if early {
                self.read_body(stream, &mut reader, &mut request)?;
            }
        }
        Ok(())
    }

    fn read_body(&self, mut stream: &TcpStream, reader: &mut Reader, request: &mut Request) -> io::Result<()> {
        if request.header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        reader.body(request)
    }
}

/// Tells waiting threads that the origin ends.
#[derive(Default)]
pub(super) struct Stop {
    now: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn now(&self) {
        *self.now.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn is_now(&self) -> bool {
        *self.now.lock().unwrap()
    }

    /// Waits that long; an error if the origin ends before.
    pub(super) fn wait(&self, duration: Duration) -> io::Result<()> {
        let end = Instant::now() + duration;
        let mut now = self.now.lock().unwrap();
        while !*now {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            now = self.changed.wait_timeout(now, left).unwrap().0;
        }
        Err(io::ErrorKind::Interrupted.into())
    }
}
