//! Shared-memory matrix descriptors of wgmma (PTX ISA 9.7.15.5) and tcgen05 (9.7.16.4), and the canonical
//! operand layouts they name.

use crate::machine::SharedMemory;

/// Generation of the descriptor's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// sm_90: swizzle in bits 62-63.
    Sm90,
    /// sm_100: version 1 in bits 46-48, swizzle in bits 61-63.
    Sm100,
}

/// A decoded descriptor; offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixDescriptor {
    /// Start address in the CTA's shared memory.
    pub start: u32,
    /// Leading-dimension byte offset.
    pub lbo: u32,
    /// Stride-dimension byte offset.
    pub sbo: u32,
    /// Width of the swizzle atom in bytes: 16 (none), 32, 64 or 128.
    pub width: u32,
    /// 128-byte swizzle in units of 32 bytes (sm_100, MN-major only).
    pub atom32: bool,
    /// Base offset: bits 7-9 of the address where the swizzle's pattern starts.
    pub base: u32,
}

/// What an instruction reads of an operand.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rows (M or N).
    pub rows: usize,
    /// Bytes along K.
    pub k_bytes: usize,
    /// Bytes of an element if the operand is MN-major.
    pub mn_major: Option<u32>,
    /// How many bytes of each 16 hold data, the rest being padding (K-major).
    pub data: usize,
}

impl MatrixDescriptor {
    /// Decodes 64 bits.
    ///
    /// # Errors
    /// What is invalid, in words.
    pub fn decode(bits: u64, generation: Generation) -> Result<Self, String> {
        let field = |at: u32, n: u32| ((bits >> at) & ((1 << n) - 1)) as u32;
        let reserved: &[(u32, u32)] = match generation {
            Generation::Sm90 => &[(14, 2), (30, 2), (46, 3), (52, 10)],
            Generation::Sm100 => &[(14, 2), (30, 2), (53, 8)],
        };
        if let Some((at, n)) = reserved.iter().find(|&&(at, n)| field(at, n) != 0) {
            return Err(format!("reserved bits {at}..{} of descriptor {bits:#018x} are set", at + n));
        }
        let mut atom32 = false;
        let width = match generation {
            Generation::Sm90 => [16, 128, 64, 32][field(62, 2) as usize],
            Generation::Sm100 => {
                if field(46, 3) != 1 {
                    return Err(format!("descriptor {bits:#018x}: version {} instead of 1", field(46, 3)));
                }
                if field(52, 1) != 0 {
                    return Err(format!("descriptor {bits:#018x}: absolute LBO mode is not of sm_100a"));
                }
                match field(61, 3) {
                    0 => 16,
                    1 => {
                        atom32 = true;
                        128
                    }
                    2 => 128,
                    4 => 64,
                    6 => 32,
                    other => return Err(format!("descriptor {bits:#018x}: swizzle {other} is not valid")),
                }
            }
        };
        // The field means nothing without a swizzle ("valid for all swizzling modes except no-swizzle mode"), and Triton
        // sets it from the address on sm_100. Nobody has been seen to do so on sm_90.
        let ignored = width == 16 && generation == Generation::Sm100;
        let base = if ignored { 0 } else { field(49, 3) };
        if base != 0 && width == 16 {
            return Err(format!("descriptor {bits:#018x}: base offset {base} without a swizzle"));
        }
        let (start, lbo, sbo) = (field(0, 14) << 4, field(16, 14) << 4, field(32, 14) << 4);
        Ok(Self { start, lbo, sbo, width, atom32, base })
    }

    /// The permutation of chunks. The row of the pattern is that of the shared-memory address, counted from the
    /// pattern's start.
    fn swizzle(&self, address: u32) -> u32 {
        let mask = match self.width {
            32 => 0x10,
            64 => 0x30,
            128 => 0x70,
            _ => 0,
        };
        let row = (address >> 7).wrapping_sub(self.base);
        if self.atom32 { address ^ (row << 5 & 0x60) } else { address ^ (row << 4 & mask) }
    }

    /// Address of the 16-byte chunk `chunk` along K of row `row`, K-major.
    fn k_major(&self, row: u32, chunk: u32) -> u32 {
        let in_group = row / 8 * self.sbo + row % 8 * self.width;
        let along_k = if self.width == 16 { chunk * self.lbo } else { chunk * 16 };
        self.swizzle(self.start.wrapping_add(in_group).wrapping_add(along_k))
    }

    /// Address of element (`mn`, `k`), MN-major, elements of `bytes` bytes.
    fn mn_major(&self, mn: u32, k: u32, bytes: u32) -> u32 {
        // Elements of a 16-byte chunk along MN.
        let t = 16 / bytes;
        let offset = if self.width == 16 {
            mn % t * bytes + mn / t * self.sbo + k % 8 * 16 + k / 8 * self.lbo
        } else {
            let w = self.width / 16;
            // Rows along K of a swizzle atom.
            let group = if self.atom32 { 4 } else { 8 };
            mn % t * bytes
                + mn / t % w * 16
                + mn / (t * w) * self.lbo
                + k % group * self.width
                + k / group * self.sbo
        };
        self.swizzle(self.start.wrapping_add(offset))
    }

    /// Reads an operand into row-major `[rows, k_bytes]`, and calls `touch(offset, bytes)` for every piece of shared
    /// memory that is read. Returns whether all of it was initialised.
    ///
    /// # Errors
    /// What is out of range or invalid.
    pub fn fetch(
        &self,
        shared: &SharedMemory,
        extent: Extent,
        out: &mut Vec<u8>,
        mut touch: impl FnMut(u32, u32),
    ) -> Result<bool, String> {
        let Extent { rows, k_bytes, mn_major, data } = extent;
        out.clear();
        out.resize(rows * k_bytes, 0);
        let outside = |address: u32| {
            format!("operand at shared offset {address:#x} is outside {:#x} bytes", shared.len())
        };
        let mut init = true;
        match mn_major {
            None if self.atom32 => {
                return Err("128-byte swizzle with 32-byte atoms has no K-major layout".to_owned());
            }
            None => {
                for row in 0..rows {
                    for chunk in 0..k_bytes / 16 {
                        let address = self.k_major(row as u32, chunk as u32);
                        let bytes = shared.get(address, data).ok_or_else(|| outside(address))?;
                        out[row * k_bytes + chunk * 16..][..data].copy_from_slice(bytes);
                        init &= shared.is_init(address, data);
                        touch(address, data as u32);
                    }
                }
            }
            Some(bytes) => {
                let n = bytes as usize;
                for row in 0..rows {
                    for k in 0..k_bytes / n {
                        let address = self.mn_major(row as u32, k as u32, bytes);
                        let element = shared.get(address, n).ok_or_else(|| outside(address))?;
                        out[row * k_bytes + k * n..][..n].copy_from_slice(element);
                        init &= shared.is_init(address, n);
                        touch(address, bytes);
                    }
                }
            }
        }
        Ok(init)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sm100_constants() {
        // Upper words of the fact sheet: SW128 SBO 1024, SW64 SBO 512, SW32 SBO 256, none LBO 128 SBO 256.
        for (high, width, sbo) in [
            (0x4000_4040u64, 128, 1024),
            (0x8000_4020, 64, 512),
            (0xC000_4010, 32, 256),
            (0x0000_4010, 16, 256),
        ] {
            let d = MatrixDescriptor::decode(high << 32 | 0x0008_0040, Generation::Sm100).unwrap();
            assert_eq!(d, MatrixDescriptor { start: 0x400, lbo: 128, sbo, width, atom32: false, base: 0 });
        }
        assert!(MatrixDescriptor::decode(0x4000_0040 << 32, Generation::Sm100).is_err(), "version 0");
        assert!(MatrixDescriptor::decode(1 << 14, Generation::Sm90).is_err(), "reserved");
        // A base offset without a swizzle.
        assert_eq!(MatrixDescriptor::decode(0x0008_4008_0000_1860, Generation::Sm100).map(|d| d.base), Ok(0));
        assert!(MatrixDescriptor::decode(4 << 49, Generation::Sm90).is_err());
    }

    #[test]
    fn sw128_formula() {
        // Row r, byte b of an SW128 tile: r * 128 + ((b / 16) ^ (r % 8)) * 16.
        let d = MatrixDescriptor { start: 0x400, lbo: 16, sbo: 1024, width: 128, atom32: false, base: 0 };
        for row in 0..64 {
            for chunk in 0..8 {
                assert_eq!(d.k_major(row, chunk), 0x400 + row * 128 + ((chunk ^ (row % 8)) * 16));
            }
        }
    }
}
