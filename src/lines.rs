//! A growable array for large tables: it starts on a cache line and, where the system grants them, lies on huge
//! pages.
//!
//! A row that starts on a line is read with aligned loads and touches no line too many; and random rows of a table
//! of many megabytes miss the processor's page tables at nearly every step unless a page is 2 MiB.
//!
//! Growing unwinds with [`Error::Memory`](crate::Error::Memory) where memory is refused, and has changed nothing then.

#![allow(unsafe_code)]

use crate::memory;
use crate::threads;
use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;

/// Lines that are filled between two looks at whether the call is to stop: 64 MiB.
const LINES_PER_CHECKPOINT: usize = 1 << 20;

#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; 64]);

/// Numbers, contiguous from the start of a 64-byte line. Reads and writes go through the slice. A copy has room to grow.
pub struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Lines<T> {
    const PER_LINE: usize = 64 / size_of::<T>();

    /// An empty array.
    pub fn new() -> Self {
        Self { lines: Vec::new(), len: 0, values: PhantomData }
    }

    /// `len` zeros, with room for `room` values in all, which costs no memory before it is used.
    pub fn with_room(len: usize, room: usize) -> Self {
        let mut lines = Self::new();
        allocate(&mut lines.lines, room.div_ceil(Self::PER_LINE));
        lines.grow(len, T::zeroed());
        lines
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut lines = Self::new();
        lines.grow(len, T::zeroed());
        lines
    }

    /// Lengthens the array to `len` values, the new ones equal to `value`. Room grows to what is needed, and by an eighth
    /// at least, so that adding one row at a time costs amortised constant time and little spare memory.
    pub fn grow(&mut self, len: usize, value: T) {
        let (old, lines) = (self.len, len.div_ceil(Self::PER_LINE));
        if lines > self.lines.capacity() {
            let more = with_spare(lines, self.lines.len()) - self.lines.len();
            allocate(&mut self.lines, more);
        }
        // Fresh pages take longer than anything done with them: a gigabyte takes a second.
        while self.lines.len() < lines {
            let next = lines.min(self.lines.len() + LINES_PER_CHECKPOINT);
            self.lines.resize(next, Line::zeroed());
            threads::checkpoint();
        }
        self.len = len.max(old);
        self[old..].fill(value);
    }

    /// Makes room for `len` values in all, and no more.
    pub fn reserve(&mut self, len: usize) {
        let lines = len.div_ceil(Self::PER_LINE);
        if lines > self.lines.capacity() {
            let more = lines - self.lines.len();
            allocate(&mut self.lines, more);
        }
    }

    /// Shortens the array to `len` values.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.lines.truncate(self.len.div_ceil(Self::PER_LINE));
    }

    /// Gives back what memory is not needed; where there is too little to move the values, they stay.
    pub fn shrink(&mut self) {
        let mut lines = Vec::new();
        if self.lines.capacity() > self.lines.len()
            && memory::reserve_exact(&mut lines, self.lines.len()).is_ok()
        {
            ask_for_huge_pages(&lines);
            lines.extend_from_slice(&self.lines);
            self.lines = lines;
        }
    }

    /// Values that fit without asking for memory.
    pub fn room(&self) -> usize {
        self.lines.capacity() * Self::PER_LINE
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }
}

/// Makes room for more lines, on huge pages where there are any.
fn allocate(lines: &mut Vec<Line>, more: usize) {
    memory::reserve_exact(lines, more).unwrap_or_else(|error| error.throw());
    ask_for_huge_pages(lines);
}

/// Lines beyond those asked for.
fn spare(lines: usize) -> usize {
    (lines / 8).max(4)
}

impl<T> Clone for Lines<T> {
    fn clone(&self) -> Self {
        let mut lines = Vec::new();
        allocate(&mut lines, self.lines.len() + spare(self.lines.len()));
        lines.extend_from_slice(&self.lines);
        Self { lines, len: self.len, values: PhantomData }
    }
}

impl<T: Pod> Default for Lines<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Pod> std::ops::Deref for Lines<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> std::ops::DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl<T> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} values)", self.len)
    }
}

/// Room for `len` values where `old` are held: an eighth more than these, unless more is needed.
fn with_spare(len: usize, old: usize) -> usize {
    if old == 0 { len } else { len.max(old + (old / 8).max(4)) }
}

/// Makes room for `len` values, and some more if that is less than an eighth of those held.
pub fn make_room<T>(values: &mut Vec<T>, len: usize) {
    if len > values.capacity() {
        let more = with_spare(len, values.len()) - values.len();
        memory::reserve_exact(values, more).unwrap_or_else(|error| error.throw());
    }
}

/// As [`Lines::grow`], of a plain vector.
pub fn lengthen<T: Copy>(values: &mut Vec<T>, len: usize, value: T) {
    make_room(values, len);
    values.resize(len.max(values.len()), value);
}

/// Tells the system that the allocation wants huge pages; it may decline, which costs speed alone.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(lines: &Vec<Line>) {
    const HUGE: usize = 2 << 20;
    let start = (lines.as_ptr() as usize).next_multiple_of(HUGE);
    let end = (lines.as_ptr() as usize + lines.capacity() * size_of::<Line>()) / HUGE * HUGE;
    if start < end {
        // SAFETY: the range lies within an allocation that this vector owns, and the advice changes no content.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_lines: &Vec<Line>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks_like_a_vector_on_whole_lines() {
        let mut lines = Lines::<u32>::new();
        let mut reference = Vec::new();
        for (len, value) in [(3, 7), (5, 1), (40, 2), (1000, 3), (700_000, 4)] {
            lines.grow(len, value);
            reference.resize(len, value);
            assert_eq!(&lines[..], &reference[..]);
            assert_eq!(lines.as_ptr() as usize % 64, 0);
        }
        lines.truncate(4);
        lines.shrink();
        assert_eq!((lines.bytes(), lines.as_ptr() as usize % 64), (64, 0));
        lines.grow(30, 9);
        reference.truncate(4);
        reference.resize(30, 9);
        assert_eq!(&lines[..], &reference[..]);
        assert!(Lines::<f32>::zeros(0).is_empty());
    }

    #[test]
    fn room_is_what_is_needed_or_an_eighth() {
        let mut lines = Lines::<u32>::zeros(16_000);
        lines.grow(32_000, 0);
        assert_eq!(lines.room(), 32_000);
        lines.grow(32_001, 0);
        assert_eq!(lines.room(), 36_000);
        lines.reserve(40_000);
        assert_eq!((lines.room(), lines.len()), (40_000, 32_001));
        let mut values = vec![1u8; 800];
        lengthen(&mut values, 801, 2);
        assert_eq!((values.capacity(), values.len(), values[800]), (900, 801, 2));
        lengthen(&mut values, 2_000, 3);
        assert_eq!(values.capacity(), 2_000);
    }
}
