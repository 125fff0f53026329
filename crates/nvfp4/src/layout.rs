//! The 32_4_4 scale-factor layout that `tcgen05.cp`/`tcgen05.mma...block_scale.scale_vec::4X` read
//! (PTX ISA 9.7.16.10.7, "scale factor layout"; cuBLAS calls it the 128x4 block layout).
//!
//! Scales of a `[rows, ksf]` matrix (one byte per row and per group of 16 along K) are stored in tiles of
//! 128 rows x 4 groups = 512 bytes, K-tiles fastest. Inside a tile, row `r` and group `c` are at
//! `(r % 32) * 16 + (r / 32) * 4 + c`. Rows are padded to 128 and groups to 4; in a grouped GEMM every
//! expert starts on a fresh 128-row boundary.

/// Rows of one tile.
pub const TILE_ROWS: usize = 128;
/// K-groups of one tile.
pub const TILE_GROUPS: usize = 4;
/// Bytes of one tile.
pub const TILE_BYTES: usize = TILE_ROWS * TILE_GROUPS;

/// `rows` rounded up to whole tiles.
#[inline(always)]
pub const fn padded_rows(rows: usize) -> usize {
    rows.div_ceil(TILE_ROWS) * TILE_ROWS
}

/// `groups` (of 16 along K) rounded up to whole tiles.
#[inline(always)]
pub const fn padded_groups(groups: usize) -> usize {
    groups.div_ceil(TILE_GROUPS) * TILE_GROUPS
}

/// Bytes of the layout of a `[rows, groups]` scale matrix.
#[inline(always)]
pub const fn sf_len(rows: usize, groups: usize) -> usize {
    padded_rows(rows) * padded_groups(groups)
}

/// Byte offset of the scale of `row` and K-group `group` in a matrix of `groups` groups per row.
#[inline(always)]
pub const fn sf_offset(row: usize, group: usize, groups: usize) -> usize {
    let tile = (row / TILE_ROWS) * groups.div_ceil(TILE_GROUPS) + group / TILE_GROUPS;
    tile * TILE_BYTES + (row % 32) * 16 + ((row / 32) % 4) * 4 + group % TILE_GROUPS
}

/// Inverse of [`sf_offset`]: the `(row, group)` of a byte, which may lie in the padding.
#[inline(always)]
pub const fn sf_coord(offset: usize, groups: usize) -> (usize, usize) {
    let tiles_k = groups.div_ceil(TILE_GROUPS);
    let (tile, within) = (offset / TILE_BYTES, offset % TILE_BYTES);
    let row = (tile / tiles_k) * TILE_ROWS + ((within / 4) % 4) * 32 + within / 16;
    let group = (tile % tiles_k) * TILE_GROUPS + within % TILE_GROUPS;
    (row, group)
}

/// Row-major `[rows, groups]` scales into the 32_4_4 layout; the padding is written as 0.
///
/// # Panics
/// If `src.len() != rows * groups` or `dst.len() != sf_len(rows, groups)`.
pub fn swizzle(src: &[u8], rows: usize, groups: usize, dst: &mut [u8]) {
    assert_eq!(src.len(), rows * groups, "source must be [rows, groups]");
    assert_eq!(dst.len(), sf_len(rows, groups), "destination must hold sf_len(rows, groups) bytes");
    dst.fill(0);
    for row in 0..rows {
        for group in 0..groups {
            dst[sf_offset(row, group, groups)] = src[row * groups + group];
        }
    }
}

/// The 32_4_4 layout back into row-major `[rows, groups]`; the padding is dropped.
///
/// # Panics
/// As [`swizzle`].
pub fn unswizzle(src: &[u8], rows: usize, groups: usize, dst: &mut [u8]) {
    assert_eq!(src.len(), sf_len(rows, groups), "source must hold sf_len(rows, groups) bytes");
    assert_eq!(dst.len(), rows * groups, "destination must be [rows, groups]");
    for row in 0..rows {
        for group in 0..groups {
            dst[row * groups + group] = src[sf_offset(row, group, groups)];
        }
    }
}
