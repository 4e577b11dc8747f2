//! Reading a section file, trusting nothing in it.

#![forbid(unsafe_code)]

use super::blocks::Blocks;
use super::layout::{Entry, HEADER, Header, LINE, crc_of, damaged, length};
use super::mapped::Mapped;
use super::place::open_regular;
use crate::error::{Error, Result};
use crate::memory;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An open section file. The header and the table are checked when it is opened, a section when it is read.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    /// The file's name, for messages.
    name: String,
    version: u32,
    checksum: u32,
    entries: Vec<Entry>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Vec<u8>),
    Mapped(Arc<Mapped>),
}

impl Source {
    fn len(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Bytes(bytes) => Ok(bytes.len() as u64),
            Source::Mapped(file) => Ok(file.bytes().len() as u64),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = match self {
            Source::File(file) => return read_exact_at(file, into, offset),
            Source::Bytes(bytes) => bytes,
            Source::Mapped(file) => file.bytes(),
        };
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let found = start.checked_add(into.len()).and_then(|end| bytes.get(start..end));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

/// Elsewhere the standard library reads at the file's cursor only.
#[cfg(not(unix))]
fn read_exact_at(mut file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    use io::{Read, Seek};
    file.seek(io::SeekFrom::Start(offset))?;
    file.read_exact(into)
}

impl Reader {
    /// Opens the file at `path`, which must be of `kind` and of a version from 1 to `version`.
    pub fn open(path: impl AsRef<Path>, kind: &str, version: u32) -> Result<Self> {
        let name = path.as_ref().display().to_string();
        Self::new(Source::File(open_regular(path.as_ref())?), name, kind, version)
    }

    /// As [`open`](Self::open), of a file that is mapped, so that [`blocks`](Self::blocks) can leave sections where they lie.
    /// [`Error::Config`] where the feature `mmap` is not compiled in.
    pub fn map(path: impl AsRef<Path>, kind: &str, version: u32) -> Result<Self> {
        let name = path.as_ref().display().to_string();
        let file = Mapped::open(path.as_ref())?;
        Self::new(Source::Mapped(Arc::new(file)), name, kind, version)
    }

    /// As [`open`](Self::open), over the bytes of a file.
    pub fn from_bytes(bytes: Vec<u8>, kind: &str, version: u32) -> Result<Self> {
        Self::new(Source::Bytes(bytes), format!("{kind} bytes"), kind, version)
    }

    fn new(source: Source, name: String, kind: &str, version: u32) -> Result<Self> {
        let len = source.len().map_err(Error::io(format!("read {name}")))?;
        if len < HEADER as u64 {
            return Err(damaged(&name, format!("truncated: {len} bytes are shorter than a header")));
        }
        let mut reader = Self { source, name, version: 0, checksum: 0, entries: Vec::new() };
        let mut fixed = [0; HEADER];
        reader.fill(&mut fixed, 0)?;
        let header = Header::decode(&fixed).map_err(|how| reader.damaged(how))?;
        let head_len = header.head_len().filter(|&head| head <= len);
        let head_len = head_len.ok_or_else(|| reader.damaged("truncated within its section table"))?;
        let mut head = vec![0; head_len as usize];
        reader.fill(&mut head, 0)?;
        let entries = header.table(&head).map_err(|how| reader.damaged(how))?;
        if header.kind != kind {
            return Err(reader.damaged(format!("holds a {:?}, expected a {kind:?}", header.kind)));
        }
        if header.version == 0 || header.version > version {
            let given = header.version;
            return Err(
                reader.damaged(format!("version {given} of {kind:?}; this build reads 1 to {version}"))
            );
        }
        if header.file_len != len {
            let how = if len < header.file_len { "truncated" } else { "longer than written" };
            return Err(reader.damaged(format!("{how}: {len} bytes, expected {}", header.file_len)));
        }
        reader.version = header.version;
        reader.checksum = header.crc;
        reader.entries = entries;
        Ok(reader)
    }

    /// The version of the kind that the file was written in.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The checksum of header and table, in which stand the checksums of all else: another file has another one.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The file, if it is mapped.
    pub fn mapped(&self) -> Option<&Arc<Mapped>> {
        if let Source::Mapped(file) = &self.source { Some(file) } else { None }
    }

    /// Whether the file has this section.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// The bytes of a section, verified.
    pub fn section(&self, name: &str) -> Result<Vec<u8>> {
        self.values(name)
    }

    /// The numbers of a section, verified.
    pub fn values<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> Result<Vec<T>> {
        // The table was checked against the length of the file, so this allocates no more than the file holds.
        let mut values = memory::zeros(self.count::<T>(name)?);
        self.values_into(name, &mut values)?;
        Ok(values)
    }

    /// How many numbers a section holds.
    pub fn count<T>(&self, name: &str) -> Result<usize> {
        let (len, size) = (self.entry(name)?.len, size_of::<T>() as u64);
        if !len.is_multiple_of(size) {
            return Err(self.damaged(format!("section {name:?}: {len} bytes are no numbers of {size}")));
        }
        Ok((len / size) as usize)
    }

    /// Reads the numbers of a section, verified, into `values`, which has room for exactly [`count`](Self::count).
    pub fn values_into<T>(&self, name: &str, values: &mut [T]) -> Result<()>
    where
        T: bytemuck::AnyBitPattern + bytemuck::NoUninit,
    {
        let (count, room) = (self.count::<T>(name)?, values.len());
        if count != room {
            return Err(self.damaged(format!("section {name:?}: {count} values, expected {room}")));
        }
        let (entry, bytes) = (self.entry(name)?, bytemuck::cast_slice_mut(values));
        self.fill(bytes, entry.offset)?;
        self.verify(entry, bytes)
    }

    /// The numbers of a blocked section of a mapped file, where they lie; each block is verified when it is first
    /// touched. `None` if the file is not mapped.
    pub fn blocks<T>(&self, name: &str) -> Result<Option<Blocks<T>>>
    where
        T: bytemuck::AnyBitPattern + bytemuck::NoUninit,
    {
        let Some(file) = self.mapped() else { return Ok(None) };
        self.count::<T>(name)?;
        let entry = self.entry(name)?;
        if !entry.block.is_power_of_two() || u64::from(entry.block) < LINE {
            let how =
                format!("section {name:?}: blocks of {} bytes can't be verified one by one", entry.block);
            return Err(self.damaged(how));
        }
        let checksums = self.block_checksums(entry)?;
        let label = format!("{}: section {name:?}", self.name);
        Blocks::new(Arc::clone(file), label, entry, checksums).map(Some)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.ok_or_else(|| self.damaged(format!("section {name:?} is missing")))
    }

    /// A section of exactly one value, verified.
    pub fn value<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> Result<T> {
        let values = self.values(name)?;
        let wrong = || self.damaged(format!("section {name:?}: {} values, expected one", values.len()));
        if values.len() == 1 { Ok(values[0]) } else { Err(wrong()) }
    }

    /// A [`Error::Format`] that names this file: for what only the reader of a kind can see.
    pub fn damaged(&self, how: impl std::fmt::Display) -> Error {
        damaged(&self.name, how)
    }

    fn verify(&self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        let name = &entry.name;
        let padded = entry.padded().expect("the table was checked");
        let mut pad = vec![0; (padded - entry.len) as usize];
        self.fill(&mut pad, entry.offset + entry.len)?;
        if entry.block == 0 {
            return if crc_of(&[&length(entry.len), bytes, &pad]) == entry.crc {
                Ok(())
            } else {
                Err(self.damaged(format!("section {name:?} is damaged: its checksum does not match")))
            };
        }
        let checksums = self.block_checksums(entry)?;
        let count = checksums.len();
        let blocks = bytes.chunks(entry.block as usize);
        for (i, (block, crc)) in blocks.zip(checksums).enumerate() {
            let tail = if i + 1 == count { &pad[..] } else { &[] };
            if crc_of(&[block, tail]) != crc {
                return Err(self.damaged(format!("section {name:?}: block {i} of {count} is damaged")));
            }
        }
        Ok(())
    }

    /// The list of checksums of a blocked section, itself verified.
    fn block_checksums(&self, entry: &Entry) -> Result<Vec<u32>> {
        let list_at = entry.offset + entry.padded().expect("the table was checked");
        let end = entry.end().expect("the table was checked");
        let mut list = memory::zeros((end - list_at) as usize);
        self.fill(&mut list, list_at)?;
        if crc_of(&[&length(entry.len), &list]) != entry.crc {
            let name = &entry.name;
            return Err(self.damaged(format!("section {name:?}: its list of checksums is damaged")));
        }
        let count = entry.blocks().expect("the table was checked") as usize;
        Ok(memory::collect(list.as_chunks::<4>().0.iter().take(count).map(|&crc| u32::from_le_bytes(crc))))
    }

    /// A file that shrinks while it is read is as truncated as one that was short before.
    fn fill(&self, into: &mut [u8], offset: u64) -> Result<()> {
        self.source.read_at(into, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("truncated while it was read"),
            _ => Error::io(format!("read {}", self.name))(source),
        })
    }
}
