//! What `src/shared.rs` promises, checked by loom in every order in which threads can meet.
//!
//! The value is a toy index: rows, each of which is stored in one commit and linked in the next, as real ones are.

#![cfg(test)]

#[path = "../../../src/shared.rs"]
mod shared;

mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock};
    pub(crate) use loom::thread::ThreadId;

    pub(crate) fn this_thread() -> ThreadId {
        loom::thread::current().id()
    }
}

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use shared::Shared;

/// A toy index, with one number on each of its sides.
#[derive(Debug, Default)]
struct Toy {
    stored: Vec<usize>,
    linked: Vec<usize>,
    held: usize,
}

/// Adds a row as the index does, in two plans and two commits. Returns its number.
fn add(index: &Shared<Toy>) -> usize {
    let mut writer = index.writer().expect("this thread is not writing");
    let row = writer.plan(|toy| toy.stored.len());
    writer.commit(|toy| {
        assert_eq!(toy.stored.len(), row, "another writer came between plan and commit");
        toy.stored.push(row);
    });
    let link = writer.plan(|toy| toy.linked.len());
    writer.commit(|toy| {
        assert_eq!((link, toy.linked.len()), (row, row), "another writer came between two steps");
        toy.linked.push(link);
        toy.held += 1;
    });
    row
}

/// Removes the last row in one commit.
fn remove(index: &Shared<Toy>) {
    let mut writer = index.writer().expect("this thread is not writing");
    let row = writer.plan(|toy| toy.held - 1);
    writer.commit(|toy| {
        toy.stored.truncate(row);
        toy.linked.truncate(row);
        toy.held = row;
    });
}

/// How many rows a search sees; all of them must be whole.
fn search(index: &Shared<Toy>) -> usize {
    index.read(|toy| {
        assert_eq!(toy.held, toy.linked.len());
        assert!(toy.stored.len() - toy.held <= 1 && toy.stored.starts_with(&toy.linked));
        toy.held
    })
}

#[test]
fn a_search_sees_whole_rows_and_all_that_were_acknowledged() {
    loom::model(|| {
        let index = Arc::new(Shared::new(Toy::default()));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let writer = {
            let (index, acknowledged) = (Arc::clone(&index), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let row = add(&index);
                acknowledged.store(row + 1, Ordering::Release);
            })
        };
        let known = acknowledged.load(Ordering::Acquire);
        assert!(search(&index) >= known);
        writer.join().unwrap();
        assert_eq!(search(&index), 1);
    });
}

#[test]
fn a_search_that_starts_after_a_removal_does_not_see_the_row() {
    loom::model(|| {
        let index = Arc::new(Shared::new(Toy::default()));
        add(&index);
        let gone = Arc::new(AtomicUsize::new(0));
        let writer = {
            let (index, gone) = (Arc::clone(&index), Arc::clone(&gone));
            thread::spawn(move || {
                remove(&index);
                gone.store(1, Ordering::Release);
            })
        };
        let known = gone.load(Ordering::Acquire);
        assert!(search(&index) + known <= 1);
        writer.join().unwrap();
    });
}

#[test]
fn writers_take_turns_from_the_first_plan_to_the_last_commit() {
    loom::model(|| {
        let index = Arc::new(Shared::new(Toy::default()));
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || add(&index))
        };
        let mine = add(&index);
        let theirs = other.join().unwrap();
        assert_eq!(mine + theirs, 1);
        assert_eq!(search(&index), 2);
    });
}

#[test]
fn a_writer_may_read_but_not_begin_another_change() {
    loom::model(|| {
        let index = Arc::new(Shared::new(Toy::default()));
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || add(&index))
        };
        let writer = index.writer().unwrap();
        assert!(index.writer().is_none());
        search(&index);
        drop(writer);
        drop(index.writer().unwrap());
        other.join().unwrap();
    });
}
