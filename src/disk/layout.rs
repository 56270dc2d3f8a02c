//! The format of one object's file, without any I/O.
//!
//! | part | bytes |
//! |---|---|
//! | magic, version, length of the key, size of a slot, length of the body, id | 36, little endian |
//! | checksum of these and of the key | 4 |
//! | the key | as said above |
//! | two slots for the metadata: turn (8), length (4), checksum (4), bytes | 2 × the size of a slot |
//! | checksums of the body's blocks of 64 KiB, and the checksum of these checksums | 4 each |
//! | the body | as said above |
//!
//! New metadata goes into the slot that is not in use, with a higher turn: if that write is torn, the other slot
//! still stands. Every checksum begins with the file's id, so that bytes of another file that lie here after a power
//! failure do not pass for this one's. CRC-32 finds torn and rotten bytes, and is no defence against someone who can
//! write to the folder.

use super::meta::{META_MAX, Meta};

/// Bytes of the body under one checksum: what a read of any range is widened to.
pub const BLOCK: usize = 64 * 1024;
/// Longest key in bytes. An object with a longer one is not kept.
pub const KEY_MAX: usize = 16 * 1024;
/// Bytes of a file's head before the key.
pub const FIXED: usize = 40;

const MAGIC: &[u8; 8] = b"hopfall\n";
const VERSION: u32 = 1;
const SLOT_HEAD: usize = 16;
/// Room for a slot's metadata to grow when it is refreshed.
const SLOT_SPARE: usize = 256;
/// What a file system hands out at a time.
const PAGE: u64 = 4096;
/// What a file takes beside its pages: an inode, an entry in its folder.
const BESIDE: u64 = 1024;

/// The file is not whole, or not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Where the parts of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    key: usize,
    slot: usize,
    /// Bytes of the body.
    pub length: u64,
    /// What its checksums begin with.
    pub id: u64,
}

/// The metadata that counts, and which of the slots it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub meta: Meta,
    index: usize,
    turn: u64,
}

impl Layout {
    /// For a new file. `None` when the key or the metadata is too long to be kept.
    pub fn new(key: &str, meta: &[u8], length: u64, id: u64) -> Option<Layout> {
        let slot = (SLOT_HEAD + meta.len() + SLOT_SPARE).next_multiple_of(64);
        let layout = Layout { key: key.len(), slot, length, id };
        (key.len() <= KEY_MAX && meta.len() <= META_MAX && layout.total() <= i64::MAX as u64).then_some(layout)
    }

    /// Reads the first [`FIXED`] bytes. The checksum is that of [`Layout::check`].
    ///
    /// # Errors
    /// When they are not those of a file of `size` bytes.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Layout, Broken> {
        let at = |from: usize| bytes.get(from..from + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let long =
            |from: usize| bytes.get(from..from + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
        let (Some(key), Some(slot), Some(length), Some(id)) = (at(12), at(16), long(20), long(28)) else {
            return Err(Broken);
        };
        let layout = Layout { key: key as usize, slot: slot as usize, length, id };
        let known = bytes.starts_with(MAGIC) && at(8) == Some(VERSION) && bytes.len() >= FIXED;
        let sane = layout.key <= KEY_MAX && layout.slot <= SLOT_HEAD + META_MAX + SLOT_SPARE + 64;
        if known && sane && length <= size && layout.total() == size { Ok(layout) } else { Err(Broken) }
    }

    /// The head of the file and the key.
    pub fn head(&self, key: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for length in [self.key, self.slot] {
            bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.id.to_le_bytes());
        let sum = self.sum(&[&bytes, key.as_bytes()]);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(key.as_bytes());
        bytes
    }

    /// The key, when the head's checksum holds. `bytes` are the file's first.
    ///
    /// # Errors
    /// When it does not.
    pub fn check<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, Broken> {
        let key = bytes.get(FIXED..FIXED + self.key).ok_or(Broken)?;
        let sum = self.sum(&[&bytes[..FIXED - 4], key]);
        if bytes[FIXED - 4..FIXED] != sum.to_le_bytes() {
            return Err(Broken);
        }
        std::str::from_utf8(key).map_err(|_| Broken)
    }

    /// The bytes of a slot, as long as all of it. `None` when the metadata does not fit.
    pub fn slot(&self, turn: u64, meta: &[u8]) -> Option<Vec<u8>> {
        let length = u32::try_from(meta.len()).ok()?.to_le_bytes();
        let sum = self.sum(&[&turn.to_le_bytes(), &length, meta]).to_le_bytes();
        let mut bytes = [&turn.to_le_bytes()[..], &length, &sum, meta].concat();
        (bytes.len() <= self.slot).then(|| {
            bytes.resize(self.slot, 0);
            bytes
        })
    }

    /// Where the slot begins that the next metadata goes into, and its turn.
    pub fn next_slot(&self, now: &Slot) -> (u64, u64) {
        (self.slot_at(1 - now.index) as u64, now.turn.wrapping_add(1))
    }

    /// The metadata of the higher turn whose checksum holds. `bytes` are the file's first.
    ///
    /// # Errors
    /// When neither holds.
    pub fn meta(&self, bytes: &[u8]) -> Result<Slot, Broken> {
        let slots = (0..2).filter_map(|index| self.read_slot(bytes, index));
        slots.max_by_key(|slot| slot.turn).ok_or(Broken)
    }

    fn read_slot(&self, bytes: &[u8], index: usize) -> Option<Slot> {
        let from = self.slot_at(index);
        let slot = bytes.get(from..from + self.slot)?;
        let (turn, rest) = slot.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let meta = rest.get(..u32::from_le_bytes(*length) as usize)?;
        let holds = u32::from_le_bytes(*sum) == self.sum(&[turn, length, meta]);
        let turn = u64::from_le_bytes(*turn);
        if holds { Some(Slot { meta: Meta::decode(meta)?, index, turn }) } else { None }
    }

    /// The table of the blocks' checksums.
    pub fn table(&self, sums: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let sum = self.sum(&[&bytes]);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The blocks' checksums. `bytes` are the file's first.
    ///
    /// # Errors
    /// When their own checksum does not hold.
    pub fn sums(&self, bytes: &[u8]) -> Result<Vec<u32>, Broken> {
        let from = usize::try_from(self.table_at()).map_err(|_| Broken)?;
        let to = usize::try_from(self.body_at()).map_err(|_| Broken)?;
        let (table, sum) = bytes.get(from..to).and_then(|table| table.split_last_chunk::<4>()).ok_or(Broken)?;
        if u32::from_le_bytes(*sum) != self.sum(&[table]) {
            return Err(Broken);
        }
        Ok(table.chunks_exact(4).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])).collect())
    }

    /// The checksums of consecutive blocks, the first of which begins where `bytes` do.
    pub fn sums_of<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = u32> + use<'a> {
        let layout = *self;
        bytes.chunks(BLOCK).map(move |block| layout.sum(&[block]))
    }

    fn sum(&self, parts: &[&[u8]]) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.id.to_le_bytes());
        for part in parts {
            sum.update(part);
        }
        sum.finalize()
    }

    fn slot_at(&self, index: usize) -> usize {
        FIXED + self.key + index * self.slot
    }

    pub fn table_at(&self) -> u64 {
        self.slot_at(2) as u64
    }

    pub fn body_at(&self) -> u64 {
        self.table_at() + 4 + 4 * self.length.div_ceil(BLOCK as u64)
    }

    /// Bytes of the whole file.
    pub fn total(&self) -> u64 {
        self.body_at().saturating_add(self.length)
    }
}

/// What a file of so many bytes takes of the disk: whole pages, its inode and its entry in the folder. A multiple of
/// 1 KiB.
pub fn cost(size: u64) -> u64 {
    size.div_ceil(PAGE).saturating_mul(PAGE).saturating_add(BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    fn file(key: &str, meta: &Meta, body: &[u8]) -> Vec<u8> {
        let encoded = meta.encode().unwrap();
        let layout = Layout::new(key, &encoded, body.len() as u64, 77).unwrap();
        let sums: Vec<u32> = layout.sums_of(body).collect();
        let empty = vec![0; layout.slot];
        [layout.head(key), layout.slot(1, &encoded).unwrap(), empty, layout.table(&sums), body.to_vec()].concat()
    }

    fn read(bytes: &[u8]) -> Result<(String, Meta, Vec<u8>), Broken> {
        let layout = Layout::parse(bytes, bytes.len() as u64)?;
        let key = layout.check(bytes)?.to_owned();
        let body = bytes[usize::try_from(layout.body_at()).unwrap()..].to_vec();
        let held = layout.sums(bytes)?.into_iter().eq(layout.sums_of(&body));
        if held { Ok((key, layout.meta(bytes)?.meta, body)) } else { Err(Broken) }
    }

    fn meta(value: &str) -> Meta {
        Meta::new(UNIX_EPOCH, vec![("etag".to_owned(), value.as_bytes().to_vec())])
    }

    proptest! {
        #[test]
        fn a_file_is_read_as_it_was_written(key in ".{0,40}", value in ".{0,40}", body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = file(&key, &meta(&value), &body);
            prop_assert_eq!(read(&bytes), Ok((key, meta(&value), body)));
        }

        #[test]
        fn one_changed_byte_never_changes_what_is_read(at in 0usize..2000, change in 1u8..) {
            let body = vec![7; 900];
            let mut bytes = file("/cat", &meta("v"), &body);
            let at = at % bytes.len();
            bytes[at] ^= change;
            // The unused slot may hold anything.
            if let Ok(whole) = read(&bytes) {
                prop_assert_eq!(whole, ("/cat".to_owned(), meta("v"), body));
            }
        }

        #[test]
        fn a_file_cut_short_or_long_is_broken(cut in 1usize..2000) {
            let bytes = file("/cat", &meta("v"), &[7; 900]);
            let cut = cut % bytes.len();
            prop_assert_eq!(read(&bytes[..cut]), Err(Broken));
            prop_assert_eq!(read(&[&bytes[..], &bytes[..cut + 1]].concat()), Err(Broken));
        }

        #[test]
        fn any_bytes_are_broken(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in any::<bool>()) {
            let bytes = if start { [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat() } else { bytes };
            prop_assert_eq!(read(&bytes), Err(Broken));
        }
    }

    #[test]
    fn blocks_have_checksums_of_their_own() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let body = vec![3; length];
            let bytes = file("/cat", &meta("v"), &body);
            assert_eq!(read(&bytes).unwrap().2, body, "{length}");
            let layout = Layout::parse(&bytes, bytes.len() as u64).unwrap();
            assert_eq!(layout.sums(&bytes).unwrap().len(), length.div_ceil(BLOCK));
        }
    }

    #[test]
    fn metadata_takes_turns_and_a_torn_one_leaves_the_other() {
        let mut bytes = file("/cat", &meta("one"), b"meow");
        let layout = Layout::parse(&bytes, bytes.len() as u64).unwrap();
        for value in ["two", "three", "four"] {
            let (at, turn) = layout.next_slot(&layout.meta(&bytes).unwrap());
            let slot = layout.slot(turn, &meta(value).encode().unwrap()).unwrap();
            let at = usize::try_from(at).unwrap();
            let before = read(&bytes).unwrap();
            bytes[at..at + 20].copy_from_slice(&slot[..20]);
            assert_eq!(read(&bytes).unwrap(), before, "a torn {value}");
            bytes[at..at + slot.len()].copy_from_slice(&slot);
            assert_eq!(read(&bytes).unwrap().1, meta(value));
        }
        assert_eq!(layout.slot(9, &vec![0; layout.slot - SLOT_HEAD + 1]), None);
    }

    #[test]
    fn bytes_of_another_file_are_not_taken_for_this_ones() {
        let one = file("/cat", &meta("v"), &[1; 500]);
        let encoded = meta("v").encode().unwrap();
        let other = Layout::new("/cat", &encoded, 500, 78).unwrap();
        let mixed = [other.head("/cat"), one[other.head("/cat").len()..].to_vec()].concat();
        assert_eq!(read(&mixed), Err(Broken));
    }

    #[test]
    fn a_cost_is_in_whole_pages() {
        assert_eq!([0, 1, 4096, 4097].map(cost), [1024, 5120, 5120, 9216]);
    }
}
