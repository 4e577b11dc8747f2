//! The thread pool: bounded, fork-safe, and the only place that names rayon.
//!
//! Results never depend on the number of threads: callers split work by its shape (never by the thread count)
//! and each piece writes its own output. Reductions combine the pieces in index order.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// Runs `task(i, chunk)` for each `chunk_len`-long chunk of `out` (the last may be shorter), in parallel.
pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    assert!(chunk_len > 0, "chunk_len must be positive");
    if out.len() <= chunk_len {
        if !out.is_empty() {
            task(0, out);
        }
        return;
    }
    pool::for_each_chunk(out, chunk_len, task);
}

/// As [`for_each_chunk`], over two slices of equally many chunks.
///
/// # Panics
/// If one slice has more chunks than the other.
pub fn for_each_chunk_of_both<A: Send, B: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    task: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    assert!(a_len > 0 && b_len > 0, "chunk lengths must be positive");
    assert_eq!(a.len().div_ceil(a_len), b.len().div_ceil(b_len), "chunks of both slices");
    let mut both: Vec<_> = a.chunks_mut(a_len).zip(b.chunks_mut(b_len)).collect();
    for_each_chunk(&mut both, 1, |i, pair| pair.iter_mut().for_each(|(a, b)| task(i, a, b)));
}

/// `(0..n).map(task)` in parallel, in index order.
pub fn map<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if n < 2 { (0..n).map(task).collect() } else { pool::map(n, task) }
}

/// As [`map`], with a state that each worker makes once and reuses (scratch buffers; it must not carry results).
pub fn map_init<S, T: Send>(
    n: usize,
    init: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    if n < 2 {
        let mut state = init();
        (0..n).map(|i| task(&mut state, i)).collect()
    } else {
        pool::map_init(n, init, task)
    }
}

/// Runs two tasks, in parallel where threads are free.
pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    pool::join(a, b)
}

/// The bound on threads: `set_num_threads`, else `RUVECTOR_NUM_THREADS`, else the machine's parallelism.
pub fn num_threads() -> usize {
    pool::num_threads()
}

/// Bounds the threads of all later work in this process. `n` must be at least 1.
pub fn set_num_threads(n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::Config("num_threads must be at least 1, got 0".into()));
    }
    pool::set_num_threads(n);
    Ok(())
}

/// Checks that `RUVECTOR_NUM_THREADS`, if set, is a positive number.
pub fn check_environment() -> Result<()> {
    match std::env::var_os("RUVECTOR_NUM_THREADS") {
        Some(text) if from_environment().is_none() => {
            let text = text.display();
            Err(Error::Config(format!("RUVECTOR_NUM_THREADS must be a positive number, got {text}")))
        }
        _ => Ok(()),
    }
}

fn from_environment() -> Option<usize> {
    std::env::var("RUVECTOR_NUM_THREADS").ok()?.parse().ok().filter(|&n| n > 0)
}

#[cfg(feature = "parallel")]
mod pool {
    use rayon::prelude::*;
    use std::sync::{Arc, Mutex, PoisonError};

    struct State {
        bound: Option<usize>,
        pool: Option<(u32, Arc<rayon::ThreadPool>)>,
    }

    static STATE: Mutex<State> = Mutex::new(State { bound: None, pool: None });

    /// The pool of this process: after a fork the parent's threads are gone, so the child makes its own.
    fn current() -> Arc<rayon::ThreadPool> {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        match state.pool.take() {
            Some((owner, pool)) if owner == pid => {
                state.pool = Some((owner, Arc::clone(&pool)));
                return pool;
            }
            // The parent's pool can't be dropped here: its threads do not exist in this process.
            Some((_, pool)) => std::mem::forget(pool),
            None => {}
        }
        let threads = state.bound.unwrap_or_else(default_threads);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("ruvector-{i}"))
            .build()
            .expect("the operating system refused to start worker threads");
        let pool = Arc::new(pool);
        state.pool = Some((pid, Arc::clone(&pool)));
        pool
    }

    /// [`super::check_environment`] reports a malformed variable; here it counts as unset.
    fn default_threads() -> usize {
        super::from_environment()
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    pub fn num_threads() -> usize {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).bound.unwrap_or_else(default_threads)
    }

    pub fn set_num_threads(n: usize) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        state.bound = Some(n);
        state.pool = None;
    }

    /// Runs inside the pool; nested calls stay where they are. One thread needs no pool at all.
    fn install<R: Send>(task: impl FnOnce() -> R + Send) -> R {
        if rayon::current_thread_index().is_some() { task() } else { current().install(task) }
    }

    fn serial() -> bool {
        rayon::current_thread_index().is_none() && num_threads() == 1
    }

    pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        if serial() {
            out.chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| task(i, chunk));
        } else {
            install(|| out.par_chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| task(i, chunk)));
        }
    }

    pub fn map<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        if serial() {
            (0..n).map(task).collect()
        } else {
            install(|| (0..n).into_par_iter().map(&task).collect())
        }
    }

    pub fn map_init<S, T: Send>(
        n: usize,
        init: impl Fn() -> S + Sync,
        task: impl Fn(&mut S, usize) -> T + Sync,
    ) -> Vec<T> {
        if serial() {
            let mut state = init();
            (0..n).map(|i| task(&mut state, i)).collect()
        } else {
            install(|| (0..n).into_par_iter().map_init(&init, |state, i| task(state, i)).collect())
        }
    }

    pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        if serial() { (a(), b()) } else { install(|| rayon::join(a, b)) }
    }
}

#[cfg(not(feature = "parallel"))]
mod pool {
    pub fn num_threads() -> usize {
        1
    }

    pub fn set_num_threads(_n: usize) {}

    pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        out.chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| task(i, chunk));
    }

    pub fn map<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        (0..n).map(task).collect()
    }

    pub fn map_init<S, T: Send>(
        n: usize,
        init: impl Fn() -> S + Sync,
        task: impl Fn(&mut S, usize) -> T + Sync,
    ) -> Vec<T> {
        let mut state = init();
        (0..n).map(|i| task(&mut state, i)).collect()
    }

    pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        (a(), b())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_keeps_index_order_and_chunks_cover_everything() {
        assert_eq!(map(1000, |i| i * i), (0..1000).map(|i| i * i).collect::<Vec<_>>());
        let mut out = vec![0usize; 1003];
        for_each_chunk(&mut out, 10, |i, chunk| {
            chunk.iter_mut().enumerate().for_each(|(j, v)| *v = i * 10 + j)
        });
        assert_eq!(out, (0..1003).collect::<Vec<_>>());
        let (mut tens, mut ones) = ([0; 25], [0; 3]);
        for_each_chunk_of_both((&mut tens, 10), (&mut ones, 1), |i, tens, ones| {
            tens.fill(i + 1);
            ones[0] = tens.len();
        });
        assert_eq!((tens[9], tens[10], tens[24], ones), (1, 2, 3, [10, 10, 5]));
        assert_eq!(join(|| 1, || 2), (1, 2));
    }

    #[test]
    fn zero_threads_is_refused() {
        assert!(matches!(set_num_threads(0), Err(Error::Config(_))));
    }
}
