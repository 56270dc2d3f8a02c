//! Bare TCP: a server that accepts what the test tells it to, and both ends of its connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::wait::{self, PATIENCE};

/// A listening socket; the test accepts.
pub struct Raw(TcpListener);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a FIN: all was said.
    Orderly,
    Reset,
}

impl Raw {
    pub fn listen() -> Raw {
        Raw::listen_at("127.0.0.1:0".parse().unwrap())
    }

    pub fn listen_at(address: SocketAddr) -> Raw {
        let listener = TcpListener::bind(address).expect("an address to listen on");
        listener.set_nonblocking(true).unwrap();
        Raw(listener)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        wait::wait_for("a connection", PATIENCE, || self.try_accept())
    }

    pub fn try_accept(&self) -> Option<TcpStream> {
        match self.0.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                Some(patient(stream))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot accept: {error}"),
        }
    }

    /// A server that says `word` to whoever connects and then repeats what it hears, for as long as the process lives.
    pub fn greeting(word: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let _ = stream.write_all(word.as_bytes());
                    let _ = std::io::copy(&mut &stream, &mut &stream);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                });
            }
        });
        address
    }
}

#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}")))
}

/// A connection from this address.
#[track_caller]
pub fn connect_from(ip: &str, address: SocketAddr) -> TcpStream {
    try_connect_from(ip, address).unwrap_or_else(|error| panic!("cannot connect from {ip} to {address}: {error}"))
}

/// The same, where the other side may reset it at once.
#[track_caller]
pub fn try_connect_from(ip: &str, address: SocketAddr) -> io::Result<TcpStream> {
    let ip: IpAddr = ip.parse().expect("an IP address");
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    socket.connect(&address.into())?;
    Ok(patient(socket.into()))
}

/// Reads exactly as many bytes as `expected` has.
#[track_caller]
pub fn expect(stream: &mut TcpStream, expected: &str) {
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).unwrap_or_else(|error| panic!("no `{expected}`: {error}"));
    assert_eq!(String::from_utf8_lossy(&read), expected);
}

/// Reads to the end: what came, and how it ended.
#[track_caller]
pub fn ending(stream: &mut TcpStream) -> (Vec<u8>, Ending) {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => (all, Ending::Orderly),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (all, Ending::Reset),
        Err(error) => panic!("the stream did not end: {error}"),
    }
}

/// Ends a stream by a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}
