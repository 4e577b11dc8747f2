//! The layout of section files (`src/storage/layout.rs`), written down a second time: the fuzzer builds files that the
//! crate's writer would not write.

const MAGIC: &[u8; 8] = b"RUVECGNN";
const HEADER: usize = 64;
const ENTRY: usize = 48;
const LINE: usize = 64;

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub name: [u8; 24],
    pub bytes: Vec<u8>,
    /// Bytes per checksummed block; 0 means one checksum over the section.
    pub block: u32,
}

impl Section {
    /// Whether the section is called `name`.
    pub fn is(&self, name: &str) -> bool {
        self.name == name_of(name)
    }
}

/// A file as its header and sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub kind: [u8; 16],
    pub version: u32,
    pub header_len: usize,
    pub entry_len: usize,
    pub sections: Vec<Section>,
}

/// `name`, padded with zeros.
pub fn name_of(name: &str) -> [u8; 24] {
    let mut padded = [0; 24];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

impl File {
    /// Reads a file, right or not, as far as its lengths make sense. Checksums are not compared.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let table = Table::of(data)?;
        let sections = (0..table.count).map(|i| {
            let entry = table.at + i * table.entry_len;
            let (offset, len) = (u64_at(data, entry + 24)?, u64_at(data, entry + 32)?);
            let bytes = data.get(offset..offset.checked_add(len)?)?.to_vec();
            let name = data[entry..entry + 24].try_into().ok()?;
            Some(Section { name, bytes, block: u32_at(data, entry + 40)? })
        });
        Some(Self {
            kind: data[12..28].try_into().ok()?,
            version: u32_at(data, 28)?,
            header_len: table.at,
            entry_len: table.entry_len,
            sections: sections.collect::<Option<_>>()?,
        })
    }

    /// The file with sections side by side and right checksums; `None` if it would be larger than `max` bytes.
    pub fn to_bytes(&self, max: usize) -> Option<Vec<u8>> {
        let head = (self.header_len + self.sections.len() * self.entry_len).next_multiple_of(LINE);
        let mut data = vec![0; head];
        data[..8].copy_from_slice(MAGIC);
        data[8..12].copy_from_slice(&1u32.to_le_bytes());
        data[12..28].copy_from_slice(&self.kind);
        for (at, value) in [(28, self.version as usize), (32, self.sections.len()), (36, self.header_len)] {
            data[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        data[48..52].copy_from_slice(&(self.entry_len as u32).to_le_bytes());
        for (i, section) in self.sections.iter().enumerate() {
            let (entry, offset) = (self.header_len + i * self.entry_len, data.len() as u64);
            data[entry..entry + 24].copy_from_slice(&section.name);
            data[entry + 24..entry + 32].copy_from_slice(&offset.to_le_bytes());
            data[entry + 32..entry + 40].copy_from_slice(&(section.bytes.len() as u64).to_le_bytes());
            data[entry + 40..entry + 44].copy_from_slice(&section.block.to_le_bytes());
            data.extend_from_slice(&section.bytes);
            data.resize(data.len().next_multiple_of(LINE), 0);
            let padded = data.len() - offset as usize;
            let list = if section.block == 0 { 0 } else { padded.div_ceil(section.block as usize) };
            data.resize(data.len() + (list * 4).next_multiple_of(LINE), 0);
            if data.len() > max {
                return None;
            }
        }
        repair(&mut data);
        (data.len() <= max).then_some(data)
    }
}

/// Where the section table lies.
struct Table {
    at: usize,
    entry_len: usize,
    count: usize,
    /// Bytes before the first section.
    head: usize,
}

impl Table {
    fn of(data: &[u8]) -> Option<Self> {
        let (count, at) = (u32_at(data, 32)? as usize, u32_at(data, 36)? as usize);
        let entry_len = u32_at(data, 48)? as usize;
        let head = at.checked_add(count.checked_mul(entry_len)?)?.checked_next_multiple_of(LINE)?;
        (at >= HEADER && entry_len >= ENTRY && head <= data.len()).then_some(Self {
            at,
            entry_len,
            count,
            head,
        })
    }
}

/// Makes the length of the file and all checksums right, as far as the table makes sense: what a damaged file would hold
/// if it were meant.
pub fn repair(data: &mut [u8]) {
    let Some(table) = Table::of(data) else { return };
    let len = data.len() as u64;
    data[40..48].copy_from_slice(&len.to_le_bytes());
    for i in 0..table.count {
        let entry = table.at + i * table.entry_len;
        if let Some(crc) = seal(data, entry) {
            data[entry + 44..entry + 48].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let mut head = crc32fast::Hasher::new();
    head.update(&data[..60]);
    head.update(&data[64..table.head]);
    let crc = head.finalize();
    data[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// Writes the block checksums of a section and returns the checksum that its entry must have.
fn seal(data: &mut [u8], entry: usize) -> Option<u32> {
    let (offset, len) = (u64_at(data, entry + 24)?, u64_at(data, entry + 32)?);
    let block = u32_at(data, entry + 40)? as usize;
    let end = offset.checked_add(len.checked_next_multiple_of(LINE)?)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(len as u64).to_le_bytes());
    let content = data.get(offset..end)?;
    if block == 0 {
        hasher.update(content);
        return Some(hasher.finalize());
    }
    let mut list: Vec<u8> =
        content.chunks(block).flat_map(|block| crc32fast::hash(block).to_le_bytes()).collect();
    list.resize(list.len().next_multiple_of(LINE), 0);
    data.get_mut(end..end.checked_add(list.len())?)?.copy_from_slice(&list);
    hasher.update(&list);
    Some(hasher.finalize())
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(data: &[u8], at: usize) -> Option<usize> {
    let bytes = data.get(at..at.checked_add(8)?)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_crate_are_rebuilt_to_the_byte_and_repaired() {
        let numbers: Vec<u32> = (0..100).collect();
        let writer =
            ruvector_gnn::storage::Writer::new("example", 3).values("a", &numbers).blocks("b", &numbers);
        let bytes = writer.section("empty", &b""[..]).to_bytes();
        let file = File::parse(&bytes).unwrap();
        assert_eq!(file.to_bytes(1 << 20).unwrap(), bytes);
        for bit in (0..bytes.len() * 8).filter(|bit| !(40 * 8..48 * 8).contains(bit)).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            repair(&mut damaged);
            let sealed = ruvector_gnn::storage::Reader::from_bytes(damaged.clone(), "example", 3)
                .map(|reader| ["a", "b", "empty"].map(|name| reader.section(name).is_ok()));
            // Within sections every damage is repaired; in the header it may make another file.
            if bit / 8 >= 256 {
                assert_eq!(sealed.unwrap(), [true; 3], "bit {bit}");
            }
        }
    }
}
