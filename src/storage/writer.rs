//! Writing a section file.

#![forbid(unsafe_code)]

use super::layout::{self, BLOCK, Entry, LINE, crc_of, length};
use super::replace::replace;
use crate::error::Result;
use crate::memory;
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

/// Collects sections, borrowed or owned, and writes them as one file.
///
/// ```
/// use ruvector_gnn::storage::{Reader, Writer};
/// let bytes = Writer::new("example", 1).values("weights", &[1.0f32, 2.0]).section("note", b"hi").to_bytes();
/// let reader = Reader::from_bytes(bytes, "example", 1)?;
/// assert_eq!(reader.values::<f32>("weights")?, [1.0, 2.0]);
/// assert_eq!(reader.section("note")?, b"hi");
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer<'a> {
    kind: &'static str,
    version: u32,
    sections: Vec<Section<'a>>,
}

#[derive(Debug)]
struct Section<'a> {
    name: String,
    bytes: Cow<'a, [u8]>,
    block: u32,
}

const ZEROS: [u8; LINE as usize] = [0; LINE as usize];

impl<'a> Writer<'a> {
    /// A file of `kind` (at most 16 ASCII characters), whose sections follow `version` of that kind.
    ///
    /// # Panics
    /// If `kind` is no such name.
    pub fn new(kind: &'static str, version: u32) -> Self {
        assert!(layout::is_name(kind, true), "{kind:?} can't name a kind of file");
        Self { kind, version, sections: Vec::new() }
    }

    /// Adds a section of bytes. `name` has at most 24 ASCII characters and is used once.
    ///
    /// # Panics
    /// If `name` is no such name.
    #[must_use]
    pub fn section(self, name: &str, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        self.push(name, bytes.into(), 0)
    }

    /// Adds a section of numbers; see [`section`](Self::section).
    #[must_use]
    pub fn values<T: bytemuck::NoUninit>(self, name: &str, values: &'a [T]) -> Self {
        self.push(name, Cow::Borrowed(bytemuck::cast_slice(values)), 0)
    }

    /// Adds a section of numbers with a checksum per 64 KiB, for large parts that may be mapped.
    #[must_use]
    pub fn blocks<T: bytemuck::NoUninit>(self, name: &str, values: &'a [T]) -> Self {
        self.push(name, Cow::Borrowed(bytemuck::cast_slice(values)), BLOCK)
    }

    fn push(mut self, name: &str, bytes: Cow<'a, [u8]>, block: u32) -> Self {
        assert!(layout::is_name(name, false), "{name:?} can't name a section");
        assert!(self.sections.iter().all(|section| section.name != name), "section {name:?} is given twice");
        self.sections.push(Section { name: name.to_owned(), bytes, block });
        self
    }

    /// Writes the file in the place of `path`, atomically and durably.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (head, lists) = self.head();
        replace(path.as_ref(), |out| self.write(&head, &lists, out))
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (head, lists) = self.head();
        let sections: usize =
            self.sections.iter().map(|section| section.bytes.len().next_multiple_of(LINE as usize)).sum();
        let room = head.len() + sections + lists.iter().map(Vec::len).sum::<usize>();
        let mut bytes = memory::with_capacity(room);
        self.write(&head, &lists, &mut bytes).expect("writing to memory does not fail");
        bytes
    }

    /// Header and section table, and the padded list of block checksums of each section.
    fn head(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut offset = layout::head_len(self.sections.len()) as u64;
        let mut entries = Vec::with_capacity(self.sections.len());
        let mut lists = Vec::with_capacity(self.sections.len());
        for section in &self.sections {
            let (crc, list) = section.checksums();
            let (name, len) = (section.name.clone(), section.bytes.len() as u64);
            let entry = Entry { name, offset, len, block: section.block, crc };
            offset = entry.end().expect("sizes of memory add up");
            entries.push(entry);
            lists.push(list);
        }
        (layout::encode(self.kind, self.version, &entries), lists)
    }

    fn write(&self, head: &[u8], lists: &[Vec<u8>], out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        out.write_all(head)?;
        for (section, list) in self.sections.iter().zip(lists) {
            out.write_all(&section.bytes)?;
            out.write_all(padding(section.bytes.len()))?;
            out.write_all(list)?;
        }
        Ok(())
    }
}

impl Section<'_> {
    /// The entry's checksum, and the padded list of block checksums (empty unless blocked).
    fn checksums(&self) -> (u32, Vec<u8>) {
        let (bytes, pad, len) = (&self.bytes[..], padding(self.bytes.len()), length(self.bytes.len() as u64));
        if self.block == 0 {
            return (crc_of(&[&len, bytes, pad]), Vec::new());
        }
        // The block length is a multiple of a line, so that padding only ever lengthens the last block.
        let mut list = Vec::new();
        let mut blocks = bytes.chunks(self.block as usize).peekable();
        while let Some(block) = blocks.next() {
            let crc = crc_of(&[block, if blocks.peek().is_none() { pad } else { &[] }]);
            list.extend_from_slice(&crc.to_le_bytes());
        }
        list.extend_from_slice(padding(list.len()));
        (crc_of(&[&len, &list]), list)
    }
}

fn padding(len: usize) -> &'static [u8] {
    &ZEROS[..len.next_multiple_of(LINE as usize) - len]
}
