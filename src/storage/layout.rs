//! Header and section table: encoding, and decoding of untrusted bytes.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

pub(super) const MAGIC: &[u8; 8] = b"RUVECGNN";
pub(super) const CONTAINER: u32 = 1;
pub(super) const HEADER: usize = 64;
pub(super) const ENTRY: usize = 48;
pub(super) const LINE: u64 = 64;
/// Bytes per block of a blocked section.
pub(super) const BLOCK: u32 = 64 * 1024;
const KIND: usize = 16;
const NAME: usize = 24;
const CRC_AT: usize = 60;

/// One section as the table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub offset: u64,
    pub len: u64,
    /// Bytes per checksummed block; 0 means one checksum over the section.
    pub block: u32,
    pub crc: u32,
}

impl Entry {
    /// Length with the padding that the checksum covers; `None` on overflow.
    pub fn padded(&self) -> Option<u64> {
        self.len.checked_next_multiple_of(LINE)
    }

    /// Number of block checksums that follow the section.
    pub fn blocks(&self) -> Option<u64> {
        if self.block == 0 { Some(0) } else { Some(self.padded()?.div_ceil(u64::from(self.block))) }
    }

    /// Where the next section starts.
    pub fn end(&self) -> Option<u64> {
        let list = self.blocks()?.checked_mul(4)?.checked_next_multiple_of(LINE)?;
        self.offset.checked_add(self.padded()?)?.checked_add(list)
    }
}

/// What the first [`HEADER`] bytes say.
#[derive(Debug)]
pub(super) struct Header {
    pub kind: String,
    pub version: u32,
    pub sections: u32,
    pub header_len: u32,
    pub file_len: u64,
    pub entry_len: u32,
    pub crc: u32,
}

impl Header {
    /// Decodes the fixed part; only what is needed to find the table is checked.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        if &bytes[..8] != MAGIC {
            return Err("not a ruvector_gnn file: it does not start with RUVECGNN".into());
        }
        let container = u32_at(bytes, 8);
        if container != CONTAINER {
            return Err(format!("container version {container}; this build reads version {CONTAINER}"));
        }
        let header = Self {
            kind: name_at(&bytes[12..12 + KIND]).ok_or("the kind in the header is not a name")?,
            version: u32_at(bytes, 28),
            sections: u32_at(bytes, 32),
            header_len: u32_at(bytes, 36),
            file_len: u64_at(bytes, 40),
            entry_len: u32_at(bytes, 48),
            crc: u32_at(bytes, CRC_AT),
        };
        if (header.header_len as usize) < HEADER || (header.entry_len as usize) < ENTRY {
            return Err("the header gives impossible lengths".into());
        }
        Ok(header)
    }

    /// Where the first section starts; `None` on overflow.
    pub fn head_len(&self) -> Option<u64> {
        let table = u64::from(self.sections).checked_mul(u64::from(self.entry_len))?;
        u64::from(self.header_len).checked_add(table)?.checked_next_multiple_of(LINE)
    }

    /// Decodes and checks the table; `head` is everything before the first section.
    pub fn table(&self, head: &[u8]) -> Result<Vec<Entry>, String> {
        if self.crc != head_crc(head) {
            return Err("the header or the section table is damaged: its checksum does not match".into());
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut expected = head.len() as u64;
        let table = &head[self.header_len as usize..];
        for bytes in table.chunks_exact(self.entry_len as usize).take(self.sections as usize) {
            let entry = Entry {
                name: name_at(&bytes[..NAME]).ok_or("a section name is not a name")?,
                offset: u64_at(bytes, 24),
                len: u64_at(bytes, 32),
                block: u32_at(bytes, 40),
                crc: u32_at(bytes, 44),
            };
            let end = entry.end().filter(|&end| entry.offset == expected && end <= self.file_len);
            expected = end.ok_or_else(|| format!("section {:?} lies outside its place", entry.name))?;
            if entries.iter().any(|other| other.name == entry.name) {
                return Err(format!("section {:?} occurs twice", entry.name));
            }
            entries.push(entry);
        }
        if expected != self.file_len {
            return Err(format!("the sections end at byte {expected} of {}", self.file_len));
        }
        Ok(entries)
    }
}

/// Header, table and padding for `entries`, whose offsets must follow [`head_len`].
pub(super) fn encode(kind: &str, version: u32, entries: &[Entry]) -> Vec<u8> {
    let mut head = vec![0u8; head_len(entries.len())];
    let file_len =
        entries.last().map_or(Some(head.len() as u64), Entry::end).expect("sizes of memory add up");
    head[..8].copy_from_slice(MAGIC);
    put(&mut head, 8, &CONTAINER.to_le_bytes());
    put(&mut head, 12, kind.as_bytes());
    put(&mut head, 28, &version.to_le_bytes());
    put(&mut head, 32, &(entries.len() as u32).to_le_bytes());
    put(&mut head, 36, &(HEADER as u32).to_le_bytes());
    put(&mut head, 40, &file_len.to_le_bytes());
    put(&mut head, 48, &(ENTRY as u32).to_le_bytes());
    for (i, entry) in entries.iter().enumerate() {
        let at = HEADER + i * ENTRY;
        put(&mut head, at, entry.name.as_bytes());
        put(&mut head, at + 24, &entry.offset.to_le_bytes());
        put(&mut head, at + 32, &entry.len.to_le_bytes());
        put(&mut head, at + 40, &entry.block.to_le_bytes());
        put(&mut head, at + 44, &entry.crc.to_le_bytes());
    }
    let crc = head_crc(&head);
    put(&mut head, CRC_AT, &crc.to_le_bytes());
    head
}

/// Bytes before the first of `sections` sections.
pub(super) fn head_len(sections: usize) -> usize {
    (HEADER + sections * ENTRY).next_multiple_of(LINE as usize)
}

/// Whether `name` fits in a kind (`true`) or section name.
pub(super) fn is_name(name: &str, kind: bool) -> bool {
    let room = if kind { KIND } else { NAME };
    !name.is_empty() && name.len() <= room && name.bytes().all(|b| b.is_ascii_graphic())
}

pub(super) fn damaged(file: &str, how: impl std::fmt::Display) -> Error {
    Error::Format(format!("{file}: {how}"))
}

/// The checksum of parts that follow each other.
pub(super) fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// A section's length, which its checksum begins with: within a line, padding could pass for content and back.
pub(super) fn length(len: u64) -> [u8; 8] {
    len.to_le_bytes()
}

fn head_crc(head: &[u8]) -> u32 {
    crc_of(&[&head[..CRC_AT], &head[CRC_AT + 4..]])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn name_at(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let name = std::str::from_utf8(&bytes[..end]).ok()?;
    let rest_is_zero = bytes[end..].iter().all(|&b| b == 0);
    (rest_is_zero && is_name(name, false)).then(|| name.to_owned())
}
