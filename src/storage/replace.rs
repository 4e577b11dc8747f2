//! Atomic replacement of a file.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Puts what `write` writes in the place of `path`: into a sibling temporary file, which is flushed to the disk,
/// renamed over `path`, and made lasting by flushing the directory. After a crash at any instant `path` holds the
/// old content or the new, whole; after an error it holds the old one.
pub fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::Config(format!("{} names no file", path.display())))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(temporary_name(name));
    written(&temporary, write).and_then(|()| fs::rename(&temporary, path)).map_err(|source| {
        // The error that matters is the first one; a leftover temporary file is harmless.
        let _ = fs::remove_file(&temporary);
        Error::io(format!("write {}", path.display()))(source)
    })?;
    let flushed = File::open(directory).and_then(|directory| directory.sync_all());
    flushed.map_err(Error::io(format!("flush the directory of {}", path.display())))
}

fn written(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    write(&mut writer)?;
    writer.flush()?;
    writer.get_ref().sync_all()
}

/// Hidden, and different for every writer on this machine.
fn temporary_name(name: &std::ffi::OsStr) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    hidden.into()
}
