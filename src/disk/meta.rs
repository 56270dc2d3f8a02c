//! What is kept beside an object's bytes. It means something to the caller only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest encoding of a [`Meta`] in bytes. An object with more is not kept.
pub const META_MAX: usize = 64 * 1024;

/// A moment and named values, in the caller's order: for an answer of S3, when it was last known to be fresh, and its
/// fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Kept to the millisecond. Before 1970 is 1970.
    pub stored_at: SystemTime,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Meta {
    /// A meta whose moment is `stored_at` as it is read back.
    pub fn new(stored_at: SystemTime, fields: Vec<(String, Vec<u8>)>) -> Meta {
        Meta { stored_at: UNIX_EPOCH + Duration::from_millis(millis(stored_at)), fields }
    }

    /// The value of the first field of this name, whose letters may be of any case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The moment, then per field two lengths and its bytes. `None` when that is longer than [`META_MAX`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = millis(self.stored_at).to_le_bytes().to_vec();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(&u32::try_from(name.len()).ok()?.to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(value);
            if bytes.len() > META_MAX {
                return None;
            }
        }
        Some(bytes)
    }

    /// `None` when the bytes are no whole encoding.
    pub fn decode(bytes: &[u8]) -> Option<Meta> {
        let (moment, mut rest) = bytes.split_first_chunk::<8>()?;
        let stored_at = UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(*moment)))?;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (name, after) = rest.split_first_chunk::<4>()?;
            let (value, after) = after.split_first_chunk::<4>()?;
            let (name, after) = after.split_at_checked(u32::from_le_bytes(*name) as usize)?;
            let (value, after) = after.split_at_checked(u32::from_le_bytes(*value) as usize)?;
            fields.push((std::str::from_utf8(name).ok()?.to_owned(), value.to_vec()));
            rest = after;
        }
        Some(Meta { stored_at, fields })
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len() + size_of::<(String, Vec<u8>)>()).sum()
    }
}

fn millis(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(
            at in 0u64..1 << 42,
            fields in proptest::collection::vec((".{0,12}", proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) {
            let meta = Meta::new(UNIX_EPOCH + Duration::from_millis(at), fields);
            prop_assert_eq!(Meta::decode(&meta.encode().unwrap()), Some(meta));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Meta::decode(&bytes);
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let meta = |length| Meta::new(UNIX_EPOCH, vec![("x".to_owned(), vec![0; length])]);
        assert!(meta(META_MAX - 17).encode().is_some());
        assert!(meta(META_MAX - 16).encode().is_none());
        assert_eq!(meta(1).field("X"), Some(&[0][..]));
        assert_eq!(meta(1).field("y"), None);
    }
}
