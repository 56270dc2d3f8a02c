//! What is being written, and what is being purged by prefix: so that no purged object comes back by a writer that
//! began before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::name::Name;

#[derive(Default)]
pub struct Claims {
    all: Mutex<All>,
    /// How many prefixes are being purged: nearly always none.
    purging: AtomicUsize,
}

#[derive(Default)]
struct All {
    writing: HashMap<Name, Writing>,
    prefixes: Vec<String>,
}

struct Writing {
    key: String,
    void: Arc<AtomicBool>,
}

/// One writer's registration, taken back when dropped.
pub struct Claim {
    claims: Arc<Claims>,
    name: Name,
    void: Arc<AtomicBool>,
}

/// A prefix that is being purged until this is dropped.
pub struct Purge {
    claims: Arc<Claims>,
    prefix: String,
}

impl Claims {
    /// `None` when the key is being purged, or written by another.
    pub fn begin(self: &Arc<Self>, name: Name, key: &str) -> Option<Claim> {
        let mut all = self.all();
        if all.writing.contains_key(&name) || all.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            return None;
        }
        let void = Arc::new(AtomicBool::new(false));
        all.writing.insert(name, Writing { key: key.to_owned(), void: void.clone() });
        Some(Claim { claims: self.clone(), name, void })
    }

    /// What is being written under this name may not be kept.
    pub fn void(&self, name: Name) {
        if let Some(writing) = self.all().writing.get(&name) {
            writing.void.store(true, Ordering::Release);
        }
    }

    /// From here on nothing of this prefix is there or begun, and what is being written of it may not be kept.
    pub fn purge(self: &Arc<Self>, prefix: &str) -> Purge {
        let mut all = self.all();
        all.prefixes.push(prefix.to_owned());
        for writing in all.writing.values().filter(|writing| writing.key.starts_with(prefix)) {
            writing.void.store(true, Ordering::Release);
        }
        self.purging.fetch_add(1, Ordering::Release);
        Purge { claims: self.clone(), prefix: prefix.to_owned() }
    }

    pub fn purging(&self, key: &str) -> bool {
        self.purging.load(Ordering::Acquire) > 0 && self.all().prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    pub fn is_void(&self) -> bool {
        self.void.load(Ordering::Acquire)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.all().writing.remove(&self.name);
    }
}

impl Drop for Purge {
    fn drop(&mut self) {
        let mut all = self.claims.all();
        if let Some(at) = all.prefixes.iter().position(|prefix| *prefix == self.prefix) {
            all.prefixes.swap_remove(at);
        }
        self.claims.purging.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_writer_and_a_purge_voids_it() {
        let claims = Arc::new(Claims::default());
        let begin = |key: &str| claims.begin(Name::of(key), key);
        let (cat, dog) = (begin("/a/cat").unwrap(), begin("/b/dog").unwrap());
        assert!(begin("/a/cat").is_none());
        let purge = claims.purge("/a/");
        assert!(cat.is_void() && !dog.is_void());
        assert!(claims.purging("/a/new") && !claims.purging("/b/new"));
        assert!(begin("/a/new").is_none() && begin("/b/new").is_some());
        drop((cat, purge));
        assert!(!claims.purging("/a/new"));
        assert!(!begin("/a/cat").unwrap().is_void());
        claims.void(Name::of("/b/dog"));
        assert!(dog.is_void());
    }
}
