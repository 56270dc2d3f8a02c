//! Bytes as hexadecimal digits.

/// Two digits in lower case for each byte.
pub fn of(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

/// The bytes of digits in either case; `None` if they are no pairs of digits.
pub fn bytes(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(of(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(bytes(b"007fFF"), Some(vec![0, 0x7f, 0xff]));
        assert_eq!((bytes(b"0"), bytes(b"0g"), bytes(b"")), (None, None, Some(Vec::new())));
    }
}
