//! Memory that may be refused.
//!
//! A size that follows from an argument or from data can be larger than what the machine, a container or a limit has left.
//! The standard library's containers end the process then. Tables and results are allocated here instead: a refusal is an
//! [`Error::Memory`], which travels to the caller either as a `Result` or, from functions that return plain values, by
//! unwinding to the nearest [`catch`](crate::error::catch).
//!
//! Small allocations (messages, lists of a few entries) are left to the standard library. With the feature `python` a
//! [`Reserve`] stands behind them, so that they succeed while an error is on its way.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_vec;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Bytes above which a request is compared with the memory that the system has left. Linux grants address space that it
/// does not have memory for, and ends the process that uses it. Asking takes some 50 us, filling so much takes 50 ms.
const COMPARED: usize = 256 << 20;

/// Bytes beyond which no machine has memory: 47 bits of address space.
const ADDRESSABLE: u64 = 1 << 47;

/// Makes room for `additional` more values, and no more.
///
/// # Errors
/// [`Error::Memory`] if that much cannot be had, [`Error::Config`] if no machine has it; nothing has changed then.
pub fn reserve_exact<T>(values: &mut Vec<T>, additional: usize) -> Result<()> {
    if additional <= values.capacity() - values.len() {
        return Ok(());
    }
    let bytes = bytes_of::<T>(additional)?;
    if bytes >= COMPARED {
        require_available(bytes)?;
    }
    refusable(|| values.try_reserve_exact(additional).map_err(drop)).map_err(|()| out_of_memory(bytes))
}

/// An empty vector with room for `len` values.
///
/// # Errors
/// As [`reserve_exact`].
pub fn try_with_capacity<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    reserve_exact(&mut values, len)?;
    Ok(values)
}

/// As [`try_with_capacity`], unwinding with its error.
pub fn with_capacity<T>(len: usize) -> Vec<T> {
    try_with_capacity(len).unwrap_or_else(|error| error.throw())
}

/// `len` zeros, in fresh pages as the system gives them; unwinds with [`Error::Memory`].
pub fn zeros<T: Zeroable>(len: usize) -> Vec<T> {
    let zeros = bytes_of::<T>(len).and_then(|bytes| {
        if bytes >= COMPARED {
            require_available(bytes)?;
        }
        refusable(|| try_zeroed_vec(len)).map_err(|()| out_of_memory(bytes))
    });
    zeros.unwrap_or_else(|error| error.throw())
}

/// `len` copies of `value`; unwinds with [`Error::Memory`].
pub fn filled<T: Clone>(value: T, len: usize) -> Vec<T> {
    let mut values = with_capacity(len);
    values.resize(len, value);
    values
}

/// A copy of `values`; unwinds with [`Error::Memory`].
pub fn copy_of<T: Clone>(values: &[T]) -> Vec<T> {
    let mut copy = with_capacity(values.len());
    copy.extend_from_slice(values);
    copy
}

/// The items of an iterator; unwinds with [`Error::Memory`].
pub fn collect<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let items = items.into_iter();
    let (least, most) = items.size_hint();
    let mut values = with_capacity(least);
    if most == Some(least) {
        values.extend(items);
    } else {
        items.for_each(|item| push(&mut values, item));
    }
    values
}

/// Appends a value, doubling the room where there is none left; unwinds with [`Error::Memory`].
pub fn push<T>(values: &mut Vec<T>, value: T) {
    if values.len() == values.capacity() {
        reserve_exact(values, values.len().max(16)).unwrap_or_else(|error| error.throw());
    }
    values.push(value);
}

/// Lengthens a vector to `len` copies of `value`, if it is shorter; unwinds with [`Error::Memory`].
pub fn resize<T: Clone>(values: &mut Vec<T>, len: usize, value: T) {
    reserve_exact(values, len.saturating_sub(values.len())).unwrap_or_else(|error| error.throw());
    values.resize(len, value);
}

/// `std::vec!`, whose form with a length unwinds with [`Error::Memory`] where memory is refused.
macro_rules! vec {
    (0; $len:expr) => { $crate::memory::zeros($len) };
    (0.0; $len:expr) => { $crate::memory::zeros($len) };
    (false; $len:expr) => { $crate::memory::zeros::<bool>($len) };
    (0u8; $len:expr) => { $crate::memory::zeros::<u8>($len) };
    (0u32; $len:expr) => { $crate::memory::zeros::<u32>($len) };
    (0usize; $len:expr) => { $crate::memory::zeros::<usize>($len) };
    (0.0f32; $len:expr) => { $crate::memory::zeros::<f32>($len) };
    ($number:ident::ZERO; $len:expr) => { $crate::memory::zeros::<$number>($len) };
    ($value:expr; $len:expr) => { $crate::memory::filled($value, $len) };
    ($($value:expr),* $(,)?) => { std::vec![$($value),*] };
}
pub(crate) use vec;

/// Checks that the system has `bytes` left, without taking them: for libraries that allocate on their own.
///
/// # Errors
/// As [`reserve_exact`].
pub fn require(bytes: usize) -> Result<()> {
    try_with_capacity::<u8>(bytes).map(drop)
}

fn bytes_of<T>(len: usize) -> Result<usize> {
    let bytes = (len as u64).checked_mul(size_of::<T>() as u64).filter(|&bytes| bytes < ADDRESSABLE);
    match bytes.map(usize::try_from) {
        Some(Ok(bytes)) => Ok(bytes),
        _ => Err(too_large(&format!("{len} values of {} bytes", size_of::<T>()))),
    }
}

fn out_of_memory(bytes: usize) -> Error {
    Error::Memory(format!("{bytes} bytes of memory can't be had"))
}

fn too_large(what: &str) -> Error {
    Error::Config(format!("{what}: more than any machine has memory for"))
}

fn require_available(bytes: usize) -> Result<()> {
    match available() {
        Some(left) if (bytes as u64) > left => {
            Err(Error::Memory(format!("{bytes} bytes of memory can't be had: the system has {left} left")))
        }
        _ => Ok(()),
    }
}

/// Bytes of memory that the system and the control group of this process have left; `None` where neither says.
#[cfg(target_os = "linux")]
fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let system = read("/proc/meminfo").and_then(|text| field(&text, "MemAvailable:")).map(|kilo| kilo << 10);
    let group = read("/proc/self/cgroup").and_then(|groups| {
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/').to_owned();
        let number = |name: &str| read(&format!("/sys/fs/cgroup{path}/{name}"))?.trim().parse::<u64>().ok();
        let cached = read(&format!("/sys/fs/cgroup{path}/memory.stat"));
        let cached = cached.and_then(|text| field(&text, "inactive_file ")).unwrap_or(0);
        Some((number("memory.max")? + cached).saturating_sub(number("memory.current")?))
    });
    [system, group].into_iter().flatten().min()
}

/// Bytes of memory that the machine has.
#[cfg(all(unix, not(target_os = "linux")))]
fn available() -> Option<u64> {
    // SAFETY: `sysconf` reads a setting, and answers -1 where it does not know it.
    let [pages, size] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?)
}

#[cfg(not(unix))]
fn available() -> Option<u64> {
    None
}

/// The system's allocator with some memory set aside for the time when there is none left.
///
/// A request of the standard library's containers that the system refuses is met by giving the reserve back to the
/// system, instead of ending the process; requests of this module's are refused. The reserve is address space that is
/// never touched, so it takes no memory before it is needed.
#[derive(Debug)]
pub struct Reserve {
    held: AtomicPtr<u8>,
}

/// Room for messages, the packed blocks of a matrix product, and tables of millions of small entries.
const RESERVE: Layout = match Layout::from_size_align(32 << 20, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a valid layout"),
};

thread_local! {
    /// Whether this thread takes a refusal for an answer.
    static REFUSABLE: Cell<bool> = const { Cell::new(false) };
}

/// Makes a request of the allocator whose refusal is an answer.
fn refusable<R, E: Default>(request: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    #[cfg(test)]
    if faults::is_refused() {
        return Err(E::default());
    }
    REFUSABLE.set(true);
    let answer = request();
    REFUSABLE.set(false);
    answer
}

/// Refusals on demand, for tests.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Runs `work`, in which the request of this thread after `granted` others is refused.
    pub fn refuse_after<R>(granted: usize, work: impl FnOnce() -> R) -> R {
        LEFT.set(Some(granted));
        let result = work();
        LEFT.set(None);
        result
    }

    pub(super) fn is_refused() -> bool {
        let left = LEFT.get();
        LEFT.set(left.and_then(|left| left.checked_sub(1)));
        left == Some(0)
    }
}

impl Reserve {
    /// No reserve yet; see [`fill`](Self::fill).
    #[allow(clippy::new_without_default)] // const: it is the global allocator
    pub const fn new() -> Self {
        Self { held: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Sets memory aside unless that was done already; `false` if it can't be had.
    pub fn fill(&self) -> bool {
        if !self.held.load(Ordering::Relaxed).is_null() {
            return true;
        }
        // SAFETY: the layout has a size above 0.
        let fresh = unsafe { System.alloc(RESERVE) };
        let stored = self.held.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Relaxed);
        if stored.is_err() && !fresh.is_null() {
            // SAFETY: allocated above with this layout, and seen by no other thread.
            unsafe { System.dealloc(fresh, RESERVE) };
        }
        stored.is_err() || !fresh.is_null()
    }

    /// What `request` gives; where that is nothing, what it gives after the reserve has been given back.
    fn or_from_reserve(&self, request: impl Fn() -> *mut u8) -> *mut u8 {
        let memory = request();
        if !memory.is_null() || REFUSABLE.get() {
            return memory;
        }
        let held = self.held.swap(ptr::null_mut(), Ordering::AcqRel);
        if !held.is_null() {
            // SAFETY: allocated by `fill` with this layout; the swap made this thread its only holder.
            unsafe { System.dealloc(held, RESERVE) };
        }
        request()
    }
}

// SAFETY: all calls are passed on to the system's allocator, with the caller's promises.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        self.or_from_reserve(|| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        self.or_from_reserve(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as promised by the caller; a refused call leaves `old` as it was.
        self.or_from_reserve(|| unsafe { System.realloc(old, layout, size) })
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(old, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::catch;

    #[test]
    fn sizes_are_checked_in_bytes() {
        assert!(matches!(try_with_capacity::<f64>(usize::MAX), Err(Error::Config(_))));
        assert!(matches!(try_with_capacity::<f64>(1 << 45), Err(Error::Config(_))));
        assert!(matches!(catch(|| Ok(zeros::<f32>(1 << 45))), Err(Error::Config(_))));
    }

    #[test]
    fn what_is_not_there_is_refused_and_nothing_changes() {
        let mut values = std::vec![1u8, 2];
        assert!(matches!(reserve_exact(&mut values, 1 << 46), Err(Error::Memory(_))));
        assert_eq!(values, [1, 2]);
        assert!(matches!(catch(|| Ok(vec![0u8; 1 << 46])), Err(Error::Memory(_))));
        assert_eq!(vec![7u8; 3], [7, 7, 7]);
        assert_eq!(collect((0..4).map(|i| i * i)), [0, 1, 4, 9]);
        assert_eq!(copy_of(&[1, 2]), vec![1, 2]);
    }

    #[test]
    fn the_reserve_meets_one_request_that_the_system_refuses() {
        let reserve = Reserve::new();
        assert!(reserve.fill() && reserve.fill());
        let refused_once = Cell::new(true);
        let request = || if refused_once.replace(false) { ptr::null_mut() } else { ptr::dangling_mut() };
        assert_eq!(refusable::<_, ()>(|| Ok(reserve.or_from_reserve(request))), Ok(ptr::null_mut()));
        assert!(!reserve.held.load(Ordering::Relaxed).is_null(), "not for requests that may be refused");
        refused_once.set(true);
        assert!(!reserve.or_from_reserve(request).is_null());
        assert!(reserve.held.load(Ordering::Relaxed).is_null());
        reserve.fill();
        assert!(!reserve.held.load(Ordering::Relaxed).is_null());
        reserve.or_from_reserve(ptr::null_mut);
    }
}
