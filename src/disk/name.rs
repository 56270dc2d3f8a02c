//! The name under which a key is kept: the first half of its SHA-256, as a folder and a file.
//!
//! The name is no secret and no proof: the whole key is in the file and is compared at each read. Two keys of one
//! name would only push each other out, and nobody finds two: that takes about 2^64 hashes.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Folders that the files are spread over.
pub const SHARDS: usize = 256;
/// Hexadecimal digits of a file's name; two more are its folder's.
const DIGITS: usize = 30;
const TEMPORARY: &str = ".tmp";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name([u8; 16]);

/// What a file in a shard's folder is, by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Kept(Name),
    Temporary,
    Foreign,
}

impl Name {
    /// Never the name of an object: no key is known that has it.
    pub const NOBODY: Name = Name([0xff; 16]);

    pub fn of(key: &str) -> Name {
        let mut name = [0; 16];
        name.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
        Name(name)
    }

    pub fn shard(&self) -> usize {
        usize::from(self.0[0])
    }

    pub fn path(&self, root: &Path) -> PathBuf {
        let mut path = folder(root, self.shard());
        path.push(self.file());
        path
    }

    /// Where the bytes are while they are still being written: beside their place, so that a rename suffices.
    pub fn temporary(&self, root: &Path) -> PathBuf {
        let mut path = folder(root, self.shard());
        path.push(self.file() + TEMPORARY);
        path
    }

    fn file(&self) -> String {
        let digits = u128::from_be_bytes(self.0) & (u128::MAX >> 8);
        format!("{digits:0DIGITS$x}")
    }
}

impl Sort {
    pub fn of(shard: usize, file: &str) -> Sort {
        if file.ends_with(TEMPORARY) {
            return Sort::Temporary;
        }
        let lower = file.len() == DIGITS && file.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (u8::try_from(shard), u128::from_str_radix(file, 16)) {
            (Ok(shard), Ok(digits)) if lower => {
                Sort::Kept(Name((digits | (u128::from(shard) << (8 * 15))).to_be_bytes()))
            }
            _ => Sort::Foreign,
        }
    }
}

pub fn folder(root: &Path, shard: usize) -> PathBuf {
    root.join(format!("{shard:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_its_path() {
        for key in ["", "/", "/cat.jpg", "/a/very/long/key?with=query", "/☃"] {
            let name = Name::of(key);
            let path = name.path(Path::new("/disk"));
            let file = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Sort::of(name.shard(), file), Sort::Kept(name), "{path:?}");
            assert_eq!(path.parent().unwrap(), folder(Path::new("/disk"), name.shard()));
            assert_ne!(name, Name::NOBODY);
        }
    }

    #[test]
    fn other_files_are_told_from_ours() {
        const CASES: &[(&str, Sort)] = &[
            ("0123456789abcdef0123456789abcd.tmp", Sort::Temporary),
            ("0123456789ABCDEF0123456789abcd", Sort::Foreign),
            ("0123456789abcdef0123456789abcde", Sort::Foreign),
            ("+123456789abcdef0123456789abcd", Sort::Foreign),
            ("index.html", Sort::Foreign),
            ("", Sort::Foreign),
        ];
        for (file, expected) in CASES {
            assert_eq!(Sort::of(0, file), *expected, "{file}");
        }
    }
}
