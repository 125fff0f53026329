//! In which order the tiles of both products are done.
//!
//! One list for the whole grid, dealt round-robin: the first product of each expert stands `lag` experts before its second
//! one. A block takes its tiles in the order of the list.
//!
//! # Why nothing waits for ever
//! A tile of the second product waits for tiles of the first that stand before it in the list, and for nothing else. Of
//! all unfinished tiles take the first in the list: what it waits for stands before it, so is done; and so are the earlier
//! tiles of its block, which therefore works on it, for all blocks of the grid are resident from the start (one on an SM,
//! and no more of them than SMs). So the first unfinished tile is always finished, one after the other until none is left.

use crate::expert_list::Entry;
use crate::tcgen05_gemm::tiles::Tile;

/// Which product a tile is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Gate and up.
    First,
    /// Down.
    Second,
}

/// The tiles of one block, or pair, in order.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Number of the next tile in the list.
    tile: u32,
    /// Tiles from one to the next.
    stride: u32,
    /// Place in the list of experts of those whose first product is next; those whose second one is are `lag` behind.
    step: u32,
    /// Whether this step's first product has had its turn.
    first_done: bool,
    /// Tiles before the current product of the current expert.
    base: u32,
}

impl Order {
    /// Starts at tile `first`, then every `stride`-th.
    #[inline(always)]
    pub const fn new(first: u32, stride: u32) -> Self {
        Self { tile: first, stride, step: 0, first_done: false, base: 0 }
    }

    /// The next tile. `entries`: experts with rows, the `i`-th being `entry(i)`; `blocks`: row blocks, or pairs, of each in
    /// the first and the second product; `lag`: at least 1.
    #[inline(always)]
    pub fn next(
        &mut self,
        entries: u32,
        blocks: [u32; 2],
        lag: u32,
        entry: impl Fn(u32) -> Entry,
    ) -> Option<(Product, Tile)> {
        while self.step < entries + lag {
            let (product, index, blocks) = if self.first_done {
                (Product::Second, self.step.wrapping_sub(lag), blocks[1])
            } else {
                (Product::First, self.step, blocks[0])
            };
            // Before the first and behind the last expert there is none; a number below 0 is a large one.
            if index < entries {
                let of = entry(index);
                let before = if index == 0 { 0 } else { entry(index - 1).end };
                let ranges = of.end - before;
                let at = self.tile - self.base;
                if at < ranges * blocks {
                    self.tile += self.stride;
                    return Some((product, Tile::of(of, ranges, at)));
                }
                self.base += ranges * blocks;
            }
            self.step += u32::from(self.first_done);
            self.first_done = !self.first_done;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcgen05_gemm::layout::WIDTH;

    fn entries(counts: &[u32]) -> Vec<Entry> {
        let (mut first_row, mut end, mut list) = (0, 0, Vec::new());
        for (expert, &rows) in counts.iter().enumerate() {
            end += rows.div_ceil(WIDTH);
            list.push(Entry { expert: expert as u32, first_row, rows, end });
            first_row += rows.next_multiple_of(128);
        }
        list
    }

    /// All tiles with their blocks, as `(number, product, tile)`.
    fn all(list: &[Entry], blocks: [u32; 2], lag: u32, grid: u32) -> Vec<(u32, Product, Tile)> {
        let mut tiles = Vec::new();
        for block in 0..grid {
            let mut order = Order::new(block, grid);
            let mut number = block;
            while let Some((product, tile)) = order.next(list.len() as u32, blocks, lag, |i| list[i as usize])
            {
                tiles.push((number, product, tile));
                number += grid;
            }
        }
        tiles.sort_by_key(|t| t.0);
        tiles
    }

    #[test]
    fn every_tile_once_and_behind_what_it_waits_for() {
        let list = entries(&[1, 300, 7, 64, 1000]);
        let blocks = [3, 5];
        for lag in [1, 2, 4, 5, 100] {
            let tiles = all(&list, blocks, lag, 1);
            let ranges = list[list.len() - 1].end;
            assert_eq!(tiles.len() as u32, ranges * 8);
            let mut first = std::collections::BTreeMap::new();
            for &(_, product, tile) in &tiles {
                let done = first.entry(tile.first).or_insert(0);
                match product {
                    Product::First => *done += 1,
                    Product::Second => assert_eq!(*done, blocks[0], "lag {lag}, {tile:?}"),
                }
            }
            // The same list for every grid.
            for grid in [2, 7, 148] {
                assert_eq!(all(&list, blocks, lag, grid), tiles);
            }
        }
        assert_eq!(all(&[], blocks, 1, 3), []);
    }

    #[test]
    fn the_lag_is_of_experts() {
        let list = entries(&[1; 4]);
        let order: Vec<_> = all(&list, [1, 1], 2, 1).iter().map(|t| (t.1, t.2.expert)).collect();
        use Product::{First, Second};
        let want = [
            (First, 0),
            (First, 1),
            (First, 2),
            (Second, 0),
            (First, 3),
            (Second, 1),
            (Second, 2),
            (Second, 3),
        ];
        assert_eq!(order, want);
    }
}
