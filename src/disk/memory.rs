//! The memory tier: small objects that were asked for again, whole and verified.
//!
//! An object gets here when it is read from the disk, not when it is written: what is asked for once stays out.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::meta::Meta;
use super::name::Name;

pub struct Memory {
    /// `None` when the budget is 0.
    cache: Option<Cache<Name, Arc<Small>, Weigh>>,
}

/// A whole object in memory.
pub struct Small {
    pub key: String,
    pub meta: Arc<Meta>,
    pub body: Bytes,
    /// Bytes of the allocation that `body` is a part of.
    pub held: usize,
}

/// Parts that the budget is split into, each with its lock, and how many of the largest objects a part must hold.
const PARTS: u64 = 8;
const PART_HOLDS: u64 = 16;
/// Bytes by which the number of names is chosen that are remembered after their object went.
const USUAL: u64 = 4096;
/// Bytes of an entry's own structures.
const BESIDE: usize = 320;

impl Memory {
    /// Objects of at most `object_max` bytes within `budget` bytes.
    pub fn new(budget: u64, object_max: u64) -> Memory {
        let parts = (budget / (object_max.max(1) * PART_HOLDS)).clamp(1, PARTS);
        let parts = 1 << parts.ilog2();
        let names = usize::try_from((budget / USUAL).clamp(32 * parts, 1 << 22)).unwrap_or(1024);
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(names).weight_capacity(budget / parts * parts);
        options.shards(usize::try_from(parts).unwrap_or(1));
        // invariant: both of the values that have no default are set.
        let options = options.build().expect("complete options");
        let build = || Cache::with_options(options, Weigh, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Memory { cache: (budget > 0).then(build) }
    }

    pub fn get(&self, name: Name, key: &str) -> Option<Arc<Small>> {
        self.cache.as_ref()?.get(&name).filter(|small| small.key == key)
    }

    pub fn insert(&self, name: Name, small: Arc<Small>) {
        if let Some(cache) = &self.cache {
            cache.insert(name, small);
        }
    }

    /// Gives an object that is here other metadata. `false` when it is not here.
    pub fn refresh(&self, name: Name, meta: &Arc<Meta>) -> bool {
        let Some(cache) = &self.cache else { return false };
        let Some(small) = cache.peek(&name) else { return false };
        let small = Small { key: small.key.clone(), meta: meta.clone(), body: small.body.clone(), held: small.held };
        cache.replace(name, Arc::new(small), true).is_ok()
    }

    pub fn remove(&self, name: Name) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.remove(&name).is_some())
    }

    pub fn remove_prefix(&self, prefix: &str) {
        if let Some(cache) = &self.cache {
            cache.retain(|_, small| !small.key.starts_with(prefix));
        }
    }

    /// Bytes and objects.
    pub fn sums(&self) -> (u64, u64) {
        self.cache.as_ref().map_or((0, 0), |cache| (cache.weight(), cache.len() as u64))
    }
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Name, Arc<Small>> for Weigh {
    fn weight(&self, _: &Name, small: &Arc<Small>) -> u64 {
        (small.held + small.key.len() + small.meta.weight() + BESIDE) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn small(key: &str, length: usize) -> Arc<Small> {
        let meta = Arc::new(Meta::new(UNIX_EPOCH, Vec::new()));
        Arc::new(Small { key: key.to_owned(), meta, body: vec![1; length].into(), held: length })
    }

    #[test]
    fn it_keeps_to_its_budget() {
        for (budget, object_max) in [(0, 100), (1000, 1000), (100_000, 1000), (10_000_000, 1000)] {
            let memory = Memory::new(budget, object_max);
            for number in 0..3000 {
                let key = number.to_string();
                memory.insert(Name::of(&key), small(&key, 600));
                assert!(memory.sums().0 <= budget, "{budget}");
            }
            assert_eq!(memory.sums().1 > 0, budget > 0, "{budget}");
        }
    }

    #[test]
    fn what_is_removed_or_refreshed_is_so_at_once() {
        let memory = Memory::new(100_000, 1000);
        for key in ["/a/1", "/a/2", "/b/1"] {
            memory.insert(Name::of(key), small(key, 10));
        }
        assert!(memory.get(Name::of("/a/1"), "/a/2").is_none(), "a name is no key");
        let meta = Arc::new(Meta::new(UNIX_EPOCH, vec![("etag".to_owned(), vec![])]));
        assert!(memory.refresh(Name::of("/b/1"), &meta));
        assert!(!memory.refresh(Name::of("/c"), &meta));
        assert_eq!(memory.get(Name::of("/b/1"), "/b/1").unwrap().meta, meta);
        memory.remove_prefix("/a/");
        assert_eq!(memory.sums().1, 1);
        assert!(memory.remove(Name::of("/b/1")));
        assert_eq!(memory.sums(), (0, 0));
    }
}
