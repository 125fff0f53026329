//! The weights of a ring: the tiles of its warp of the first product, then those of the second. The ring runs on
//! across the two, so the second product's weights come while the first one's results are still on their way.
//! Warps of their own fetch them.

use crate::fragment::UNIT_BYTES;
use crate::weight_ring::{self, STAGE_BYTES, Source, Weights};
use cuda_std::mbarrier;
use cuda_std::prelude::*;

use super::layout::{FETCH_WARPS, at, most_warps, stages, warps_for};
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
    pub unsafe fn load_warp(base: u32, index: u32) -> Self {
        // SAFETY: the caller's duty.
        unsafe { Self::of(shared::load_v4(base + at::PRODUCTS + 16 * index).map(|word| warp::uniform(word))) }
    }

    /// [`Self::load_warp`] by one thread.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_thread(base: u32, index: u32) -> Self {
        // SAFETY: the caller's duty.
        Self::of(unsafe { shared::load_v4(base + at::PRODUCTS + 16 * index) })
    }

    #[inline(always)]
    const fn of([low, high, row_tiles, k_units]: [u32; 4]) -> Self {
        let weights = ((high as u64) << 32 | low as u64) as *const u8;
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
    /// Stages of a ring.
    pub stages: u32,
}

impl Share {
    /// Of product `product` (0, 1).
    ///
    /// # Safety
    /// Shares and routing have been made, and a block barrier has passed; the whole warp calls it.
    #[inline(always)]
    pub unsafe fn load_warp(base: u32, product: u32) -> Self {
        // SAFETY: the caller's duty.
        unsafe { Self::of(Self::words(base, product).map(|word| warp::uniform(word))) }
    }

    /// [`Self::load_warp`] by one thread.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_thread(base: u32, product: u32) -> Self {
        // SAFETY: the caller's duty.
        Self::of(unsafe { Self::words(base, product) })
    }

    #[inline(always)]
    unsafe fn words(base: u32, product: u32) -> [u32; 2] {
        // SAFETY: the caller's duty.
        unsafe {
            let token_tiles = shared::load_u32(base + at::TOKEN_TILES);
            shared::load_v2(base + at::SHARES + 16 * token_tiles + 8 * product)
        }
    }

    #[inline(always)]
    const fn of([tiles, rings]: [u32; 2]) -> Self {
        Self { first: tiles & 0xffff, tiles: tiles >> 16, warps: rings & 0xffff, stages: rings >> 16 }
    }

    /// Deals the tiles of each product of `row_tiles` row tiles to the blocks, for each number of token tiles up to `most`;
    /// warp `warp` of `warps`. Which of them it will be is not known yet, and divisions take their time.
    ///
    /// # Safety
    /// All of these warps call it, whole; a block barrier must follow.
    #[inline(always)]
    pub unsafe fn deal_warp(
        base: u32,
        row_tiles: [u32; 2],
        most: u32,
        rows_bytes: u32,
        warp: u32,
        warps: u32,
    ) {
        let (blocks, block) = (thread::grid_dim_x(), thread::block_idx_x());
        let most_warps = most_warps(rows_bytes);
        let mut item = 32 * warp + warp::lane_id();
        // The products of a number are neighbours. Whole warps take part.
        while item - warp::lane_id() < 2 * (most + 1) {
            let all = item / 2 * if item.is_multiple_of(2) { row_tiles[0] } else { row_tiles[1] };
            let (each, more) = (all / blocks, all % blocks);
            let tiles = each + u32::from(block < more);
            let first = block * each + block.min(more);
            let warps_of = warps_for(tiles, most_warps);
            // SAFETY: the whole warp is here; the table has the number.
            unsafe {
                let other = warp::shuffle_xor(warp::FULL, warps_of, 1);
                let stages = stages(warps_of.max(other).max(1), rows_bytes);
                if item < 2 * (most + 1) {
                    shared::store_v2(
                        base + at::SHARES + 8 * item,
                        [first | tiles << 16, warps_of | stages << 16],
                    );
                }
            }
            item += 32 * warps;
        }
    }

    /// The first tile of `warp`, counted in the share; its others follow in steps of `warps`. The second product begins with
    /// the last of `rings` warps, so that those who have little to do in the first one fetch for it early.
    #[inline(always)]
    pub const fn first_of(&self, product: u32, warp: u32, rings: u32) -> u32 {
        let turn = if product == 0 { warp } else { rings.wrapping_sub(1 + warp) };
        if turn < self.warps { turn } else { self.tiles }
    }
}

/// Where the rings of a block are.
#[derive(Clone, Copy)]
pub struct Rings {
    /// How many: one for each warp that multiplies.
    pub count: u32,
    /// Stages of each.
    pub stages: u32,
    base: u32,
    /// Shared address of the first.
    at: u32,
}

impl Rings {
    /// Behind staged rows of `rows_bytes` bytes.
    ///
    /// # Safety
    /// The shares have been written, and a block barrier has passed; the whole warp calls it.
    #[inline(always)]
    pub unsafe fn load_warp(base: u32, rows_bytes: u32) -> Self {
        // SAFETY: the caller's duty.
        let (first, second) = unsafe { (Share::load_warp(base, 0), Share::load_warp(base, 1)) };
        Self {
            count: first.warps.max(second.warps),
            stages: first.stages,
            base,
            at: base + at::ROWS + rows_bytes,
        }
    }

    /// Shared addresses of ring `n` and of its mbarriers for full stages; those for empty ones are [`at::TO_EMPTY`] further.
    #[inline(always)]
    pub const fn of(&self, n: u32) -> (u32, u32) {
        let stage = n * self.stages;
        (self.at + stage * STAGE_BYTES, self.base + at::BARRIERS + stage * mbarrier::BYTES)
    }
}

/// What is next in a ring.
struct Stream {
    base: u32,
    ring: u32,
    /// Rings in all.
    rings: u32,
    source: Source,
    product: u32,
    /// The tile in the product's share.
    at: u32,
}

impl Stream {
    /// At the first tile of ring `ring` of `rings`; nothing if there is no such ring.
    ///
    /// # Safety
    /// Products and shares have been written, the routing is built, and a block barrier has passed.
    #[inline(always)]
    unsafe fn new(base: u32, ring: u32, rings: u32) -> Self {
        let source = Source::none();
        // SAFETY: the caller's duty.
        unsafe {
            let at = Share::load_thread(base, 0).first_of(0, ring, rings);
            let mut stream = Self { base, ring, rings, source, product: 0, at };
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
            let mut share = Share::load_thread(self.base, self.product);
            if self.at >= share.tiles && self.product == 0 {
                self.product = 1;
                share = Share::load_thread(self.base, 1);
                self.at = share.first_of(1, self.ring, self.rings);
            }
            if self.at < share.tiles {
                let product = Product::load_thread(self.base, self.product);
                let tile = share.first + self.at;
                let (token_tile, row_tile) = (tile / product.row_tiles, tile % product.row_tiles);
                let expert = TokenTile::load_thread(self.base, token_tile).expert;
                self.source = Source::of(product.tile(expert, row_tile), product.k_units);
                self.at += share.warps;
            }
        }
    }
}

impl Weights for Stream {
    #[inline(always)]
    fn source(&mut self) -> &mut Source {
        &mut self.source
    }

    #[inline(always)]
    unsafe fn next_tile(&mut self) {
        // SAFETY: as when it was made.
        unsafe { self.start_tile() };
    }
}

/// Fetches the weights of every [`FETCH_WARPS`]th ring from `first` on, until all are fetched.
///
/// # Safety
/// The whole warp calls it, and for each ring one warp does; shares and routing are made, the mbarriers initialised, and a block barrier has passed.
#[inline(always)]
pub unsafe fn fetch_warp(base: u32, first: u32, rings: Rings) {
    let ring = first + FETCH_WARPS * warp::lane_id();
    let (to, full) = rings.of(ring);
    // SAFETY: the caller's duty; whoever multiplies says when a stage is empty.
    unsafe {
        let stream = Stream::new(base, ring, rings.count);
        weight_ring::fetch_warp(stream, to, full, at::TO_EMPTY, rings.stages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_dealt_from_both_ends() {
        let share = Share { first: 5, tiles: 7, warps: 3, stages: 4 };
        let firsts = |product| [0, 1, 2, 3, 4, 5].map(|warp| share.first_of(product, warp, 5));
        assert_eq!(firsts(0), [0, 1, 2, 7, 7, 7]);
        // A warp without a ring has no tile.
        assert_eq!(firsts(1), [7, 7, 2, 1, 0, 7]);
    }
}
