//! A value that many threads read while one at a time changes it.
//!
//! A change takes turns: it is *planned* beside the readers, from the value as it stands, then *committed* alone. Work
//! belongs into the plan; readers wait for the commit, so that should only copy what was planned. There may be several
//! such steps to a change, and between them no lock on the value is held. Writers wait for each other from the first step
//! to the last, so nobody else changes the value between a plan and its commit.
//!
//! `tests/locking` runs this file under a model checker, through every order in which threads can meet.

#![forbid(unsafe_code)]

use crate::sync::{Mutex, MutexGuard, RwLock, ThreadId, this_thread};
use std::sync::PoisonError;

/// A value shared between readers and writers.
#[derive(Debug)]
pub struct Shared<T> {
    value: RwLock<T>,
    turn: Mutex<()>,
    /// The thread whose turn it is.
    writer: Mutex<Option<ThreadId>>,
}

impl<T> Shared<T> {
    /// Shares a value.
    pub fn new(value: T) -> Self {
        Self { value: RwLock::new(value), turn: Mutex::new(()), writer: Mutex::new(None) }
    }

    /// Looks at the value, which does not change meanwhile. Waits for a commit at most.
    pub fn read<R>(&self, task: impl FnOnce(&T) -> R) -> R {
        task(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the writer at work, and begins a change. `None` if this thread is that writer: it would wait for ever.
    pub fn writer(&self) -> Option<Writer<'_, T>> {
        if *self.current() == Some(this_thread()) {
            return None;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *self.current() = Some(this_thread());
        Some(Writer { shared: self, _turn: turn })
    }

    fn current(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who may change a shared value, until it is dropped.
#[derive(Debug)]
pub struct Writer<'a, T> {
    shared: &'a Shared<T>,
    _turn: MutexGuard<'a, ()>,
}

impl<T> Writer<'_, T> {
    /// Looks at the value, beside readers. What is seen stays true until the next commit.
    pub fn plan<R>(&self, task: impl FnOnce(&T) -> R) -> R {
        self.shared.read(task)
    }

    /// Changes the value, alone. What it returns is dropped beside readers.
    pub fn commit<R>(&mut self, task: impl FnOnce(&mut T) -> R) -> R {
        task(&mut self.shared.value.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Drop for Writer<'_, T> {
    fn drop(&mut self) {
        *self.shared.current() = None;
    }
}
