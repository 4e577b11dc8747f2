//! Buffers that are reused: a training step asks for the same sizes again and again, and fresh pages from the
//! operating system cost as much as the arithmetic done in them.
//!
//! A large [`Buffer`] returns to its type's [`Pool`] when it is dropped, and the next request of that size (or a
//! little less) takes it from there. The pool holds at most [`CAPACITY`] bytes; the oldest buffers leave first.

#![forbid(unsafe_code)]

use crate::lines::Lines;
use crate::real::Real;
use crate::simd::vectorized;
use crate::threads;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that wait for reuse, per number type.
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
        vectorized(|| values.iter().fold(true, |all, value| all & value.is_finite()))
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
        Self(Store::Own(T::pool().take(len).unwrap_or_else(|| Lines::zeros(len))))
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

/// Buffers of one number type that wait for reuse, oldest first.
#[derive(Debug)]
pub struct Pool<T> {
    waiting: Mutex<VecDeque<Lines<T>>>,
}

impl<T: Real> Pool<T> {
    /// An empty pool.
    #[allow(clippy::new_without_default)] // const: it lives in a static
    pub const fn new() -> Self {
        Self { waiting: Mutex::new(VecDeque::new()) }
    }

    fn take(&self, len: usize) -> Option<Lines<T>> {
        if len * size_of::<T>() < POOLED {
            return None;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // The most recently dropped one is the likeliest to be in the cache.
        let exact = waiting.iter().rposition(|buffer| buffer.len() == len);
        let at =
            exact.or_else(|| waiting.iter().rposition(|b| b.len() >= len && b.len() <= len + len / 4))?;
        let mut buffer = waiting.remove(at)?;
        drop(waiting);
        buffer.truncate(len);
        Some(buffer)
    }

    fn give(&self, buffer: Lines<T>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(buffer);
        let mut bytes: usize = waiting.iter().map(Lines::bytes).sum();
        let mut evicted = Vec::new();
        while bytes > CAPACITY {
            let Some(oldest) = waiting.pop_front() else { break };
            bytes -= oldest.bytes();
            evicted.push(oldest);
        }
        drop(waiting);
    }

    /// Hands all waiting buffers back to the allocator.
    pub fn clear(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
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
        assert_eq!(pool.take(90_000).map(|buffer| buffer.len()), Some(90_000));
        assert!(pool.take(90_000).is_none(), "taken");
    }

    #[test]
    fn the_pool_is_bounded() {
        let pool: Pool<f64> = Pool::new();
        (0..6).for_each(|_| pool.give(Lines::zeros(CAPACITY / 4 / 8)));
        assert_eq!(pool.waiting.lock().unwrap().len(), 4);
        pool.clear();
        assert!(pool.take(CAPACITY / 4 / 8).is_none());
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
