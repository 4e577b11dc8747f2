//! Replacement of a file on a disk that refuses, dies or loses power at any step.

use super::replace::{FileSystem, replace_on};
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

type Names = BTreeMap<PathBuf, usize>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// One step fails, as on a full disk; those after it work.
    Refused,
    /// The process is gone: this step and all after it do nothing.
    Killed,
}

#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    flushed: Vec<u8>,
    mode: u32,
    flushed_mode: u32,
}

/// One directory: what processes see, and what a power loss leaves.
#[derive(Default)]
struct State {
    names: Names,
    flushed_names: Names,
    files: Vec<Content>,
    /// Symbolic links.
    links: BTreeMap<PathBuf, PathBuf>,
    /// So many files seem to be there already when they are first created.
    taken: usize,
    steps: usize,
    fault: Option<(Fault, usize)>,
}

#[derive(Clone, Default)]
struct Model(Rc<RefCell<State>>);

struct Handle(Model, usize);

impl State {
    /// Counts a step; an error if it is the one that fails.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.fault {
            Some((Fault::Refused, at)) if at == self.steps => Err(io::ErrorKind::StorageFull.into()),
            Some((Fault::Killed, at)) if at <= self.steps => Err(io::Error::other("dead")),
            _ => Ok(()),
        }
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.borrow_mut();
        let outcome = state.step();
        // A write that fails may have begun, unless the writer was gone before.
        let begun = !matches!(state.fault, Some((_, at)) if at < state.steps) || outcome.is_ok();
        let written = if outcome.is_ok() { bytes.len() } else { bytes.len() / 2 };
        if begun {
            state.files[self.1].seen.extend_from_slice(&bytes[..written]);
        }
        outcome.map(|()| written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileSystem for Model {
    type File = Handle;
    /// The mode.
    type Access = u32;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        Ok(state.links.get(path).cloned().unwrap_or_else(|| path.to_owned()))
    }

    fn access(&self, path: &Path) -> io::Result<Option<u32>> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        Ok(state.names.get(path).map(|&number| state.files[number].mode))
    }

    fn create(&self, path: &Path, private: bool) -> io::Result<Handle> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        if state.taken > 0 {
            state.taken -= 1;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.files.len();
        state.files.push(Content { mode: if private { 0o600 } else { NEW_MODE }, ..Content::default() });
        assert_eq!(state.names.insert(path.to_owned(), number), None, "a name is used once");
        Ok(Handle(self.clone(), number))
    }

    fn set_access(&self, file: &Handle, access: &u32) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        state.files[file.1].mode = *access;
        Ok(())
    }

    fn flush(&self, file: &Handle) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        let content = &mut state.files[file.1];
        content.flushed = content.seen.clone();
        content.flushed_mode = content.mode;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        let number = state.names.remove(from).expect("only what is there is renamed");
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn flush_names(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        assert_eq!(directory, Path::new("data"));
        state.step()?;
        state.flushed_names = state.names.clone();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        state.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

const PATH: &str = "data/index.rvx";
const OLD: &[u8] = b"old";
/// Not what a new file gets, which is [`NEW_MODE`].
const OLD_MODE: u32 = 0o640;
const NEW_MODE: u32 = 0o644;

/// Longer than the writer's buffer, so that it goes to the disk in several writes.
fn new_content() -> Vec<u8> {
    (0..300_000u32).map(|at| (at % 251) as u8).collect()
}

/// A disk on which [`PATH`] holds [`OLD`].
fn disk(fault: Option<(Fault, usize)>) -> Model {
    let names = Names::from([(PathBuf::from(PATH), 0)]);
    let (seen, flushed) = (OLD.to_vec(), OLD.to_vec());
    let files = vec![Content { seen, flushed, mode: OLD_MODE, flushed_mode: OLD_MODE }];
    Model(Rc::new(RefCell::new(State {
        flushed_names: names.clone(),
        names,
        files,
        fault,
        ..State::default()
    })))
}

fn replaced(disk: &Model) -> Result<()> {
    replaced_at(disk, PATH)
}

fn replaced_at(disk: &Model, path: &str) -> Result<()> {
    replace_on(disk, Path::new(path), |out| {
        new_content().chunks(50_000).try_for_each(|part| out.write_all(part))
    })
}

/// What stands under [`PATH`] for other processes, and after a power loss that left the names as they were or as they
/// were last flushed: a file system may write names out earlier than it is asked to.
fn worlds(disk: &Model) -> [Vec<u8>; 3] {
    let state = disk.0.borrow();
    let (now, then) = (state.names[Path::new(PATH)], state.flushed_names[Path::new(PATH)]);
    [state.files[now].seen.clone(), state.files[now].flushed.clone(), state.files[then].flushed.clone()]
}

#[test]
fn a_fault_at_any_step_leaves_the_old_content_or_the_new() {
    let whole = disk(None);
    replaced(&whole).unwrap();
    assert_eq!(worlds(&whole), [new_content(), new_content(), new_content()]);
    let steps = whole.0.borrow().steps;
    assert!(steps >= 4 + 8, "four of links and modes, create, several writes, two flushes, rename: {steps}");
    for fault in [Fault::Refused, Fault::Killed] {
        for step in 1..=steps {
            let disk = disk(Some((fault, step)));
            assert!(matches!(replaced(&disk), Err(Error::Io { .. })), "{fault:?} at {step}");
            for content in worlds(&disk) {
                assert!(content == OLD || content == new_content(), "{fault:?} at {step}: torn");
            }
            let seen = worlds(&disk)[0].clone();
            assert_eq!(seen == OLD, step < steps, "only the last step comes after the rename");
            let state = disk.0.borrow();
            let created = state.files.len() > 1;
            let left = state.names.len() > 1;
            assert_eq!(left, fault == Fault::Killed && created && step < steps, "{fault:?} at {step}");
            // What is under the name has the old mode, also after a power loss; the temporary file is no more readable.
            let number = state.names[Path::new(PATH)];
            assert_eq!(state.files[number].mode, OLD_MODE, "{fault:?} at {step}");
            assert_eq!(state.files[number].flushed_mode, OLD_MODE, "{fault:?} at {step}");
            assert!(state.files.iter().all(|file| file.mode & !OLD_MODE == 0), "{fault:?} at {step}");
        }
    }
}

#[test]
fn names_that_a_killed_process_left_are_stepped_over() {
    let disk = disk(None);
    disk.0.borrow_mut().taken = 3;
    replaced(&disk).unwrap();
    assert_eq!(worlds(&disk)[0], new_content());
}

#[test]
fn a_new_file_gets_the_default_mode_and_a_link_stays() {
    let disk = disk(None);
    replaced_at(&disk, "data/new.rvx").unwrap();
    let modes = |disk: &Model, path: &str| {
        let state = disk.0.borrow();
        state.files[state.names[Path::new(path)]].mode
    };
    assert_eq!((modes(&disk, "data/new.rvx"), modes(&disk, PATH)), (NEW_MODE, OLD_MODE));
    disk.0.borrow_mut().links.insert("elsewhere/link".into(), PATH.into());
    replaced_at(&disk, "elsewhere/link").unwrap();
    assert_eq!(worlds(&disk)[0], new_content());
    assert_eq!(modes(&disk, PATH), OLD_MODE);
    assert!(!disk.0.borrow().names.contains_key(Path::new("elsewhere/link")));
}

/// On the disk of this machine.
#[cfg(unix)]
mod disk_tests {
    use super::super::{Reader, replace};
    use crate::error::{Error, Result};
    use std::fs::{self, Permissions};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    fn put(path: impl AsRef<Path>, text: &str) -> Result<()> {
        replace(path.as_ref(), |out| out.write_all(text.as_bytes()))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    /// The error's number, or 0 where this crate refused.
    fn number(result: Result<()>) -> i32 {
        match result {
            Err(Error::Io { source, .. }) => source.raw_os_error().unwrap_or(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn modes_stay_and_a_new_file_has_that_of_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("kept"), folder.path().join("other"));
        fs::write(&other, "").unwrap();
        put(&path, "new").unwrap();
        assert_eq!(mode(&path), mode(&other));
        for bits in [0o600, 0o664, 0o444, 0o400, 0o777, 0o000, 0o666, 0o4755] {
            fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            put(&path, "newer").unwrap();
            assert_eq!(mode(&path), bits, "{bits:o} became {:o}", mode(&path));
        }
        assert_eq!(names(folder.path()), 2);
    }

    #[test]
    fn the_temporary_file_is_private_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        replace(&path, |out| {
            // Whoever closes the file while it is written means the new content too.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let modes = fs::read_dir(folder.path())?.map(|entry| mode(&entry.unwrap().path()));
            assert!(modes.eq([0o600, 0o600]));
            out.write_all(b"new")
        })
        .unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"new".to_vec()));
    }

    #[test]
    fn links_stay_and_lead_to_the_new_content() {
        let root = tempfile::tempdir().unwrap();
        let (folder, far) = (root.path().join("links"), root.path().join("far"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&far).unwrap();
        fs::write(far.join("file"), "old").unwrap();
        fs::set_permissions(far.join("file"), Permissions::from_mode(0o600)).unwrap();
        symlink("../far/file", folder.join("relative")).unwrap();
        symlink(folder.join("relative"), folder.join("chain")).unwrap();
        for name in ["relative", "chain"] {
            put(folder.join(name), name).unwrap();
            assert!(fs::symlink_metadata(folder.join(name)).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(far.join("file")).unwrap(), name);
            assert_eq!(mode(&far.join("file")), 0o600);
        }
        symlink("../far/made", folder.join("dangling")).unwrap();
        put(folder.join("dangling"), "made").unwrap();
        assert_eq!(fs::read_to_string(far.join("made")).unwrap(), "made");
        symlink("../none/made", folder.join("astray")).unwrap();
        assert_eq!(number(put(folder.join("astray"), "")), libc::ENOENT);
        symlink("here", folder.join("there")).unwrap();
        symlink("there", folder.join("here")).unwrap();
        assert_eq!(number(put(folder.join("here"), "")), libc::ELOOP);
        symlink("../far", folder.join("directory")).unwrap();
        assert_eq!(number(put(folder.join("directory"), "")), libc::EISDIR);
        put(folder.join("directory/file"), "through").unwrap();
        assert_eq!(fs::read_to_string(far.join("file")).unwrap(), "through");
        assert_eq!((names(&folder), names(&far)), (7, 2), "no temporary file is left");
    }

    #[test]
    fn other_hard_links_keep_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("path"), folder.path().join("other"));
        fs::write(&path, "old").unwrap();
        fs::hard_link(&path, &other).unwrap();
        put(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "old");
    }

    #[test]
    fn what_is_no_regular_file_is_neither_replaced_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, socket, plain) =
            (folder.path().join("pipe"), folder.path().join("socket"), folder.path().join("plain"));
        fs::write(&plain, "").unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink(&pipe, folder.path().join("link")).unwrap();
        for (path, kind) in [
            (pipe, "a pipe"),
            (folder.path().join("link"), "a pipe"),
            (socket, "a socket"),
            ("/dev/null".into(), "a character device"),
            ("/dev/zero".into(), "a character device"),
        ] {
            let before = fs::symlink_metadata(&path).unwrap();
            let refused = put(&path, "new").unwrap_err();
            assert!(matches!(refused, Error::Io { .. }) && refused.to_string().contains(kind), "{refused}");
            let after = fs::symlink_metadata(&path).unwrap();
            assert_eq!((before.ino(), before.file_type()), (after.ino(), after.file_type()), "{kind}");
            for read in [Reader::open(&path, "sample", 1).err(), Reader::map(&path, "sample", 1).err()] {
                let Some(error) = read else { panic!("{kind} was read") };
                let refused = matches!(&error, Error::Format(text) if text.contains(kind));
                assert!(refused || !cfg!(feature = "mmap") && matches!(error, Error::Config(_)), "{error}");
            }
        }
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        for (path, expected) in [
            (String::new(), libc::ENOENT),
            ("/".into(), libc::EISDIR),
            ("..".into(), libc::EISDIR),
            (at(""), libc::EISDIR),
            (at("new/"), libc::EISDIR),
            (at("new/."), libc::EISDIR),
            (at("plain/"), libc::ENOTDIR),
            (at("plain/under"), libc::ENOTDIR),
        ] {
            assert_eq!(number(put(&path, "")), expected, "{path:?}");
        }
        assert_eq!(names(folder.path()), 4);
    }

    #[test]
    fn names_of_any_bytes_and_any_length_are_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"\xff\xfe.rvx"[..], &[b'n'; 255], &[0xfe; 255], b" ", b"...", b"a.tmp"] {
            let path = folder.path().join(std::ffi::OsStr::from_bytes(name));
            put(&path, "one").unwrap();
            put(&path, "two").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        }
        assert_eq!(number(put(folder.path().join("n".repeat(256)), "")), libc::ENAMETOOLONG);
        assert_eq!(names(folder.path()), 6);
    }

    /// Only root can set this up.
    #[test]
    fn the_owner_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        fs::write(&path, "old").unwrap();
        if std::os::unix::fs::chown(&path, Some(12_345), Some(54_321)).is_err() {
            return;
        }
        fs::set_permissions(&path, Permissions::from_mode(0o2640)).unwrap();
        put(&path, "new").unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid(), mode(&path)), (12_345, 54_321, 0o2640));
    }
}
