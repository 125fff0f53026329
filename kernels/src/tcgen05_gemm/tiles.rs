//! Which block computes what: the tiles of a grouped GEMM, dealt round-robin.
//!
//! Experts one after the other; in an expert, row blocks of weights outside and token ranges inside, so that blocks that
//! run at the same time read the same weights, and the tokens of one expert, from L2. An expert's tokens are split evenly
//! into as few ranges as a tile's width allows; ranges start at multiples of [`START_ALIGN`].

use super::layout::{START_ALIGN, WIDTH};
use crate::expert_list::{Entry, ExpertList};

/// The list of experts with token tiles of [`WIDTH`].
pub type Experts = ExpertList<WIDTH>;

/// A tile: a range of one expert's tokens by a row block of its weights (of a pair, by two).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The expert.
    pub expert: u32,
    /// Number of the row block, or pair of row blocks, among those that are computed.
    pub block: u32,
    /// First row of the range in the operands: a multiple of [`START_ALIGN`].
    pub first: u32,
    /// Rows of the range, at least 1.
    pub rows: u32,
    /// Ranges of the expert: tiles that read the same weights.
    pub ranges: u32,
}

impl Tile {
    /// Tile `at` of an expert whose tokens are split into `ranges`.
    #[inline(always)]
    pub const fn of(entry: Entry, ranges: u32, at: u32) -> Self {
        let range = at % ranges;
        let each = entry.rows.div_ceil(ranges).next_multiple_of(START_ALIGN);
        let (first, left) = (range * each, entry.rows - range * each);
        Self {
            expert: entry.expert,
            block: at / ranges,
            first: entry.first_row + first,
            rows: if each < left { each } else { left },
            ranges,
        }
    }
}

/// The tiles of one block of threads, or one pair, in order.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Number of the next tile among all.
    tile: u32,
    /// Tiles from one to the next.
    stride: u32,
    /// Place in the list of experts.
    entry: u32,
    /// Token tiles of all experts before.
    base: u32,
}

impl Walk {
    /// Starts at tile `first`, then every `stride`-th.
    #[inline(always)]
    pub const fn new(first: u32, stride: u32) -> Self {
        Self { tile: first, stride, entry: 0, base: 0 }
    }

    /// The next tile. `entries`: experts with rows, the `i`-th being `entry(i)`; `blocks`: row blocks, or pairs, of each.
    #[inline(always)]
    pub fn next(&mut self, entries: u32, blocks: u32, entry: impl Fn(u32) -> Entry) -> Option<Tile> {
        while self.entry < entries {
            let of = entry(self.entry);
            if self.tile < of.end * blocks {
                let tile = Tile::of(of, of.end - self.base, self.tile - self.base * blocks);
                self.tile += self.stride;
                return Some(tile);
            }
            self.base = of.end;
            self.entry += 1;
        }
        None
    }
}

/// Some rows of one row block of an operand of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The row block.
    pub block: u32,
    /// First row in it.
    pub row: u32,
    /// Rows; 0 for none.
    pub rows: u32,
}

/// Rows of an operand by row blocks: at most two.
#[inline(always)]
pub const fn pieces(first: u32, rows: u32) -> [Piece; 2] {
    const BLOCK: u32 = crate::operand::BLOCK_ROWS as u32;
    let (block, row) = (first / BLOCK, first % BLOCK);
    let here = if rows < BLOCK - row { rows } else { BLOCK - row };
    [Piece { block, row, rows: here }, Piece { block: block + 1, row: 0, rows: rows - here }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(counts: &[u32]) -> Vec<Entry> {
        let (mut first_row, mut end, mut list) = (0, 0, Vec::new());
        for (expert, &rows) in counts.iter().enumerate() {
            end += rows.div_ceil(WIDTH);
            if rows != 0 {
                list.push(Entry { expert: expert as u32, first_row, rows, end });
            }
            first_row += rows.next_multiple_of(128);
        }
        list
    }

    #[test]
    fn every_row_of_every_block_once() {
        let counts = [0, 1, 31, 0, 64, 65, 192, 193, 385, 1000, 38401, 0];
        let list = entries(&counts);
        let total: u32 = counts.iter().map(|c| c.next_multiple_of(128)).sum();
        for blocks in [1, 3] {
            for grid in [1, 2, 7, 148, 5000] {
                let mut done = vec![0u8; (total * blocks) as usize];
                for block in 0..grid {
                    let mut walk = Walk::new(block, grid);
                    while let Some(tile) = walk.next(list.len() as u32, blocks, |i| list[i as usize]) {
                        assert!(tile.rows >= 1 && tile.rows <= WIDTH && tile.block < blocks, "{tile:?}");
                        assert!(tile.first.is_multiple_of(START_ALIGN));
                        assert_eq!(tile.ranges, counts[tile.expert as usize].div_ceil(WIDTH));
                        for row in tile.first..tile.first + tile.rows {
                            done[(tile.block * total + row) as usize] += 1;
                        }
                    }
                }
                for block in 0..blocks {
                    let mut first = 0;
                    for &count in &counts {
                        for row in first..first + count.next_multiple_of(128) {
                            let times = done[(block * total + row) as usize];
                            assert_eq!(times, u8::from(row < first + count), "grid {grid}, row {row}");
                        }
                        first += count.next_multiple_of(128);
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_are_even() {
        let list = entries(&[600]);
        let mut walk = Walk::new(0, 1);
        let rows: Vec<u32> =
            std::iter::from_fn(|| walk.next(1, 1, |i| list[i as usize])).map(|tile| tile.rows).collect();
        assert_eq!(rows, [192, 192, 192, 24]);
        let list = entries(&[300]);
        let mut walk = Walk::new(0, 1);
        let tiles: Vec<_> = std::iter::from_fn(|| walk.next(1, 1, |i| list[i as usize])).collect();
        assert_eq!(tiles.iter().map(|t| (t.first, t.rows)).collect::<Vec<_>>(), [(0, 192), (192, 108)]);
    }

    #[test]
    fn pieces_are_the_rows() {
        for (first, rows) in
            [(0, 8), (0, 128), (0, 192), (64, 64), (64, 72), (64, 192), (192, 96), (1088, 16)]
        {
            let [a, b] = pieces(first, rows);
            assert_eq!((a.block * 128 + a.row, a.rows + b.rows), (first, rows));
            assert!(a.rows >= 1 && a.row + a.rows <= 128 && b.rows <= 128);
            assert!(b.rows == 0 || (a.row + a.rows == 128 && b.row == 0 && b.block == a.block + 1));
        }
    }
}
