//! The thread pool: bounded, fork-safe, and the only place that names rayon.
//!
//! Results never depend on the number of threads: callers split work by its shape (never by the thread count)
//! and each piece writes its own output. Reductions combine the pieces in index order.
//!
//! Parallel loops inside [`interruptible`] stop early when its `poll` says so. Where the system refuses worker threads, a
//! loop unwinds with [`Error::Io`].

#![forbid(unsafe_code)]

use crate::error::{Error, Result, catch};
use crate::memory;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most threads that a process may be bounded to.
pub const MAX_THREADS: usize = 1024;

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
    let mut both = memory::collect(a.chunks_mut(a_len).zip(b.chunks_mut(b_len)));
    for_each_chunk(&mut both, 1, |i, pair| pair.iter_mut().for_each(|(a, b)| task(i, a, b)));
}

/// `(0..n).map(task)` in parallel, in index order.
pub fn map<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if n < 2 { memory::collect((0..n).map(task)) } else { pool::map(n, task) }
}

/// As [`map`], with a state that each worker makes once and reuses (scratch buffers; it must not carry results).
pub fn map_init<S, T: Send>(
    n: usize,
    init: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    if n < 2 {
        let mut state = init();
        memory::collect((0..n).map(|i| task(&mut state, i)))
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

/// Bounds the threads of all later work in this process: from 1 to [`MAX_THREADS`].
pub fn set_num_threads(n: usize) -> Result<()> {
    if !(1..=MAX_THREADS).contains(&n) {
        return Err(Error::Config(format!("num_threads must be from 1 to {MAX_THREADS}, got {n}")));
    }
    pool::set_num_threads(n);
    Ok(())
}

/// Checks that `RUVECTOR_NUM_THREADS`, if set and not empty, is a number from 1 to [`MAX_THREADS`].
pub fn check_environment() -> Result<()> {
    match std::env::var_os("RUVECTOR_NUM_THREADS") {
        Some(text) if !text.is_empty() && from_environment().is_none() => {
            let text = text.display();
            Err(Error::Config(format!(
                "RUVECTOR_NUM_THREADS must be a number from 1 to {MAX_THREADS}, got {text}"
            )))
        }
        _ => Ok(()),
    }
}

fn from_environment() -> Option<usize> {
    let number = std::env::var("RUVECTOR_NUM_THREADS").ok()?.parse().ok();
    number.filter(|n| (1..=MAX_THREADS).contains(n))
}

/// How often [`interruptible`] calls its `poll`.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The calls of [`interruptible`] that have been stopped and not ended yet, and how many these are.
static STOPPED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static STOPPED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// What asks whether a call is to stop.
pub type Poll = fn() -> Result<()>;

thread_local! {
    /// The number of the interruptible call that this thread works for; 0 without one.
    static CALL: Cell<u64> = const { Cell::new(0) };
    /// On the thread of the call itself: what it polls, and when it did so last.
    static POLL: Cell<Option<(Poll, Instant)>> = const { Cell::new(None) };
}

/// Runs `work`, whose parallel loops end early once `poll` returns an error, which is returned then.
///
/// `poll` is called on this thread, every 50 ms while `work` is in a loop. `work` unwinds: what it changes must stay valid
/// wherever it ends.
pub fn interruptible<R>(poll: Poll, work: impl FnOnce() -> Result<R>) -> Result<R> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let call = NEXT.fetch_add(1, Ordering::Relaxed);
    let outer = (CALL.replace(call), POLL.replace(Some((poll, Instant::now()))));
    let result = catch(work);
    CALL.set(outer.0);
    POLL.set(outer.1);
    result
}

/// Unwinds if the call that this thread works for is to stop. For loops that take long and are not parallel.
pub fn checkpoint() {
    let call = CALL.get();
    if call == 0 {
        return;
    }
    if STOPPED_COUNT.load(Ordering::Relaxed) > 0 && stopped().contains(&call) {
        Error::Interrupted("the call was interrupted".into()).throw();
    }
    poll_when_due().unwrap_or_else(|error| error.throw());
}

/// Polls, on the thread of an interruptible call, unless it did so a moment ago.
fn poll_when_due() -> Result<()> {
    match POLL.get() {
        Some((poll, last)) if last.elapsed() >= POLL_INTERVAL => {
            let answer = poll();
            POLL.set(Some((poll, Instant::now())));
            answer
        }
        _ => Ok(()),
    }
}

fn stopped() -> std::sync::MutexGuard<'static, Vec<u64>> {
    STOPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The locks of this module, held until the guard is dropped: a forked child must not inherit them from a thread that it
/// does not have.
#[cfg(feature = "python")]
pub(crate) fn hold() -> impl Sized {
    (stopped(), pool::hold())
}

#[cfg(feature = "parallel")]
mod pool {
    use super::{CALL, POLL, POLL_INTERVAL, STOPPED_COUNT, checkpoint, poll_when_due, stopped};
    use crate::error::{Error, Result};
    use crate::memory;
    use rayon::prelude::*;
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Condvar, Mutex, PoisonError};

    pub struct State {
        bound: Option<usize>,
        pool: Option<(u32, Arc<rayon::ThreadPool>)>,
    }

    static STATE: Mutex<State> = Mutex::new(State { bound: None, pool: None });

    #[cfg(feature = "python")]
    pub type Held = std::sync::MutexGuard<'static, State>;

    #[cfg(feature = "python")]
    pub fn hold() -> Held {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of this process: after a fork the parent's threads are gone, so the child makes its own.
    fn current() -> Result<Arc<rayon::ThreadPool>> {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        match state.pool.take() {
            Some((owner, pool)) if owner == pid => {
                state.pool = Some((owner, Arc::clone(&pool)));
                return Ok(pool);
            }
            // The parent's pool can't be dropped here: its threads do not exist in this process.
            Some((_, pool)) => std::mem::forget(pool),
            None => {}
        }
        let threads = state.bound.unwrap_or_else(default_threads);
        let name = |i| format!("ruvector-{i}");
        let built = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
        let pool = Arc::new(built.map_err(|refused| Error::Io {
            context: format!("start {threads} worker threads (set_num_threads(1) does without)"),
            source: std::io::Error::other(refused),
        })?);
        state.pool = Some((pid, Arc::clone(&pool)));
        Ok(pool)
    }

    /// [`super::check_environment`] reports a malformed variable; here it counts as unset.
    fn default_threads() -> usize {
        let machine = || std::thread::available_parallelism().map_or(1, usize::from).min(super::MAX_THREADS);
        super::from_environment().unwrap_or_else(machine)
    }

    pub fn num_threads() -> usize {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).bound.unwrap_or_else(default_threads)
    }

    pub fn set_num_threads(n: usize) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        state.bound = Some(n);
        if let Some((owner, pool)) = state.pool.take()
            && owner != std::process::id()
        {
            std::mem::forget(pool);
        }
    }

    /// The interruptible call that a task belongs to, whichever thread runs it.
    #[derive(Clone, Copy)]
    struct Call(u64);

    impl Call {
        fn current() -> Self {
            Self(CALL.get())
        }

        /// Runs a task as part of the call, unless that is to stop.
        fn run<R>(self, task: impl FnOnce() -> R) -> R {
            let _working = Working(CALL.replace(self.0));
            checkpoint();
            task()
        }
    }

    /// Puts back the call that this thread worked for before, when it is dropped.
    struct Working(u64);

    impl Drop for Working {
        fn drop(&mut self) {
            CALL.set(self.0);
        }
    }

    /// Runs inside the pool; nested calls stay where they are. One thread needs no pool at all.
    fn install<R: Send>(task: impl FnOnce() -> R + Send) -> R {
        if rayon::current_thread_index().is_some() {
            return task();
        }
        let pool = current().unwrap_or_else(|error| error.throw());
        if POLL.get().is_none() { pool.install(task) } else { install_polling(&pool, task) }
    }

    /// As `install`, with this thread polling meanwhile.
    fn install_polling<R: Send>(pool: &rayon::ThreadPool, task: impl FnOnce() -> R + Send) -> R {
        let (done, is_done) = (Mutex::new(None), Condvar::new());
        let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
        let Call(call) = Call::current();
        let mut refused = None;
        pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
                *lock() = Some(result);
                is_done.notify_one();
            });
            let mut state = lock();
            while state.is_none() {
                state = is_done.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
                if state.is_none() && refused.is_none() {
                    drop(state);
                    if let Err(error) = poll_when_due() {
                        refused = Some(error);
                        stopped().push(call);
                        STOPPED_COUNT.fetch_add(1, Ordering::Relaxed);
                    }
                    state = lock();
                }
            }
        });
        if let Some(error) = refused {
            stopped().retain(|&other| other != call);
            STOPPED_COUNT.fetch_sub(1, Ordering::Relaxed);
            error.throw();
        }
        match lock().take().expect("the task has ended") {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn serial() -> bool {
        rayon::current_thread_index().is_none() && num_threads() == 1
    }

    pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        if serial() {
            out.chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| {
                checkpoint();
                task(i, chunk);
            });
        } else {
            let call = Call::current();
            let run = |(i, chunk): (usize, &mut [T])| call.run(|| task(i, chunk));
            install(|| out.par_chunks_mut(chunk_len).enumerate().for_each(run));
        }
    }

    pub fn map<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        map_init(n, || (), |(), i| task(i))
    }

    pub fn map_init<S, T: Send>(
        n: usize,
        init: impl Fn() -> S + Sync,
        task: impl Fn(&mut S, usize) -> T + Sync,
    ) -> Vec<T> {
        if serial() {
            let mut state = init();
            memory::collect((0..n).map(|i| {
                checkpoint();
                task(&mut state, i)
            }))
        } else {
            let (call, mut results) = (Call::current(), memory::with_capacity(n));
            let run = |state: &mut S, i| call.run(|| task(state, i));
            install(|| (0..n).into_par_iter().map_init(&init, run).collect_into_vec(&mut results));
            results
        }
    }

    pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        if serial() {
            return (a(), b());
        }
        let call = Call::current();
        install(|| rayon::join(|| call.run(a), || call.run(b)))
    }
}

#[cfg(not(feature = "parallel"))]
mod pool {
    use super::checkpoint;
    use crate::memory;

    #[cfg(feature = "python")]
    pub type Held = ();

    #[cfg(feature = "python")]
    pub fn hold() -> Held {}

    pub fn num_threads() -> usize {
        1
    }

    pub fn set_num_threads(_n: usize) {}

    pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        out.chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| {
            checkpoint();
            task(i, chunk);
        });
    }

    pub fn map<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        map_init(n, || (), |(), i| task(i))
    }

    pub fn map_init<S, T: Send>(
        n: usize,
        init: impl Fn() -> S + Sync,
        task: impl Fn(&mut S, usize) -> T + Sync,
    ) -> Vec<T> {
        let mut state = init();
        memory::collect((0..n).map(|i| {
            checkpoint();
            task(&mut state, i)
        }))
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
    fn zero_and_too_many_threads_are_refused() {
        for n in [0, MAX_THREADS + 1, usize::MAX] {
            assert!(matches!(set_num_threads(n), Err(Error::Config(_))));
        }
    }

    #[test]
    fn a_refusing_poll_ends_loops_of_its_own_call_alone() {
        fn refuse() -> Result<()> {
            Err(Error::Interrupted("enough".into()))
        }
        let slow = |_: usize| std::thread::sleep(Duration::from_millis(2));
        let begin = Instant::now();
        let mut ends = Vec::new();
        let ended = interruptible(refuse, || Ok(map(100, |_| map(100, slow).len())));
        ends.push(ended.is_err());
        let ended: Result<()> = interruptible(refuse, || {
            loop {
                std::thread::sleep(Duration::from_millis(2));
                checkpoint();
            }
        });
        ends.push(matches!(ended, Err(Error::Interrupted(text)) if text == "enough"));
        assert_eq!(ends, [true, true]);
        assert!(begin.elapsed() < Duration::from_secs(5), "20 s of work was to end after 50 ms");
        assert_eq!(interruptible(|| Ok(()), || Ok(map(50, |i| i).len())).unwrap(), 50);
        assert_eq!((map(100, |i| i).len(), STOPPED_COUNT.load(Ordering::Relaxed)), (100, 0));
    }
}
