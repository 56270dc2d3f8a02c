//! The accounts, and what the policy keeps.

use super::*;
use proptest::prelude::*;

const KIB: u64 = 1024;
const MUCH: i64 = i64::MAX;

fn name(number: u64) -> Name {
    Name::of(&number.to_string())
}

impl Shelf {
    fn put(&mut self, name: Name, cost: u64, spare: i64) -> Result<(), Full> {
        while !self.reserve(name, cost, self.room(spare))? {
            let gone = self.make_room(cost, self.room(spare));
            if gone.is_empty() {
                return Err(Full::Room);
            }
            gone.into_iter().for_each(|gone| self.removed(gone));
        }
        self.written(cost / 2);
        if let Some(gone) = self.commit(name, cost - cost / 2) {
            self.removed(gone);
        }
        Ok(())
    }

    fn total(&self) -> u64 {
        self.kept + self.pending + self.gone
    }

    fn check(&self) {
        assert!(self.kept + self.pending <= self.capacity, "{:?}", self.sums());
        assert_eq!(self.cache.weight() * UNIT, self.kept + self.pending + self.ballast);
        let kept: Vec<u64> = self.cache.iter().map(|(_, entry)| bytes(entry.kept)).filter(|cost| *cost > 0).collect();
        assert_eq!(kept.len(), self.objects);
        assert_eq!(kept.iter().sum::<u64>(), self.kept);
    }
}

#[test]
fn it_keeps_to_its_budget_and_to_what_the_disk_has_to_spare() {
    let mut shelf = Shelf::new(1000 * KIB);
    for number in 0..500 {
        shelf.put(name(number), 10 * KIB, MUCH).unwrap();
        shelf.check();
    }
    assert_eq!(shelf.sums(), Sums { objects: 100, kept: 1000 * KIB, pending: 0, gone: 0 });
    assert_eq!(shelf.room(-300 * 1024), 700 * KIB);
    let gone = shelf.make_room(0, shelf.room(-300 * 1024));
    assert_eq!(gone.len(), 30);
    assert_eq!(shelf.sums().gone, 300 * KIB);
    assert_eq!(shelf.room(MUCH), 700 * KIB, "their bytes are not back yet");
    gone.into_iter().for_each(|gone| shelf.removed(gone));
    assert_eq!(shelf.room(MUCH), 1000 * KIB);
    shelf.check();
}

#[test]
fn at_most_a_quarter_is_pending_and_a_name_has_one_writer() {
    let mut shelf = Shelf::new(1000 * KIB);
    assert_eq!(shelf.reserve(name(0), 251 * KIB, 1000 * KIB), Err(Full::Pending));
    assert_eq!(shelf.reserve(name(0), 200 * KIB, 1000 * KIB), Ok(true));
    assert_eq!(shelf.reserve(name(0), 10 * KIB, 1000 * KIB), Err(Full::Taken));
    assert_eq!(shelf.reserve(name(1), 51 * KIB, 1000 * KIB), Err(Full::Pending));
    assert_eq!(shelf.reserve(name(1), 10 * KIB, 100 * KIB), Err(Full::Room));
    assert_eq!(shelf.find(name(0)), None, "it is not there before it is whole");
    assert_eq!(shelf.unwritten(), 200 * KIB);
    shelf.abandon(name(0), 200 * KIB);
    assert_eq!((shelf.unwritten(), shelf.sums().pending), (0, 0));
    shelf.check();
}

#[test]
fn bytes_that_a_reader_holds_open_are_not_given_out_again() {
    let mut shelf = Shelf::new(100 * KIB);
    shelf.put(name(0), 20 * KIB, MUCH).unwrap();
    let serial = shelf.find(name(0)).unwrap();
    shelf.begin_read(serial);
    shelf.begin_read(serial);
    let gone = shelf.remove(name(0)).unwrap();
    shelf.removed(gone);
    assert_eq!(shelf.sums(), Sums { objects: 0, kept: 0, pending: 0, gone: 20 * KIB });
    shelf.end_read(serial);
    assert_eq!(shelf.sums().gone, 20 * KIB);
    shelf.end_read(serial);
    assert_eq!(shelf.sums().gone, 0);
}

#[test]
fn what_is_read_while_it_is_loaded_counts_until_its_reader_ends() {
    let mut shelf = Shelf::new(100 * KIB);
    let mut reading = Vec::new();
    for number in 0..10 {
        assert_eq!(shelf.load(name(number), 10 * KIB), []);
        let serial = shelf.find(name(number)).unwrap();
        shelf.begin_read(serial);
        reading.push(serial);
    }
    // The budget is smaller than it was when these were written.
    let gone = shelf.load(name(10), 20 * KIB);
    assert!(!gone.is_empty());
    gone.into_iter().for_each(|gone| shelf.removed(gone));
    let over = shelf.total() - 100 * KIB;
    assert!(over > 0, "the files are there, and so are those held open");
    assert_eq!(shelf.reserve(name(11), 10 * KIB, shelf.room(MUCH)), Ok(false), "nothing is added on top");
    reading.into_iter().for_each(|serial| shelf.end_read(serial));
    assert!(shelf.total() <= 100 * KIB);
    shelf.check();
}

#[test]
fn a_scan_leaves_what_is_asked_for_again() {
    let mut shelf = Shelf::new(1000 * KIB);
    for number in 0..50 {
        shelf.put(name(number), 10 * KIB, MUCH).unwrap();
    }
    for number in 1000..3000 {
        shelf.put(name(number), 10 * KIB, MUCH).unwrap();
        shelf.find(name(number % 50));
    }
    let left = (0..50).filter(|number| shelf.find(name(*number)).is_some()).count();
    assert!(left >= 45, "{left} of 50");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, u64, i64),
    Reserve(u64, u64),
    Commit,
    Abandon,
    Remove(u64),
    Find(u64),
    Read(u64),
    EndRead,
    Load(u64, u64),
}

fn name_and_cost() -> (impl Strategy<Value = u64> + Clone, impl Strategy<Value = u64> + Clone) {
    (0u64..40, (1u64..30).prop_map(|kib| kib * KIB))
}

/// What happens before the index is ready: objects are found, and may be read already.
fn step_of_start() -> impl Strategy<Value = Step> {
    let (name, cost) = name_and_cost();
    prop_oneof![
        4 => (name.clone(), cost).prop_map(|(name, cost)| Step::Load(name, cost)),
        1 => name.clone().prop_map(Step::Find),
        2 => name.prop_map(Step::Read),
        1 => Just(Step::EndRead),
    ]
}

/// What happens once it is.
fn step() -> impl Strategy<Value = Step> {
    let (name, cost) = name_and_cost();
    prop_oneof![
        4 => (name.clone(), cost.clone(), -50_000i64..200_000).prop_map(|(name, cost, spare)| Step::Put(name, cost, spare)),
        2 => (name.clone(), cost.clone()).prop_map(|(name, cost)| Step::Reserve(name, cost)),
        1 => Just(Step::Commit),
        1 => Just(Step::Abandon),
        1 => name.clone().prop_map(Step::Remove),
        3 => name.clone().prop_map(Step::Find),
        1 => name.prop_map(Step::Read),
        1 => Just(Step::EndRead),
    ]
}

proptest! {
    #[test]
    fn the_accounts_hold_after_every_step(
        start in proptest::collection::vec(step_of_start(), 0..100),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut shelf = Shelf::new(200 * KIB);
        let (mut pending, mut reading) = (Vec::new(), Vec::new());
        for step in start.into_iter().chain(steps) {
            // What is found at start is there, whatever the budget is by now. Nothing else goes above it.
            let most = if let Step::Load(..) = step { u64::MAX } else { shelf.total().max(shelf.capacity) };
            match step {
                Step::Put(number, cost, spare) => { let _ = shelf.put(name(number), cost, spare); }
                Step::Reserve(number, cost) => {
                    if shelf.reserve(name(number), cost, shelf.room(MUCH)) == Ok(true) {
                        prop_assert!(shelf.total() <= shelf.capacity);
                        pending.push((name(number), cost));
                    }
                }
                Step::Commit => if let Some((name, cost)) = pending.pop()
                    && let Some(gone) = shelf.commit(name, cost) { shelf.removed(gone) },
                Step::Abandon => if let Some((name, cost)) = pending.pop() { shelf.abandon(name, cost) },
                Step::Remove(number) => if let Some(gone) = shelf.remove(name(number)) { shelf.removed(gone) },
                Step::Find(number) => { shelf.find(name(number)); }
                Step::Read(number) => if let Some(serial) = shelf.find(name(number)) {
                    shelf.begin_read(serial);
                    reading.push(serial);
                },
                Step::EndRead => if let Some(serial) = reading.pop() { shelf.end_read(serial) },
                Step::Load(number, cost) => {
                    shelf.load(name(number), cost).into_iter().for_each(|gone| shelf.removed(gone));
                }
            }
            shelf.check();
            prop_assert!(shelf.total() <= most, "{:?}", shelf.sums());
            prop_assert_eq!(shelf.pending, pending.iter().map(|(_, cost)| cost).sum::<u64>());
        }
        pending.drain(..).for_each(|(name, cost)| shelf.abandon(name, cost));
        reading.drain(..).for_each(|serial| shelf.end_read(serial));
        prop_assert_eq!((shelf.gone, shelf.pending, shelf.unwritten), (0, 0, 0));
    }
}
