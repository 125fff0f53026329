//! The epilogue: four warps that read complete accumulators from tensor memory, 32 rows of weights each, 32 tokens at a
//! time, while the issuer fills the other buffer. What becomes of them: [`super::output`].

use cuda_std::convergence::opaque;
use cuda_std::prelude::*;
use cuda_std::tcgen05::memory::{WARP_LANES, lane_offset};
use cuda_std::{cluster, mbarrier, tcgen05};

use super::layout::{Buffer, CHUNK, CHUNK_BYTES, Form};
use super::output::{Chunk, Output};
use super::tiles::Tile;
use super::{Matrices, wait};

/// One warp of the epilogue.
pub struct Epilogue {
    shared: u32,
    /// Address of the warp's lanes of tensor memory.
    tensor: u32,
    /// Number of the warp: 32 rows of each row block are its own.
    warp: u32,
    /// The block's rank in its pair.
    rank: u32,
    buffer: Buffer,
}

impl Epilogue {
    /// At the start; `tensor` is the address of tensor memory.
    #[inline(always)]
    pub fn new(shared: u32, tensor: u32, warp: u32, rank: u32) -> Self {
        let tensor = tensor + lane_offset(WARP_LANES * warp);
        Self { shared, tensor, warp, rank, buffer: Buffer::START }
    }

    /// Waits for a tile's accumulators, turns them into results and gives the buffer back.
    ///
    /// # Safety
    /// The whole warp; the issuer issues the same tile; matrices and output hold it.
    #[inline(always)]
    pub unsafe fn tile<F: Form, O: Output>(&mut self, matrices: &Matrices, tile: Tile, output: &O) {
        // A pair's row block past the end has no results.
        let block = tile.block * F::BLOCKS + self.rank;
        let rows = if block < matrices.block_count { tile.rows } else { 0 };
        // SAFETY: accumulators are complete when the "complete" phase has; tokens are rows of the operands.
        unsafe {
            wait::<F>(self.shared + self.buffer.complete::<F>(), self.buffer.parity());
            tcgen05::fence_after_thread_sync();
            output.begin(tile);
            let columns = rows.next_multiple_of(F::GRANULE);
            let alphas = output.alphas(tile.expert);
            let mut first = 0;
            while first < columns {
                // Lanes come apart in the wait and in stores; loads of tensor memory are of whole warps.
                warp::sync_warp(warp::FULL);
                let token = first + warp::lane_id();
                let row = tile.first + token;
                // The scales of padding rows may be anything.
                let scale = if token < rows { *matrices.b_scale.add(row as usize) } else { 0.0 };
                output.store(Chunk {
                    tensor: self.tensor + self.buffer.column() + first,
                    columns: columns - first,
                    staging: self.shared + F::CHUNK_OFFSET + CHUNK_BYTES * self.warp,
                    first_row: tile.first + first,
                    rows: rows - first.min(rows),
                    scale,
                    alphas,
                    expert: tile.expert,
                    block: matrices.first_block + block,
                    first_block: matrices.first_block,
                    warp: self.warp,
                });
                first += CHUNK;
            }
            // The buffer is the issuer's again.
            tcgen05::fence_before_thread_sync();
            warp::sync_warp(warp::FULL);
            if opaque(warp::lane_id() == 0) {
                let read = self.shared + self.buffer.read::<F>();
                if F::PAIR {
                    mbarrier::arrive_cluster(cluster::map_shared(read, 0));
                } else {
                    mbarrier::arrive(read);
                }
            }
            output.end(tile);
        }
        self.buffer.advance();
    }
}
