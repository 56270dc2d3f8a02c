//! A second pair of eyes on the framing of HTTP/1 bodies.
//!
//! Pingora's parser takes an empty chunk-size line for the last chunk, from clients and from nodes: a body
//! cut short would be presented as whole. So the bytes of a chunked body are also held against RFC 9112
//! §7.1 as they arrive, and a body that breaks it is an I/O error before Pingora sees its end.

/// What was seen of one connection since the last message began.
#[derive(Debug)]
pub enum Watch {
    /// A head is being read; its bytes are kept, because a body may begin among them.
    Head(Vec<u8>),
    Chunked(Chunks),
    /// Nothing that needs watching.
    Nothing,
}

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
    /// When they break the chunked framing that they belong to.
    pub fn saw(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        match self {
            Watch::Head(kept) => kept.extend_from_slice(bytes),
            Watch::Chunked(chunks) => chunks.feed(bytes)?,
            Watch::Nothing => {}
        }
        Ok(())
    }

    /// The head is complete and `length` bytes long. Gives what was kept of it and of what follows.
    ///
    /// # Errors
    /// When a chunked body begins that is malformed, or whose first bytes were not seen here.
    pub fn begin_body(&mut self, length: Option<usize>, chunked: bool) -> Result<Vec<u8>, Malformed> {
        let Watch::Head(kept) = std::mem::replace(self, Watch::Nothing) else {
            return if chunked { Err(Malformed) } else { Ok(Vec::new()) };
        };
        if chunked {
            let end = length.or_else(|| head_end(&kept)).ok_or(Malformed)?;
            let mut chunks = Chunks::default();
            chunks.feed(kept.get(end..).ok_or(Malformed)?)?;
            *self = Watch::Chunked(chunks);
        }
        Ok(kept)
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

/// A chunked body (RFC 9112 §7.1) as it passes by. After its end nothing is checked.
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
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let State::Data { left } = self.state {
                let passed = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = &bytes[passed..];
                let left = left - passed as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                continue;
            }
            if self.state == State::Done {
                return Ok(());
            }
            self.state = self.step(byte).ok_or(Malformed)?;
            bytes = rest;
        }
        Ok(())
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
        assert!(watch.begin_body(None, true).is_ok());
        assert!(watch.saw(b"llo\r\n").is_ok());
        assert!(watch.saw(b"\r\n").is_err());

        let mut late = Watch::Nothing;
        assert!(late.begin_body(None, true).is_err(), "what was not seen cannot be vouched for");
        assert!(late.begin_body(None, false).is_ok());
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
