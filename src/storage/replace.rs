//! Atomic replacement of a file.

#![forbid(unsafe_code)]

use super::place::{self, Access};
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer names do not stand in the temporary one, which must fit in the 255 bytes of a name.
const MAX_SHOWN: usize = 200;

/// The steps of a replacement: the system's, or in the tests one that fails or dies at any step.
pub(super) trait FileSystem {
    type File: Write;
    /// Who may use a file.
    type Access;
    /// Follows symbolic links to the path that the file has or will have.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// Returns who may use the file at a resolved path, `None` if there is none; an error unless it is a regular file.
    fn access(&self, path: &Path) -> io::Result<Option<Self::Access>>;
    /// Makes a file, which must not be there yet: for its owner alone if `private`, else as the process makes files.
    fn create(&self, path: &Path, private: bool) -> io::Result<Self::File>;
    /// Gives a file the owner and the mode of another, or less where the system does not permit that.
    fn set_access(&self, file: &Self::File, access: &Self::Access) -> io::Result<()>;
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
    type Access = Access;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        place::resolve(path)
    }

    fn access(&self, path: &Path) -> io::Result<Option<Access>> {
        Access::at(path)
    }

    fn create(&self, path: &Path, private: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, if private { 0o600 } else { 0o666 });
        #[cfg(not(unix))]
        let _ = private;
        options.open(path)
    }

    fn set_access(&self, file: &File, access: &Access) -> io::Result<()> {
        access.apply(file)
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

/// Replaces the file at `path` by what `write` writes.
///
/// The content goes into a temporary file beside `path`, which is flushed to the disk and renamed; then the directory is
/// flushed. After a crash at any instant `path` holds the old content or the new, whole. After an error it holds the old
/// one, except where flushing the directory failed: then it holds the new one, which a power loss may take back.
///
/// The new file keeps the mode, owner and group of the one it replaces. Where the process may not give a file away, the
/// file stays its own, without setuid, setgid and what only the old group was allowed. The temporary file is never
/// readable to more users than the file at `path`. A file that was not there is made with the mode that the process gives
/// to new files.
///
/// A symbolic link stays, and the file it leads to is replaced. Other hard links to a file keep the old content. Access
/// control lists and other extended attributes are not copied.
///
/// # Errors
///
/// [`Error::Io`] where the system refuses, and for directories, pipes, sockets and devices, before anything is written.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    replace_on(&Disk, path, write)
}

pub(super) fn replace_on<F: FileSystem>(
    files: &F,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let refused = || Error::io(format!("write {}", path.display()));
    let path = &files.resolve(path).map_err(refused())?;
    let replaced = files.access(path).map_err(refused())?;
    let name = path.file_name().ok_or_else(|| Error::Config(format!("{} names no file", path.display())))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let (temporary, file) = create_beside(files, directory, name, replaced.is_some()).map_err(refused())?;
    written(files, file, write, || Ok(files.access(path)?.or(replaced)))
        .and_then(|()| files.rename(&temporary, path))
        .map_err(|source| {
            // The error that matters is the first one; a leftover temporary file is harmless.
            let _ = files.remove(&temporary);
            refused()(source)
        })?;
    let flushed = files.flush_names(directory);
    flushed.map_err(Error::io(format!("flush the directory of {}", path.display())))
}

/// Writes and flushes the file; `access` gives the last word on who may use it, since writing can take minutes.
fn written<F: FileSystem>(
    files: &F,
    file: F::File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    access: impl FnOnce() -> io::Result<Option<F::Access>>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    write(&mut writer)?;
    writer.flush()?;
    if let Some(access) = access()? {
        files.set_access(writer.get_ref(), &access)?;
    }
    files.flush(writer.get_ref())
}

/// Makes a new file beside the one to be replaced. Names that are taken are stepped over: a killed process leaves its
/// temporary file, and process numbers come again, in a container every time.
fn create_beside<F: FileSystem>(
    files: &F,
    directory: &Path,
    name: &OsStr,
    private: bool,
) -> io::Result<(PathBuf, F::File)> {
    loop {
        let path = directory.join(temporary_name(name));
        match files.create(&path, private) {
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (path, file)),
        }
    }
}

/// Returns a hidden name, different for every writer on this machine.
fn temporary_name(name: &OsStr) -> OsString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hidden = OsString::from(".");
    hidden.push(if name.len() <= MAX_SHOWN { name } else { OsStr::new("ruvector_gnn") });
    hidden.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    hidden
}
