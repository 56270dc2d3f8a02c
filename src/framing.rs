//! A second pair of eyes on the framing of HTTP/1 bodies.
//!
//! Pingora's parser takes an empty chunk-size line for the last chunk, from clients and from nodes: a body
//! cut short would be presented as whole. So the bytes of a chunked body are also held against RFC 9112
//! §7.1 as they arrive, and a body that breaks it is an I/O error before Pingora sees its end.

/// Follows one direction of a connection, message by message.
#[derive(Debug)]
pub enum Watch {
    /// A head is being read; its bytes are kept, because a body may begin among them.
    Head(Vec<u8>),
    /// A body of this many more bytes.
    Length(u64),
    Chunked(Chunks),
    /// Nothing that can be followed: a tunnel, or a body that the connection's end delimits.
    Nothing,
}

/// How a message's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Most bytes kept of a head. Pingora's own bound is as large.
const MOST_HEAD: usize = 2 << 20;

/// The framing is broken: what came can be no whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for std::io::Error {
    fn from(_: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, "malformed chunked body")
    }
}

impl Watch {
    pub fn new() -> Self {
        Watch::Head(Vec::new())
    }

    /// Takes in bytes as they are read.
    ///
    /// # Errors
    /// When they break the chunked framing that they belong to, or a head grows beyond all bounds.
    pub fn saw(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match self {
                Watch::Head(kept) if kept.len() + bytes.len() > MOST_HEAD => return Err(Malformed),
                Watch::Head(kept) => {
                    kept.extend_from_slice(bytes);
                    return Ok(());
                }
                Watch::Length(left) => {
                    let passed = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= passed as u64;
                    bytes = &bytes[passed..];
                    if *left == 0 {
                        *self = Watch::new();
                    }
                }
                Watch::Chunked(chunks) => {
                    bytes = chunks.feed(bytes)?;
                    if chunks.is_done() {
                        *self = Watch::new();
                    }
                }
                Watch::Nothing => return Ok(()),
            }
        }
        Ok(())
    }

    /// The head that was read is complete, and `body` follows. `length` is the head's where the caller knows
    /// it, with all interim ones. Gives the bytes of the head.
    ///
    /// # Errors
    /// When a chunked body begins that is malformed, or whose first bytes were not seen here.
    pub fn begin_body(&mut self, length: Option<usize>, body: Body) -> Result<Vec<u8>, Malformed> {
        let kept = match std::mem::replace(self, Watch::Nothing) {
            Watch::Head(kept) => kept,
            _ => Vec::new(),
        };
        let end = length.or_else(|| head_end(&kept)).filter(|end| *end <= kept.len());
        let Some(end) = end else {
            return if body == Body::Chunked { Err(Malformed) } else { Ok(Vec::new()) };
        };
        *self = match body {
            Body::Length(0) => Watch::new(),
            Body::Length(left) => Watch::Length(left),
            Body::Chunked => Watch::Chunked(Chunks::default()),
            Body::UntilClose => Watch::Nothing,
        };
        self.saw(&kept[end..])?;
        let mut head = kept;
        head.truncate(end);
        Ok(head)
    }

    /// Whether no byte of the next head was seen yet, and the body before it is over.
    pub fn is_between(&self) -> bool {
        matches!(self, Watch::Head(kept) if kept.is_empty())
    }

    /// Drops the first `length` bytes of the head being read: an interim one that is over.
    pub fn drop_interim(&mut self, length: usize) {
        if let Watch::Head(kept) = self {
            kept.drain(..length.min(kept.len()));
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new()
    }
}

/// Where the head ends that `bytes` begin with.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// A chunked body (RFC 9112 §7.1) as it passes by.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Size,
    Digits {
        size: u64,
        count: u8,
    },
    Extension {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// Most hexadecimal digits of a size: 2^60 bytes and no overflow.
const DIGITS: u8 = 15;

impl Chunks {
    /// Gives what follows the body's end.
    fn feed<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let State::Data { left } = self.state {
                let passed = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = &bytes[passed..];
                let left = left - passed as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                continue;
            }
            if self.is_done() {
                return Ok(bytes);
            }
            self.state = self.step(byte).ok_or(Malformed)?;
            bytes = rest;
        }
        Ok(bytes)
    }

    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&self, byte: u8) -> Option<State> {
        let digit = || char::from(byte).to_digit(16).map(u64::from);
        Some(match (self.state, byte) {
            (State::Size, _) => State::Digits { size: digit()?, count: 1 },
            (State::Digits { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Digits { size, .. }, b';' | b' ' | b'\t') => State::Extension { size },
            (State::Digits { size, count }, _) if count < DIGITS => {
                State::Digits { size: size * 16 + digit()?, count: count + 1 }
            }
            (State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => State::Extension { size },
            (State::SizeEnd { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => State::Trailer,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fed(body: &str, piece: usize) -> Result<State, Malformed> {
        let mut chunks = Chunks::default();
        for bytes in body.as_bytes().chunks(piece) {
            chunks.feed(bytes)?;
        }
        Ok(chunks.state)
    }

    #[test]
    fn chunked_bodies_are_told_from_broken_ones() {
        const CASES: &[(&str, Result<bool, Malformed>)] = &[
            ("0\r\n\r\n", Ok(true)),
            ("5\r\nhello\r\n0\r\n\r\n", Ok(true)),
            ("5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n", Ok(true)),
            ("A;name=\"v\"\r\n0123456789\r\n000\r\nX: y\r\nZ: w\r\n\r\n", Ok(true)),
            ("5 \r\nhello\r\n0\r\n\r\n", Ok(true)),
            ("5\r\nhel", Ok(false)),
            ("5\r\nhello\r\n", Ok(false)),
            ("\r\n\r\n", Err(Malformed)),
            ("5\r\nhello\r\n\r\n\r\n", Err(Malformed)),
            ("5\r\nhelloXX0\r\n\r\n", Err(Malformed)),
            ("5\nhello\n0\n\n", Err(Malformed)),
            ("5\r\nhello\r\n0\r\n\n", Err(Malformed)),
            ("-5\r\nhello\r\n", Err(Malformed)),
            ("+5\r\nhello\r\n", Err(Malformed)),
            ("0x5\r\nhello\r\n", Err(Malformed)),
            (";x\r\n", Err(Malformed)),
            ("1000000000000000\r\n", Err(Malformed)),
            ("5;a\0b\r\nhello\r\n", Err(Malformed)),
        ];
        for (body, expected) in CASES {
            for piece in [1, 2, 7, 1000] {
                let done = fed(body, piece).map(|state| state == State::Done);
                assert_eq!(done, *expected, "{body:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_body_that_begins_beside_its_head_is_watched_from_its_first_byte() {
        let mut watch = Watch::new();
        watch.saw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe").unwrap();
        assert!(watch.begin_body(None, Body::Chunked).is_ok());
        assert!(watch.saw(b"llo\r\n").is_ok());
        assert!(watch.saw(b"\r\n").is_err());

        let mut late = Watch::Nothing;
        assert!(late.begin_body(None, Body::Chunked).is_err(), "what was not seen cannot be vouched for");
        assert!(late.begin_body(None, Body::Length(0)).is_ok());
    }

    #[test]
    fn messages_that_come_in_one_piece_are_told_apart() {
        const ALL: &[u8] = b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\n\r\nhelloPOST /3 HTTP/1.1\r\n\r\n0\r\n\r\nGET /4 HTTP/1.1\r\n\r\n";
        for piece in [1, 3, 10, 1000] {
            let mut watch = Watch::new();
            let mut pieces = ALL.chunks(piece);
            let mut heads = Vec::new();
            for body in [Body::Length(0), Body::Length(5), Body::Chunked, Body::Length(0)] {
                while !matches!(&watch, Watch::Head(kept) if head_end(kept).is_some()) {
                    watch.saw(pieces.next().unwrap()).unwrap();
                }
                let head = watch.begin_body(None, body).unwrap();
                heads.push(String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned());
            }
            assert_eq!(heads, ["/1", "/2", "/3", "/4"], "in pieces of {piece}");
        }
    }

    proptest! {
        #[test]
        fn what_is_well_formed_passes_in_any_pieces(sizes in proptest::collection::vec(1usize..3000, 0..6), piece in 1usize..500) {
            let mut body = String::new();
            for size in sizes {
                body.push_str(&format!("{size:x}\r\n{}\r\n", "x".repeat(size)));
            }
            body.push_str("0\r\n\r\n");
            prop_assert_eq!(fed(&body, piece), Ok(State::Done));
        }
    }
}
