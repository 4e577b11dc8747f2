//! Section files: what the crate keeps on disk, with a checksum over every byte.
//!
//! A file is a header, a table of named sections and the sections, each starting on a 64-byte line:
//!
//! ```text
//! 0   magic "RUVECGNN"     8   container version u32    12  kind, 16 ASCII bytes, zero-padded
//! 28  version of the kind  32  number of sections u32   36  length of the header u32
//! 40  length of the file   48  length of an entry u32   52  reserved, zero
//! 60  CRC-32 of everything before the first section, these four bytes left out
//! entry: name, 24 ASCII bytes; offset u64; length u64; bytes per block u32; CRC-32 u32
//! ```
//!
//! A section's CRC covers its length (8 bytes), its bytes and their padding. A *blocked* section is cut into blocks of
//! 64 KiB with a CRC each, so that a mapped part can be checked on first touch ([`Blocks`]); the list of block CRCs follows
//! the section and the entry's CRC covers the section's length and that list. Numbers are little-endian. Files are
//! untrusted: every length is checked, with overflow in mind, before anything is allocated or read, and each way a
//! file can be wrong is an [`Error::Format`](crate::Error::Format) with a text of its own. Later versions may
//! lengthen header and entries and add sections; readers step over what they do not know.
//!
//! A file is written beside its name, flushed to the disk and renamed, so that a crash at any instant leaves the
//! old file or the new one ([`replace`]). Only regular files are read and replaced.

mod blocks;
mod layout;
mod mapped;
mod place;
mod reader;
mod replace;
mod writer;

#[cfg(test)]
mod replace_tests;
#[cfg(test)]
mod tests;

pub use blocks::Blocks;
pub use mapped::Mapped;
pub(crate) use place::open_regular;
pub use reader::Reader;
pub use replace::replace;
pub use writer::Writer;

#[cfg(target_endian = "big")]
compile_error!("section files are written from memory as it stands, which must be little-endian");
