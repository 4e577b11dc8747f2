//! The locks that [`shared`](crate::shared) is built of, so that its model check can put others in their place.

#![forbid(unsafe_code)]

pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
pub(crate) use std::thread::ThreadId;

pub(crate) fn this_thread() -> ThreadId {
    std::thread::current().id()
}
