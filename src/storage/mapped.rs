//! A file read where the system keeps it: pages come in when they are touched and go when memory is short.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The bytes of a mapped file.
///
/// They stay what they were when another file is renamed over its name, as [`replace`](super::replace()) does. A file that
/// is written in place, or shortened, changes under its readers, and reading past the new end kills the process.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    #[cfg(feature = "mmap")]
    map: memmap2::Mmap,
    #[cfg(not(feature = "mmap"))]
    map: std::convert::Infallible,
}

impl Mapped {
    /// Maps the file at `path`; [`Error::Config`] where the feature `mmap` is not compiled in.
    #[cfg(feature = "mmap")]
    pub fn open(path: &Path) -> Result<Self> {
        let reading = || format!("read {}", path.display());
        let file = super::open_regular(path)?;
        let path = std::path::absolute(path).map_err(Error::io(reading()))?;
        // SAFETY: the map is only read. Files of this crate are replaced by renaming, never written in place; that nobody
        // else does so is the caller's to see to, as documented above.
        let map = unsafe { memmap2::Mmap::map(&file) };
        let map = map.map_err(Error::io(format!("map {}", path.display())))?;
        Ok(Self { path, map })
    }

    /// Maps the file at `path`; [`Error::Config`] where the feature `mmap` is not compiled in.
    #[cfg(not(feature = "mmap"))]
    pub fn open(path: &Path) -> Result<Self> {
        Err(Error::Config(format!("{}: mapping needs the feature `mmap`, which is off", path.display())))
    }

    /// Where the file was when it was opened, from the root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        #[cfg(feature = "mmap")]
        return &self.map;
        #[cfg(not(feature = "mmap"))]
        match self.map {}
    }
}
