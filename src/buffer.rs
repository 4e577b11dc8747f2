//! Buffers that are reused: a training step asks for the same sizes again and again, and fresh pages from the
//! operating system cost as much as the arithmetic done in them.
//!
//! A large [`Buffer`] returns to its type's [`Pool`] when it is dropped, and the next request of that size (or a
//! little less) takes it from there. The pool holds at most [`CAPACITY`] bytes; the oldest buffers leave first.

#![forbid(unsafe_code)]

use crate::real::Real;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Bytes that wait for reuse, per number type.
pub const CAPACITY: usize = 256 << 20;

/// Smaller buffers are left to the allocator, which serves them without asking the operating system.
const POOLED: usize = 32 << 10;

/// Values of one tensor, gradient or saved intermediate.
#[derive(Debug, Default)]
pub struct Buffer<T: Real>(Vec<T>);

impl<T: Real> Buffer<T> {
    /// A buffer whose values are arbitrary: every one must be written before it is read.
    pub fn stale(len: usize) -> Self {
        Self(T::pool().take(len).unwrap_or_else(|| {
            let mut fresh = vec![T::ZERO; roomy::<T>(len)];
            fresh.truncate(len);
            fresh
        }))
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

    /// The values as a vector, which does not return to the pool.
    pub fn into_vec(mut self) -> Vec<T> {
        std::mem::take(&mut self.0)
    }
}

impl<T: Real> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self(values)
    }
}

impl<T: Real> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::stale(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        if size_of_val(&*self.0) >= POOLED {
            T::pool().give(std::mem::take(&mut self.0));
        }
    }
}

/// Room for a little more where the buffer will be reused: mini-batches ask for a slightly different length each time.
/// What is never written costs no memory.
fn roomy<T>(len: usize) -> usize {
    if len * size_of::<T>() < POOLED { len } else { len + len / 8 }
}

/// Buffers of one number type that wait for reuse, oldest first.
#[derive(Debug)]
pub struct Pool<T> {
    waiting: Mutex<VecDeque<Vec<T>>>,
}

impl<T: Real> Pool<T> {
    /// An empty pool.
    #[allow(clippy::new_without_default)] // const: it lives in a static
    pub const fn new() -> Self {
        Self { waiting: Mutex::new(VecDeque::new()) }
    }

    fn take(&self, len: usize) -> Option<Vec<T>> {
        if len * size_of::<T>() < POOLED {
            return None;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // The most recently dropped one is the likeliest to be in the cache.
        let exact = waiting.iter().rposition(|buffer| buffer.len() == len);
        let fits = |buffer: &Vec<T>| buffer.capacity() >= len && buffer.capacity() <= len + len / 4;
        let at = exact.or_else(|| waiting.iter().rposition(fits))?;
        let mut buffer = waiting.remove(at)?;
        drop(waiting);
        buffer.resize(len, T::ZERO);
        Some(buffer)
    }

    fn give(&self, buffer: Vec<T>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(buffer);
        let mut bytes: usize = waiting.iter().map(|buffer| buffer.capacity() * size_of::<T>()).sum();
        let mut evicted = Vec::new();
        while bytes > CAPACITY {
            let Some(oldest) = waiting.pop_front() else { break };
            bytes -= oldest.capacity() * size_of::<T>();
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
        pool.give(vec![3.0; 100_000]);
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
        (0..6).for_each(|_| pool.give(vec![0.0; CAPACITY / 4 / 8]));
        assert_eq!(pool.waiting.lock().unwrap().len(), 4);
        pool.clear();
        assert!(pool.take(CAPACITY / 4 / 8).is_none());
    }

    #[test]
    fn zeros_are_zero_even_when_reused() {
        drop(Buffer::<f64>::filled(12_345, 7.0));
        assert!(Buffer::<f64>::zeros(12_345).iter().all(|&value| value == 0.0));
    }
}
