//! Buffers that are reused: a training step asks for the same sizes again and again, and fresh pages from the
//! operating system cost as much as the arithmetic done in them.
//!
//! A large [`Buffer`] returns to its type's [`Pool`] when it is dropped, and the next request of that size (or a
//! little less) takes it from there. The pool holds at most as much as was ever in use at once, so that a training step
//! finds all it needs after the first, and [`CAPACITY`] bytes in any case; the oldest buffers leave first. Where the
//! system refuses memory, the waiting buffers are given back before the request unwinds with
//! [`Error::Memory`].

#![forbid(unsafe_code)]

use crate::error::{Error, catch};
use crate::lines::Lines;
use crate::real::Real;
use crate::threads;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that may wait for reuse, per number type, even where less was ever in use.
pub const CAPACITY: usize = 256 << 20;

/// Smaller buffers are left to the allocator, which serves them without asking the operating system.
const POOLED: usize = 32 << 10;

/// Values per task of a copy.
const COPY: usize = 1 << 16;

/// Whether no value is NaN or infinite.
pub fn all_finite<T: Real>(values: &[T]) -> bool {
    let pieces = threads::map(values.len().div_ceil(COPY), |piece| {
        let values = &values[piece * COPY..values.len().min((piece + 1) * COPY)];
        // Without an early end, which would keep the loop from vector instructions.
        values.iter().fold(true, |all, value| all & value.is_finite())
    });
    pieces.into_iter().all(|finite| finite)
}

/// Values that somebody else owns: an array of the caller's, a mapped file.
pub type Shared<T> = Arc<dyn AsRef<[T]> + Send + Sync>;

/// Values of one tensor, gradient or saved intermediate.
pub struct Buffer<T: Real>(Store<T>);

enum Store<T> {
    Own(Lines<T>),
    Shared(Shared<T>),
}

impl<T: Real> Buffer<T> {
    /// A buffer whose values are arbitrary: every one must be written before it is read.
    pub fn stale(len: usize) -> Self {
        Self(Store::Own(T::pool().take(len).unwrap_or_else(|| T::pool().fresh(len))))
    }

    /// All zero.
    pub fn zeros(len: usize) -> Self {
        Self::filled(len, T::ZERO)
    }

    /// All `value`.
    pub fn filled(len: usize, value: T) -> Self {
        let mut buffer = Self::stale(len);
        buffer.fill(value);
        buffer
    }

    /// A copy of `values`.
    pub fn copy_of(values: &[T]) -> Self {
        let mut copy = Self::stale(values.len());
        threads::for_each_chunk(&mut copy, COPY, |chunk, out| {
            out.copy_from_slice(&values[chunk * COPY..][..out.len()]);
        });
        copy
    }

    /// Reads the values where they are; the first write copies them.
    pub fn shared(values: Shared<T>) -> Self {
        Self(Store::Shared(values))
    }
}

impl<T: Real> Default for Buffer<T> {
    fn default() -> Self {
        Self(Store::Own(Lines::new()))
    }
}

impl<T: Real> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self::copy_of(&values)
    }
}

impl<T: Real> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self::copy_of(self)
    }
}

impl<T: Real> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.0 {
            Store::Own(values) => values,
            Store::Shared(values) => (**values).as_ref(),
        }
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if let Store::Shared(values) = &self.0 {
            *self = Self::copy_of((**values).as_ref());
        }
        match &mut self.0 {
            Store::Own(values) => values,
            Store::Shared(_) => unreachable!("shared values were copied"),
        }
    }
}

impl<T: Real> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Store::Own(values) = &mut self.0
            && size_of_val(&**values) >= POOLED
        {
            T::pool().give(std::mem::take(values));
        }
    }
}

/// Room for a little more where the buffer will be reused: mini-batches ask for a slightly different length each time.
/// What is never written costs no memory.
fn roomy<T>(len: usize) -> usize {
    if counted::<T>(len) == 0 { len } else { len.saturating_add(len / 8) }
}

/// The bytes of a buffer that is pooled, else 0.
fn counted<T>(len: usize) -> usize {
    Some(len.saturating_mul(size_of::<T>())).filter(|&bytes| bytes >= POOLED).unwrap_or(0)
}

/// Buffers of one number type that wait for reuse, oldest first.
#[derive(Debug)]
pub struct Pool<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<Lines<T>>,
    /// Bytes in use, and the most that ever were.
    used: usize,
    peak: usize,
}

impl<T> State<T> {
    /// Counts a buffer of `len` values as in use.
    fn count(&mut self, len: usize) {
        self.used += counted::<T>(len);
        self.peak = self.peak.max(self.used);
    }
}

impl<T: Real> Pool<T> {
    /// An empty pool.
    #[allow(clippy::new_without_default)] // const: it lives in a static
    pub const fn new() -> Self {
        Self(Mutex::new(State { waiting: VecDeque::new(), used: 0, peak: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of the pool, held until the guard is dropped: a forked child must not inherit it from a thread that it does
    /// not have.
    #[cfg(feature = "python")]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.state()
    }

    fn take(&self, len: usize) -> Option<Lines<T>> {
        if counted::<T>(len) == 0 {
            return None;
        }
        let mut state = self.state();
        // The most recently dropped one is the likeliest to be in the cache.
        let waiting = &state.waiting;
        let exact = waiting.iter().rposition(|buffer| buffer.len() == len);
        let fits = |buffer: &Lines<T>| buffer.room() >= len && buffer.room() <= len + len / 4;
        let at = exact.or_else(|| waiting.iter().rposition(fits))?;
        let mut buffer = state.waiting.remove(at)?;
        state.count(len);
        drop(state);
        buffer.truncate(len);
        buffer.grow(len, T::ZERO);
        Some(buffer)
    }

    /// A new buffer, from the system. Where it has too little memory, what waits here is given back and it is asked again.
    fn fresh(&self, len: usize) -> Lines<T> {
        let allocated = || catch(|| Ok(Lines::with_room(len, roomy::<T>(len))));
        let second = |refused| {
            self.clear();
            if let Error::Memory(_) = refused { allocated() } else { Err(refused) }
        };
        let buffer = allocated().or_else(second).unwrap_or_else(|refused| refused.throw());
        self.state().count(len);
        buffer
    }

    fn give(&self, buffer: Lines<T>) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(size_of_val(&*buffer));
        state.waiting.push_back(buffer);
        // Buffers have room for an eighth more than was asked for.
        let room = (state.peak + state.peak / 4).max(CAPACITY);
        let mut bytes: usize = state.waiting.iter().map(Lines::bytes).sum();
        let mut evicted = Vec::new();
        while bytes > room {
            let Some(oldest) = state.waiting.pop_front() else { break };
            bytes -= oldest.bytes();
            evicted.push(oldest);
        }
        drop(state);
    }

    /// Hands all waiting buffers back to the allocator.
    pub fn clear(&self) {
        let waiting = std::mem::take(&mut self.state().waiting);
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_comes_back_and_a_smaller_request_may_take_it() {
        let pool: Pool<f64> = Pool::new();
        pool.give(Lines::zeros(100_000));
        assert!(pool.take(50_000).is_none(), "far too large");
        let buffer = pool.take(90_000).unwrap();
        assert_eq!(buffer.len(), 90_000);
        assert!(pool.take(90_000).is_none(), "taken");
        pool.give(buffer);
        assert_eq!(pool.take(100_000).map(|buffer| buffer.len()), Some(100_000), "its room is not lost");
    }

    #[test]
    fn the_pool_is_bounded() {
        let pool: Pool<f64> = Pool::new();
        let quarter = CAPACITY / 4 / 8;
        (0..6).for_each(|_| pool.give(Lines::zeros(quarter)));
        assert_eq!(pool.state().waiting.len(), 4);
        pool.clear();
        // What was in use at once may wait at once.
        (0..6).for_each(|_| assert!(pool.take(quarter).is_none()));
        (0..6).for_each(|_| pool.state().count(quarter));
        (0..9).for_each(|_| pool.give(Lines::zeros(quarter)));
        assert_eq!(pool.state().waiting.len(), 7);
    }

    #[test]
    fn shared_values_are_read_in_place_and_copied_by_the_first_write() {
        let owner = Arc::new(vec![1.0f64, 2.0]);
        let mut buffer = Buffer::shared(owner.clone());
        assert_eq!(buffer.as_ptr(), owner.as_ptr());
        buffer[0] = 5.0;
        assert_eq!((&buffer[..], &owner[..]), (&[5.0, 2.0][..], &[1.0, 2.0][..]));
    }

    #[test]
    fn one_value_that_is_not_finite_is_found_anywhere() {
        let mut values = vec![1.0f64; 3 * COPY + 5];
        assert!(all_finite(&values) && all_finite::<f64>(&[]));
        for (at, wrong) in [(0, f64::NAN), (2 * COPY, f64::INFINITY), (3 * COPY + 4, f64::NEG_INFINITY)] {
            values[at] = wrong;
            assert!(!all_finite(&values));
            values[at] = 1.0;
        }
    }

    #[test]
    fn zeros_are_zero_even_when_reused() {
        drop(Buffer::<f64>::filled(12_345, 7.0));
        assert!(Buffer::<f64>::zeros(12_345).iter().all(|&value| value == 0.0));
    }
}
