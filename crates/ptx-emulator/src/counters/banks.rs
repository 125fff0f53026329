//! Shared-memory bank conflicts and global sectors of a warp's access.
//!
//! Shared memory has 32 banks of four bytes (CUDA programming guide, "Shared Memory"). A wavefront gives one word of
//! each bank; lanes that want the same word share it. Accesses of 8 bytes are made by half-warps, of 16 bytes by
//! quarter-warps: each is at least one wavefront.

use crate::machine::LANES;

/// Passes over the banks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wavefronts {
    /// Those that an access needs.
    pub needed: u64,
    /// Those it would need without conflicts.
    pub minimum: u64,
}

/// Lanes that access together.
fn together(bytes: u32) -> usize {
    match bytes {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    }
}

/// Wavefronts of a load or store of `bytes` bytes (1 to 16, aligned) by the lanes of `mask`.
#[inline]
pub fn wavefronts(offsets: &[u64; LANES], mask: u32, bytes: u32) -> Wavefronts {
    let lanes = together(bytes);
    let first = offsets[0];
    let consecutive = |l: usize, o: u64| o == first.wrapping_add(l as u64 * u64::from(bytes));
    let good = || bytes >= 4 && offsets.iter().enumerate().all(|(l, &o)| consecutive(l, o));
    if mask == u32::MAX && (good() || offsets.iter().all(|&o| o == first)) {
        let groups = (LANES / lanes) as u64;
        return Wavefronts { needed: groups, minimum: groups };
    }
    by_group(offsets, mask, bytes, true)
}

/// Wavefronts of an atomic operation: lanes on the same word follow each other.
pub fn atomic_wavefronts(offsets: &[u64; LANES], mask: u32, bytes: u32) -> Wavefronts {
    by_group(offsets, mask, bytes, false)
}

/// Units are what one lane accesses: `bytes` bytes, at least a word. As they are aligned, two of them are in the same
/// banks or have none in common. If `sharing`, lanes with the same unit are as one.
fn by_group(offsets: &[u64; LANES], mask: u32, bytes: u32, sharing: bool) -> Wavefronts {
    let (lanes, unit) = (together(bytes), u64::from(bytes.max(4)));
    let slots = 128 / unit;
    let mut out = Wavefronts::default();
    for group in 0..LANES / lanes {
        let mut units = [0u64; LANES];
        let mut n = 0;
        for lane in (group * lanes..(group + 1) * lanes).filter(|l| mask >> l & 1 == 1) {
            units[n] = offsets[lane] / unit;
            n += 1;
        }
        let units = &mut units[..n];
        let deepest = |units: &mut dyn Iterator<Item = u64>| {
            let mut banks = [0u8; 32];
            units.for_each(|u| banks[(u % slots) as usize] += 1);
            u64::from(banks.iter().max().copied().unwrap_or(0))
        };
        let mut needed = deepest(&mut units.iter().copied());
        if sharing && needed > 1 {
            units.sort_unstable();
            let distinct = (0..n).filter(|&i| i == 0 || units[i] != units[i - 1]).map(|i| units[i]);
            needed = deepest(&mut distinct.into_iter());
        }
        out.needed += needed;
        out.minimum += u64::from(n > 0);
    }
    out
}

/// Distinct 32-byte sectors that the lanes of `mask` touch with `bytes` bytes each.
#[inline]
pub fn sectors(addresses: &[u64; LANES], mask: u32, bytes: u32) -> u64 {
    if mask == u32::MAX && addresses.is_sorted() && bytes <= 32 {
        // (An aligned access lies in one sector.)
        let mut n = 1;
        for l in 1..LANES {
            n += u64::from(addresses[l] / 32 != addresses[l - 1] / 32);
        }
        return n;
    }
    let mut all: Vec<u64> = (0..LANES)
        .filter(|l| mask >> l & 1 == 1)
        .flat_map(|l| addresses[l] / 32..(addresses[l] + u64::from(bytes)).div_ceil(32))
        .collect();
    all.sort_unstable();
    all.dedup();
    all.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: u64) -> [u64; LANES] {
        std::array::from_fn(|l| 1024 + l as u64 * stride)
    }

    #[test]
    fn words() {
        let needed = |stride, bytes| wavefronts(&strided(stride), u32::MAX, bytes).needed;
        assert_eq!([0, 4, 8, 16, 128, 132].map(|s| needed(s, 4)), [1, 1, 2, 4, 32, 1]);
        // Half a word and bytes: lanes share words.
        assert_eq!((needed(2, 2), needed(1, 1), needed(128, 1)), (1, 1, 32));
        assert_eq!([0, 8, 16, 256].map(|s| needed(s, 8)), [2, 2, 4, 32]);
        assert_eq!([0, 16, 32, 128, 144].map(|s| needed(s, 16)), [4, 4, 8, 32, 4]);
        let minimum = |bytes| wavefronts(&strided(128), u32::MAX, bytes).minimum;
        assert_eq!([1, 2, 4, 8, 16].map(minimum), [1, 1, 1, 2, 4]);
    }

    #[test]
    fn some_lanes() {
        // Not aligned to a row of banks, permuted: still no conflict.
        let turned = std::array::from_fn(|l| 1028 + (l as u64 * 5 % 32) * 4);
        assert_eq!(wavefronts(&turned, u32::MAX, 4), Wavefronts { needed: 1, minimum: 1 });
        // One quarter-warp only.
        assert_eq!(wavefronts(&strided(128), 0xff00, 16), Wavefronts { needed: 8, minimum: 1 });
        assert_eq!(wavefronts(&strided(128), 0, 4), Wavefronts::default());
        // Two words of one bank among equal ones.
        let two = std::array::from_fn(|l| (l as u64 % 2) * 128);
        assert_eq!(wavefronts(&two, u32::MAX, 4).needed, 2);
    }

    #[test]
    fn atomics_on_one_word_follow_each_other() {
        assert_eq!(atomic_wavefronts(&strided(0), u32::MAX, 4), Wavefronts { needed: 32, minimum: 1 });
        assert_eq!(atomic_wavefronts(&strided(4), u32::MAX, 4), Wavefronts { needed: 1, minimum: 1 });
        assert_eq!(atomic_wavefronts(&strided(0), 0xf, 8), Wavefronts { needed: 4, minimum: 1 });
    }

    #[test]
    fn sectors_of_lanes() {
        assert_eq!([0, 4, 8, 32, 64].map(|s| sectors(&strided(s), u32::MAX, 4)), [1, 4, 8, 32, 32]);
        assert_eq!([16, 32].map(|s| sectors(&strided(s), u32::MAX, 16)), [16, 32]);
        // Downwards, across a sector border, and few lanes.
        let down = std::array::from_fn(|l| 4096 - l as u64 * 4);
        assert_eq!((sectors(&down, u32::MAX, 4), sectors(&down, 3, 4), sectors(&down, 0, 4)), (5, 2, 0));
    }
}
