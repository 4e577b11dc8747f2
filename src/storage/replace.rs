//! Atomic replacement of a file.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What replacing a file asks of a file system: the system's, or in the tests one that fails or dies at any step.
pub(super) trait FileSystem {
    type File: Write;
    /// Makes a file, which must not be there yet.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Returns once the content has reached the disk.
    fn flush(&self, file: &Self::File) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns once the names in a directory have reached the disk.
    fn flush_names(&self, directory: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
}

struct Disk;

impl FileSystem for Disk {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    fn flush(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn flush_names(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Puts what `write` writes in the place of `path`: into a sibling temporary file, which is flushed to the disk,
/// renamed over `path`, and made lasting by flushing the directory. After a crash at any instant `path` holds the
/// old content or the new, whole. After an error it holds the old one, except that when flushing the directory fails
/// it holds the new one, which a power loss may take back.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    replace_on(&Disk, path, write)
}

pub(super) fn replace_on(
    files: &impl FileSystem,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::Config(format!("{} names no file", path.display())))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let refused = || Error::io(format!("write {}", path.display()));
    let (temporary, file) = create_beside(files, directory, name).map_err(refused())?;
    written(files, file, write).and_then(|()| files.rename(&temporary, path)).map_err(|source| {
        // The error that matters is the first one; a leftover temporary file is harmless.
        let _ = files.remove(&temporary);
        refused()(source)
    })?;
    let flushed = files.flush_names(directory);
    flushed.map_err(Error::io(format!("flush the directory of {}", path.display())))
}

fn written<F: FileSystem>(
    files: &F,
    file: F::File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    write(&mut writer)?;
    writer.flush()?;
    files.flush(writer.get_ref())
}

/// A new file beside the one to be replaced. Names that are taken are stepped over: a killed process leaves its
/// temporary file, and process numbers come again, in a container every time.
fn create_beside<F: FileSystem>(files: &F, directory: &Path, name: &OsStr) -> io::Result<(PathBuf, F::File)> {
    loop {
        let path = directory.join(temporary_name(name));
        match files.create(&path) {
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (path, file)),
        }
    }
}

/// Hidden, and different for every writer on this machine.
fn temporary_name(name: &OsStr) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    hidden.into()
}
