//! Which block computes what: the tiles of a grouped GEMM, dealt round-robin.
//!
//! Experts one after the other; in an expert, row blocks outside and token ranges inside, so that blocks that run at
//! the same time read the same weights, and the tokens of one expert, from L2. An expert's rows are split evenly
//! into as few ranges as a tile's width allows, in whole groups of [`GROUP`].

use cuda_std::warp;

/// Rows of a group: after so many the swizzle of token rows repeats.
pub const GROUP: u32 = 8;

/// A tile: a range of one expert's rows (tokens) by a block of its row tiles (features).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The expert.
    pub expert: u32,
    /// Number of the block of row tiles.
    pub block: u32,
    /// First row of the range, counted in the expert.
    pub first: u32,
    /// Rows of the range; 0 stands for no tile.
    pub rows: u32,
}

impl Tile {
    /// The same, so that the compiler can see that all lanes have it.
    ///
    /// # Safety
    /// The whole warp, with one tile.
    #[inline(always)]
    pub unsafe fn uniform_warp(self) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            Self {
                expert: warp::uniform(self.expert),
                block: warp::uniform(self.block),
                first: warp::uniform(self.first),
                rows: warp::uniform(self.rows),
            }
        }
    }

    /// No tile.
    pub const NONE: Tile = Tile { expert: 0, block: 0, first: 0, rows: 0 };
}

/// The tiles of one block of threads, in order.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Number of the next tile among all.
    pub(super) tile: u32,
    /// Tiles from one to the next: blocks of the grid.
    pub(super) stride: u32,
    /// The expert that `base` belongs to.
    pub(super) expert: u32,
    /// Tiles of all experts before.
    pub(super) base: u32,
}

impl Walk {
    /// Starts at tile `first` (the block's index), then every `stride`-th (the grid's blocks).
    #[inline(always)]
    pub const fn new(first: u32, stride: u32) -> Self {
        Self { tile: first, stride, expert: 0, base: 0 }
    }

    /// The next tile, or [`Tile::NONE`] after the last one: not an `Option`, whose content `ptxas` takes for live wherever
    /// it might have been left from before. `blocks`: of row tiles in each expert; `width`: most rows of a tile; `count`: rows of an
    /// expert. The same arguments every time.
    #[inline(always)]
    pub fn next(&mut self, experts: u32, blocks: u32, width: u32, count: impl Fn(u32) -> u32) -> Tile {
        let mut tile = Tile::NONE;
        while self.expert < experts {
            let rows = count(self.expert);
            let ranges = rows.div_ceil(width);
            let tiles = ranges * blocks;
            let at = self.tile - self.base;
            if at < tiles {
                let range = at % ranges;
                let each = rows.div_ceil(ranges).next_multiple_of(GROUP);
                let first = range * each;
                self.tile += self.stride;
                tile = Tile { expert: self.expert, block: at / ranges, first, rows: each.min(rows - first) };
                break;
            }
            self.base += tiles;
            self.expert += 1;
        }
        tile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_every_block_once() {
        let counts = [0, 1, 31, 0, 128, 129, 1000, 38401, 0];
        for (width, blocks) in [(128, 1), (128, 3), (32, 2), (96, 5)] {
            for grid in [1, 2, 7, 132, 5000] {
                let mut done: Vec<Vec<u32>> =
                    counts.iter().map(|&c| vec![0; (c * blocks) as usize]).collect();
                for block in 0..grid {
                    let mut walk = Walk::new(block, grid);
                    loop {
                        let tile = walk.next(counts.len() as u32, blocks, width, |e| counts[e as usize]);
                        if tile == Tile::NONE {
                            break;
                        }
                        assert!(tile.rows >= 1 && tile.rows <= width && tile.block < blocks, "{tile:?}");
                        assert!(tile.first.is_multiple_of(GROUP));
                        for row in tile.first..tile.first + tile.rows {
                            let count = counts[tile.expert as usize];
                            assert!(row < count);
                            done[tile.expert as usize][(tile.block * count + row) as usize] += 1;
                        }
                    }
                }
                assert!(done.iter().flatten().all(|&n| n == 1), "width {width} grid {grid}");
            }
        }
    }

    #[test]
    fn ranges_are_even() {
        let mut walk = Walk::new(0, 1);
        let rows: Vec<u32> = (0..4).map(|_| walk.next(1, 1, 128, |_| 300)).map(|tile| tile.rows).collect();
        assert_eq!(rows, [104, 104, 92, 0]);
    }
}
