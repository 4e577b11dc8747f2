//! One error type for the whole crate; each variant is one exception class in Python.

#![forbid(unsafe_code)]

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. The message names the argument, what was given and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array has the wrong shape, an unusable type, or holds NaN or infinity (`ShapeError`).
    #[error("{0}")]
    Shape(String),
    /// A parameter is outside its domain, or a call does not fit the object's state (`ConfigError`).
    #[error("{0}")]
    Config(String),
    /// An unknown id or name (`NotFoundError`).
    #[error("{0}")]
    NotFound(String),
    /// A row or node number that is out of range or no longer lives (`RowError`).
    #[error("{0}")]
    Row(String),
    /// A damaged, truncated or foreign file (`FormatError`).
    #[error("{0}")]
    Format(String),
    /// The operating system refused (`OSError` and its family).
    #[error("{context}: {source}")]
    Io {
        /// What was being done, and to which file.
        context: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A [`Monitor`](crate::monitor::Monitor) asked the work to stop (Ctrl-C, or a callback that raised).
    #[error("{0}")]
    Interrupted(String),
    /// Memory that the system does not have (`MemoryError`). See [`memory`](crate::memory).
    #[error("{0}")]
    Memory(String),
}

impl Error {
    /// An I/O error with what was being done, e.g. `Error::io("write index.rvx")(source)`.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// Unwinds with this error to the nearest [`catch`]: for refusals and interruptions deep inside functions that return
    /// plain values. No message is printed.
    pub fn throw(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
}

/// Runs `work` and returns its error, or the one that it was [thrown](Error::throw). Other panics go on.
///
/// What `work` changes must stay valid when it ends early: plan on the side and commit at the end, or undo.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => match payload.downcast::<Error>() {
            Ok(error) => Err(*error),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// Returns a [`Error::Shape`] unless every value is finite; `name` is the argument's name.
pub fn require_finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::Shape(format!("{name} must be finite: value {at} is {}", values[at]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thrown_error_is_caught_from_any_thread_of_the_pool() {
        let caught = catch(|| {
            Ok(crate::threads::map(100, |i| if i == 57 { Error::Memory("here".into()).throw() } else { i }))
        });
        assert!(matches!(caught, Err(Error::Memory(text)) if text == "here"));
        assert_eq!(catch(|| Ok(3)).unwrap(), 3);
    }

    #[test]
    fn other_panics_go_on() {
        let panic = std::panic::catch_unwind(|| catch::<()>(|| std::panic::resume_unwind(Box::new(5))));
        assert_eq!(panic.unwrap_err().downcast_ref::<i32>(), Some(&5));
    }
}
