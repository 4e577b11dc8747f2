//! Paths as they are found on the disk: where they lead, what kind of file is there, and who may read it.
//!
//! Only regular files are read and replaced. A pipe or a terminal would block, `/dev/zero` has no end, and a rename over a
//! device would take it from the whole system.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// As many symbolic links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// Opens a regular file for reading, without waiting for the writer of a pipe.
///
/// # Errors
///
/// [`Error::Format`] for pipes, sockets and devices; [`Error::Io`] for directories and where the system refuses.
pub fn open_regular(path: &Path) -> Result<File> {
    let opening = || Error::io(format!("open {}", path.display()));
    let check = |found: Metadata| match found.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(opening()(refusal(IS_DIRECTORY, "is a directory"))),
        kind => {
            let text = format!("{}: expected a regular file, got {}", path.display(), describe(kind));
            Err(Error::Format(text))
        }
    };
    // Opening alone may disturb a device or wake the writer of a pipe.
    check(fs::metadata(path).map_err(opening())?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(opening())?;
    // Another file may have taken the name since.
    check(file.metadata().map_err(opening())?)?;
    Ok(file)
}

/// Returns the path that a file written to `path` would have, without symbolic links in its last part.
///
/// As with `open(2)`, a link that leads to nothing names the file to make, and a path that ends in a slash names none.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let found = match fs::metadata(path) {
        Ok(found) => Some(found),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(found) = &found {
        require_regular(found)?;
    }
    let mut place = path.to_owned();
    for _ in 0..=MAX_LINKS {
        require_name(&place)?;
        match fs::symlink_metadata(&place) {
            Ok(link) if link.file_type().is_symlink() => {
                let target = fs::read_link(&place)?;
                place.pop();
                place.push(target);
            }
            Ok(_) => return Ok(place),
            // `/proc/self/fd/1` leads to an open file whatever name it shows.
            Err(error) if error.kind() == io::ErrorKind::NotFound && found.is_some() => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the link leads to a file without a name; expected the path of a regular file",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(place),
            Err(error) => return Err(error),
        }
    }
    Err(refusal(TOO_MANY_LINKS, "too many symbolic links"))
}

#[cfg(unix)]
const TOO_MANY_LINKS: i32 = libc::ELOOP;
#[cfg(unix)]
const IS_DIRECTORY: i32 = libc::EISDIR;
#[cfg(unix)]
const NO_ENTRY: i32 = libc::ENOENT;
#[cfg(not(unix))]
const TOO_MANY_LINKS: i32 = 0;
#[cfg(not(unix))]
const IS_DIRECTORY: i32 = 0;
#[cfg(not(unix))]
const NO_ENTRY: i32 = 0;

/// The error of `open(2)`, whose number picks the class in Python; `text` where the system has other numbers.
fn refusal(number: i32, text: &'static str) -> io::Error {
    if cfg!(unix) { io::Error::from_raw_os_error(number) } else { io::Error::other(text) }
}

/// Refuses paths whose last part can't be the name of a file: those that are empty or end in `/`, `.` or `..`.
fn require_name(path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return Err(refusal(NO_ENTRY, "the path is empty"));
    }
    let last = bytes.rsplit(|&byte| byte < 128 && std::path::is_separator(byte as char)).next();
    match last {
        Some(b"" | b"." | b"..") | None => Err(refusal(IS_DIRECTORY, "is a directory")),
        _ => Ok(()),
    }
}

fn require_regular(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(refusal(IS_DIRECTORY, "is a directory"))
    } else {
        let text = format!("expected the path of a regular file, got {}", describe(kind));
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// Names a kind other than a regular file or a directory.
fn describe(kind: FileType) -> &'static str {
    #[cfg(not(unix))]
    let _ = kind;
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() {
            return "a character device";
        } else if kind.is_block_device() {
            return "a block device";
        }
    }
    "a special file"
}

/// Owner, group and mode bits of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(unix)]
pub(super) struct Access {
    pub uid: u32,
    pub gid: u32,
    /// The twelve bits of `chmod`.
    pub mode: u32,
}

/// Whether a file may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg(not(unix))]
pub(super) struct Access(fs::Permissions);

impl Access {
    #[cfg(unix)]
    fn of(found: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 }
    }

    #[cfg(not(unix))]
    fn of(found: &Metadata) -> Self {
        Self(found.permissions())
    }

    /// Returns who may use the file at `path`, or `None` if there is none; any other kind of file is an error.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(found) => require_regular(&found).map(|()| Some(Self::of(&found))),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives `file` this owner, group and mode. Where the system keeps it from being given away, the mode is narrowed, so
    /// that the change of owner lets no one in.
    #[cfg(unix)]
    pub(super) fn apply(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::{PermissionsExt, fchown};
        let mut now = Self::of(&file.metadata()?);
        if (now.uid, now.gid) != (self.uid, self.gid) {
            // What matters is who owns the file afterwards. Unmapped owners and some file systems give other errors than EPERM.
            if fchown(file, Some(self.uid), Some(self.gid)).is_err() {
                let _ = fchown(file, None, Some(self.gid));
            }
            now = Self::of(&file.metadata()?);
        }
        let mode = self.mode_under(&now);
        // File systems without modes refuse to change them; they show one mode for all files.
        if mode == now.mode {
            return Ok(());
        }
        file.set_permissions(fs::Permissions::from_mode(mode))
    }

    #[cfg(not(unix))]
    pub(super) fn apply(&self, file: &File) -> io::Result<()> {
        file.set_permissions(self.0.clone())
    }

    /// Returns the mode for a file that has the owner and group of `now`.
    #[cfg(unix)]
    fn mode_under(&self, now: &Self) -> u32 {
        if (now.uid, now.gid) == (self.uid, self.gid) {
            return self.mode;
        }
        let mode = self.mode & !0o6000;
        if now.gid == self.gid {
            return mode;
        }
        // Members of the new group counted among the others, and members of the old group do so now.
        let shared = (mode >> 3) & mode & 0o7;
        (mode & !0o77) | (shared << 3) | shared
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_hands_lets_no_one_in() {
        let old = |mode| Access { uid: 1, gid: 1, mode };
        let cases = [
            ((1, 1), 0o6664, 0o6664),
            ((2, 1), 0o6664, 0o664),
            ((1, 2), 0o2664, 0o644),
            ((2, 2), 0o640, 0o600),
            ((2, 2), 0o644, 0o644),
            ((2, 2), 0o604, 0o600),
            ((2, 2), 0o1666, 0o1666),
        ];
        for ((uid, gid), before, after) in cases {
            let mode = old(before).mode_under(&Access { uid, gid, mode: 0o600 });
            assert_eq!(mode, after, "{before:o} under {uid}, {gid}: {mode:o}");
        }
    }
}
