//! What a process hands to the one that takes its place: its listening sockets, who it is to other proxies, and what it
//! knows. It travels over a socket pair that is the new process's standard input, and the answer comes back on it.
//!
//! Sockets that are handed over stay open all the time: connections that nobody has accepted yet wait in the kernel for
//! whichever process accepts next.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::successor::{RECEIVE, VARIABLE};

/// What is handed over besides sockets.
/// What one version does not say is for the other as if it was nothing, so that either may be the newer one.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The sockets that follow: the listener's name, and its address as the config has it.
    pub sockets: Vec<(String, SocketAddr)>,
    /// Who the process is, where the config does not say so.
    pub name: String,
    /// Of the mark; where the config does not say so. Secret.
    pub key: Vec<u8>,
    /// Pool, node and mode, where an operator has said another one than the config.
    pub modes: Vec<[String; 3]>,
    /// What stores have cost today, in nanodollars.
    pub spent: Vec<(String, u64)>,
    /// Length of the location map that follows; 0: none.
    pub location: u64,
}

/// What was received.
pub struct Received {
    pub state: State,
    pub sockets: Vec<Socket>,
    /// As [`crate::location::Map::save`] gives it.
    pub location: Vec<u8>,
    pub reply: Reply,
}

/// A listening socket that came from elsewhere.
pub struct Socket {
    /// The listener's; may be empty, if who opened it did not know.
    pub name: String,
    pub address: SocketAddr,
    pub socket: TcpListener,
}

impl Socket {
    /// Takes the one for a listener out of them.
    pub fn take(all: &mut Vec<Socket>, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let place = all.iter().position(|own| is_same_place((&own.name, own.address), (name, address)))?;
        Some(all.remove(place).socket)
    }
}

/// Whether a socket for the one listener, by name and address, is right for the other.
pub fn is_same_place(one: (&str, SocketAddr), other: (&str, SocketAddr)) -> bool {
    // Port 0 asks for any free port, each time another.
    one.1 == other.1 && (one.1.port() != 0 || one.0 == other.0)
}

/// Where the process that handed over waits for a word.
pub struct Reply(UnixStream);

/// What the new process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    Serves,
    Failed(String),
}

/// How long either side waits for the other to read or write. Starting may look names up and open disks.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The largest state, which is far below this.
const MOST_STATE: u64 = 16 << 20;
const MOST_LOCATION: u64 = 32 << 30;

/// Hands all over. Blocks.
///
/// # Errors
/// When the other side is gone, or does not read.
pub fn send(mut to: &UnixStream, state: &State, sockets: &[BorrowedFd<'_>], location: &[u8]) -> io::Result<()> {
    to.set_write_timeout(Some(PATIENCE))?;
    let text = serde_json::to_vec(state)?;
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(&text)?;
    for socket in sockets {
        let fds = [*socket];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        message.push(SendAncillaryMessage::ScmRights(&fds));
        // One byte carries it: a message of none is not sent.
        sendmsg(to, &[IoSlice::new(b"s")], &mut message, SendFlags::empty())?;
    }
    to.write_all(location)
}

/// What the process that started this one hands over, if it does. Nothing else may have read standard input.
///
/// # Errors
/// When the environment says that there is something, and it is not.
pub fn receive() -> anyhow::Result<Option<Received>> {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != RECEIVE) {
        return Ok(None);
    }
    let from = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    receive_from(from).with_context(|| format!("{VARIABLE} is {RECEIVE}, and nothing is handed over")).map(Some)
}

fn receive_from(mut from: UnixStream) -> anyhow::Result<Received> {
    from.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_STATE {
        bail!("a state of {length} bytes");
    }
    let mut text = vec![0; usize::try_from(length)?];
    from.read_exact(&mut text)?;
    let state: State = serde_json::from_slice(&text)?;
    let mut sockets = Vec::with_capacity(state.sockets.len());
    for (name, address) in &state.sockets {
        sockets.push(Socket { name: name.clone(), address: *address, socket: TcpListener::from(socket(&from)?) });
    }
    if state.location > MOST_LOCATION {
        bail!("a location map of {} bytes", state.location);
    }
    let mut location = vec![0; usize::try_from(state.location)?];
    from.read_exact(&mut location)?;
    Ok(Received { state, sockets, location, reply: Reply(from) })
}

fn socket(from: &UnixStream) -> anyhow::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.context("no socket came")
}

impl Reply {
    /// Tells the process that handed over that it may go, or that it must stay.
    pub fn say(mut self, word: &Word) {
        let text = match word {
            Word::Serves => "serves".to_owned(),
            Word::Failed(why) => format!("failed {why}"),
        };
        // If it is gone, there is nobody to tell.
        let _ = self.0.write_all(text.as_bytes());
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// Standard input becomes what a service has, after it was the way of a handover.
pub fn close_stdin() {
    if let Ok(nothing) = File::open("/dev/null") {
        // It stays open otherwise, which costs a descriptor.
        let _ = rustix::stdio::dup2_stdin(nothing);
    }
}

/// What the process that was handed all says. Blocks.
///
/// # Errors
/// When it ends, or says nothing in time.
pub fn hear(from: &UnixStream) -> io::Result<Word> {
    from.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    from.take(64 * 1024).read_to_string(&mut text)?;
    match text.strip_prefix("failed ") {
        Some(why) => Ok(Word::Failed(why.to_owned())),
        None if text == "serves" => Ok(Word::Serves),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it served")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let (here, there) = UnixStream::pair().unwrap();
        let sockets = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let addresses: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let location = vec![7; 300_000];
        let state = State {
            sockets: addresses.iter().map(|address| (String::new(), *address)).collect(),
            name: "a".into(),
            key: vec![0, 255],
            modes: vec![["p".into(), "n".into(), "drain".into()]],
            spent: vec![("s3".into(), 5)],
            location: location.len() as u64,
        };
        let sending = std::thread::spawn({
            let location = location.clone();
            move || {
                let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                send(&here, &state, &fds, &location).unwrap();
                drop(sockets);
                hear(&here).unwrap()
            }
        });
        let received = receive_from(there).unwrap();
        assert_eq!((received.state.key.as_slice(), &received.location), (&[0, 255][..], &location));
        for (handed, address) in received.sockets.iter().zip(&addresses) {
            assert_eq!((&handed.address, &handed.socket.local_addr().unwrap()), (address, address));
            assert!(std::net::TcpStream::connect(address).is_ok(), "it is open all the time");
        }
        let word = Word::Failed("the config has mistakes".into());
        received.reply.say(&word);
        assert_eq!(sending.join().unwrap(), word);
    }

    #[test]
    fn one_that_ends_without_a_word_has_failed() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert!(hear(&here).is_err());
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive_from(there).is_err());
    }
}
