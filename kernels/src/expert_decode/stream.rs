//! The weights that a warp still has to fetch: its tiles of the first product, then those of the second. The ring runs on
//! across the two, so the second product's weights come while the first one's results are still on their way.

use crate::fragment::UNIT_BYTES;
use crate::weight_ring::Source;
use cuda_std::prelude::*;

use super::layout::at;
use super::routing::TokenTile;

/// The weights of a product.
#[derive(Clone, Copy)]
pub struct Product {
    /// Packed weights of all experts.
    pub weights: *const u8,
    /// Row tiles of an expert.
    pub row_tiles: u32,
    /// Units of 64 columns.
    pub k_units: u32,
}

impl Product {
    /// Number `index` (0, 1).
    ///
    /// # Safety
    /// It has been written, and a block barrier has passed; the whole warp calls it.
    #[inline(always)]
    pub unsafe fn load(base: u32, index: u32) -> Self {
        // SAFETY: the caller's duty.
        let [low, high, row_tiles, k_units] =
            unsafe { shared::load_v4(base + at::PRODUCTS + 16 * index).map(|word| warp::uniform(word)) };
        let weights = (u64::from(high) << 32 | u64::from(low)) as *const u8;
        Self { weights, row_tiles, k_units }
    }

    /// Stores it as number `index`.
    ///
    /// # Safety
    /// One thread; a block barrier must follow.
    #[inline(always)]
    pub unsafe fn store(self, base: u32, index: u32) {
        let at = self.weights as u64;
        let words = [at as u32, (at >> 32) as u32, self.row_tiles, self.k_units];
        // SAFETY: inside the block's memory.
        unsafe { shared::store_v4(base + at::PRODUCTS + 16 * index, words) };
    }

    /// The weights of row tile `row_tile` of `expert`.
    ///
    /// # Safety
    /// There are such weights.
    #[inline(always)]
    unsafe fn tile(&self, expert: u32, row_tile: u32) -> *const u8 {
        let tile = expert * self.row_tiles + row_tile;
        let at = u64::from(tile) * u64::from(self.k_units * UNIT_BYTES as u32);
        // SAFETY: the caller's duty.
        unsafe { self.weights.add(at as usize) }
    }
}

/// A block's share of the tiles of a product, `[token tile][row tile]` in order.
#[derive(Clone, Copy)]
pub struct Share {
    /// First tile.
    pub first: u32,
    /// Tiles.
    pub tiles: u32,
    /// Warps that they are dealt to.
    pub warps: u32,
}

impl Share {
    /// Of product `product` (0, 1), and the word behind it.
    ///
    /// # Safety
    /// It has been written, and a block barrier has passed; the whole warp calls it.
    #[inline(always)]
    pub unsafe fn load(base: u32, product: u32) -> (Self, u32) {
        // SAFETY: the caller's duty.
        let [first, tiles, warps, more] =
            unsafe { shared::load_v4(base + at::SHARES + 16 * product).map(|word| warp::uniform(word)) };
        (Self { first, tiles, warps }, more)
    }

    /// Stores it with a word behind it.
    ///
    /// # Safety
    /// One thread; a block barrier must follow.
    #[inline(always)]
    pub unsafe fn store(self, base: u32, product: u32, more: u32) {
        let words = [self.first, self.tiles, self.warps, more];
        // SAFETY: inside the block's memory.
        unsafe { shared::store_v4(base + at::SHARES + 16 * product, words) };
    }

    /// The first tile of `warp`, counted in the share; its others follow in steps of `warps`. The second product begins with
    /// the last of `rings` warps, so that those who have little to do in the first one fetch for it early.
    #[inline(always)]
    pub const fn first_of(&self, product: u32, warp: u32, rings: u32) -> u32 {
        let turn = if product == 0 { warp } else { rings.wrapping_sub(1 + warp) };
        if turn < self.warps { turn } else { self.tiles }
    }
}

/// What is next.
pub struct Stream {
    base: u32,
    warp: u32,
    /// Warps that have a ring.
    rings: u32,
    source: Source,
    product: u32,
    /// The tile in the product's share.
    at: u32,
}

impl Stream {
    /// At the first tile of `warp`.
    ///
    /// # Safety
    /// Products and shares have been written, the routing is built, and a block barrier has passed.
    #[inline(always)]
    pub unsafe fn new(base: u32, warp: u32, rings: u32) -> Self {
        let source = Source::none();
        // SAFETY: the caller's duty.
        unsafe {
            let at = Share::load(base, 0).0.first_of(0, warp, rings);
            let mut stream = Self { base, warp, rings, source, product: 0, at };
            stream.start_tile();
            stream
        }
    }

    /// Starts the current tile, or the second product, if there is any.
    ///
    /// # Safety
    /// As [`Self::new`].
    #[inline(always)]
    unsafe fn start_tile(&mut self) {
        // SAFETY: the caller's duty; tiles of the share have weights.
        unsafe {
            let (mut share, _) = Share::load(self.base, self.product);
            if self.at >= share.tiles && self.product == 0 {
                self.product = 1;
                (share, _) = Share::load(self.base, 1);
                self.at = share.first_of(1, self.warp, self.rings);
            }
            if self.at < share.tiles {
                let product = Product::load(self.base, self.product);
                let tile = share.first + self.at;
                let (token_tile, row_tile) = (tile / product.row_tiles, tile % product.row_tiles);
                let expert = TokenTile::load(self.base, token_tile).expert;
                self.source = Source::of(product.tile(expert, row_tile), product.k_units);
                self.at += share.warps;
            }
        }
    }

    /// Issues the copy of the next stage to `to`, counted on `barrier`; nothing if there is none.
    ///
    /// # Safety
    /// The whole warp calls it; nobody reads the stage any more.
    #[inline(always)]
    pub unsafe fn issue_warp(&mut self, to: u32, barrier: u32) {
        // SAFETY: the caller's duty; the units are inside the tile.
        unsafe {
            if !self.source.is_empty() && self.source.copy_warp(to, barrier) {
                self.start_tile();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_dealt_from_both_ends() {
        let share = Share { first: 5, tiles: 7, warps: 3 };
        let firsts = |product| [0, 1, 2, 3, 4, 5].map(|warp| share.first_of(product, warp, 5));
        assert_eq!(firsts(0), [0, 1, 2, 7, 7, 7]);
        // A warp without a ring has no tile.
        assert_eq!(firsts(1), [7, 7, 2, 1, 0, 7]);
    }
}
