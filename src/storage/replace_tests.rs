//! Replacement of a file on a disk that refuses, dies or loses power at any step.

use super::replace::{FileSystem, replace_on};
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

type Names = BTreeMap<PathBuf, usize>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// One step fails, as on a full disk; those after it work.
    Refused,
    /// The process is gone: this step and all after it do nothing.
    Killed,
}

#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    flushed: Vec<u8>,
}

/// One directory: what processes see, and what a power loss leaves.
#[derive(Default)]
struct State {
    names: Names,
    flushed_names: Names,
    files: Vec<Content>,
    /// So many files seem to be there already when they are first created.
    taken: usize,
    steps: usize,
    fault: Option<(Fault, usize)>,
}

#[derive(Clone, Default)]
struct Model(Rc<RefCell<State>>);

struct Handle(Model, usize);

impl State {
    /// Counts a step; an error if it is the one that fails.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.fault {
            Some((Fault::Refused, at)) if at == self.steps => Err(io::ErrorKind::StorageFull.into()),
            Some((Fault::Killed, at)) if at <= self.steps => Err(io::Error::other("dead")),
            _ => Ok(()),
        }
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.borrow_mut();
        let outcome = state.step();
        // A write that fails may have begun, unless the writer was gone before.
        let begun = !matches!(state.fault, Some((_, at)) if at < state.steps) || outcome.is_ok();
        let written = if outcome.is_ok() { bytes.len() } else { bytes.len() / 2 };
        if begun {
            state.files[self.1].seen.extend_from_slice(&bytes[..written]);
        }
        outcome.map(|()| written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileSystem for Model {
    type File = Handle;

    fn create(&self, path: &Path) -> io::Result<Handle> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        if state.taken > 0 {
            state.taken -= 1;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.files.len();
        state.files.push(Content::default());
        assert_eq!(state.names.insert(path.to_owned(), number), None, "a name is used once");
        Ok(Handle(self.clone(), number))
    }

    fn flush(&self, file: &Handle) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        let content = &mut state.files[file.1];
        content.flushed = content.seen.clone();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        let number = state.names.remove(from).expect("only what is there is renamed");
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn flush_names(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        assert_eq!(directory, Path::new("data"));
        state.step()?;
        state.flushed_names = state.names.clone();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        state.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

const PATH: &str = "data/index.rvx";
const OLD: &[u8] = b"old";

/// Longer than the writer's buffer, so that it goes to the disk in several writes.
fn new_content() -> Vec<u8> {
    (0..300_000u32).map(|at| (at % 251) as u8).collect()
}

/// A disk on which [`PATH`] holds [`OLD`].
fn disk(fault: Option<(Fault, usize)>) -> Model {
    let names = Names::from([(PathBuf::from(PATH), 0)]);
    let files = vec![Content { seen: OLD.to_vec(), flushed: OLD.to_vec() }];
    Model(Rc::new(RefCell::new(State {
        flushed_names: names.clone(),
        names,
        files,
        fault,
        ..State::default()
    })))
}

fn replaced(disk: &Model) -> Result<()> {
    replace_on(disk, Path::new(PATH), |out| {
        new_content().chunks(50_000).try_for_each(|part| out.write_all(part))
    })
}

/// What stands under [`PATH`] for other processes, and after a power loss that left the names as they were or as they
/// were last flushed: a file system may write names out earlier than it is asked to.
fn worlds(disk: &Model) -> [Vec<u8>; 3] {
    let state = disk.0.borrow();
    let (now, then) = (state.names[Path::new(PATH)], state.flushed_names[Path::new(PATH)]);
    [state.files[now].seen.clone(), state.files[now].flushed.clone(), state.files[then].flushed.clone()]
}

#[test]
fn a_fault_at_any_step_leaves_the_old_content_or_the_new() {
    let whole = disk(None);
    replaced(&whole).unwrap();
    assert_eq!(worlds(&whole), [new_content(), new_content(), new_content()]);
    let steps = whole.0.borrow().steps;
    assert!(steps >= 4 + 4, "create, several writes, two flushes and a rename: {steps}");
    for fault in [Fault::Refused, Fault::Killed] {
        for step in 1..=steps {
            let disk = disk(Some((fault, step)));
            assert!(matches!(replaced(&disk), Err(Error::Io { .. })), "{fault:?} at {step}");
            for content in worlds(&disk) {
                assert!(content == OLD || content == new_content(), "{fault:?} at {step}: torn");
            }
            let seen = worlds(&disk)[0].clone();
            assert_eq!(seen == OLD, step < steps, "only the last step comes after the rename");
            let left = disk.0.borrow().names.len() > 1;
            assert_eq!(left, fault == Fault::Killed && 1 < step && step < steps, "{fault:?} at {step}");
        }
    }
}

#[test]
fn names_that_a_killed_process_left_are_stepped_over() {
    let disk = disk(None);
    disk.0.borrow_mut().taken = 3;
    replaced(&disk).unwrap();
    assert_eq!(worlds(&disk)[0], new_content());
}
