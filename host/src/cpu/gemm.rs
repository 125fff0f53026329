//! Blocked dot products: a list of activation rows with a list of weight rows, through a few KiB of scratch.
//!
//! Up to [`MC`] activation rows are widened to f32, as many chunks of [`KC`] columns as fit; then, tile by tile, each
//! chunk of four weight rows is decoded into the first-level cache and multiplied with all of them. The partial sums
//! stay in memory between chunks, so the chunking is invisible in the result (see [`super::simd`]).

use rayon::prelude::*;

use super::dequant::WeightRows;
use super::rows::Rows;
use super::simd::{Isa, LANES, TILE};

/// Columns of a chunk: four decoded weight rows take 8 KiB.
const KC: usize = 512;
/// Activation rows of a chunk.
const MC: usize = 64;
/// Widened activations that are kept at a time, 128 KiB: several chunks of K if there are few rows.
const X_FLOATS: usize = MC * KC;
/// Weight rows of a task.
pub(super) const PANEL: usize = 64;

/// Up to four consecutive rows of a weight.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    weight: &'a dyn WeightRows,
    row: usize,
    rows: usize,
}

impl Tile<'_> {
    /// Columns `k..k + len` of the four rows, `[TILE, len rounded up to whole lanes]`, zeros where there is nothing.
    fn read<'s>(&self, isa: Isa, k: usize, len: usize, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let padded = len.next_multiple_of(LANES);
        scratch.resize(TILE * padded, 0.0);
        let (used, rest) = scratch.split_at_mut(self.rows * padded);
        rest.fill(0.0);
        for (r, w) in used.chunks_exact_mut(padded).enumerate() {
            self.weight.read(isa, self.row + r, k, &mut w[..len]);
            w[len..].fill(0.0);
        }
        scratch
    }
}

/// Rows `from..to` of a weight as tiles; the last one may be short.
pub(super) fn tiles(weight: &dyn WeightRows, from: usize, to: usize) -> impl Iterator<Item = Tile<'_>> {
    (from..to).step_by(TILE).map(move |row| Tile { weight, row, rows: TILE.min(to - row) })
}

/// Buffers of one thread, kept between tasks.
#[derive(Default)]
pub(super) struct Scratch {
    x: Vec<f32>,
    w: Vec<f32>,
    acc: Vec<f32>,
}

/// `out[i][4 * j + r]` = dot product of activation row `index[i]` with row `r` of tile `j`, without any scale. Columns
/// past the end of a short tile are 0.
///
/// # Panics
/// If `out` is not `[index.len(), 4 * tiles.len()]` or the tiles are not as wide as the rows.
pub(super) fn dots(
    isa: Isa,
    x: &Rows<'_>,
    index: &[u32],
    tiles: &[Tile<'_>],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let width = tiles.len() * TILE;
    assert_eq!(out.len(), index.len() * width, "one result per pair of rows");
    assert!(tiles.iter().all(|t| t.weight.shape().1 == x.cols()), "weights as wide as the rows");
    if width == 0 {
        return;
    }
    for (index, out) in index.chunks(MC).zip(out.chunks_mut(MC * width)) {
        let m = index.len();
        let lanes = m * TILE * LANES;
        scratch.acc.clear();
        scratch.acc.resize(tiles.len() * lanes, 0.0);
        let group = (X_FLOATS / (m * KC)).max(1) * KC;
        for from in (0..x.cols()).step_by(group) {
            let to = x.cols().min(from + group);
            scratch.x.resize(m * (to - from).next_multiple_of(LANES), 0.0);
            for (k, out) in (from..to).step_by(KC).zip(scratch.x.chunks_mut(m * KC)) {
                let len = KC.min(to - k);
                for (&row, out) in index.iter().zip(out.chunks_exact_mut(len.next_multiple_of(LANES))) {
                    isa.widen(x.piece(row as usize, k, len), &mut out[..len]);
                    // Whole lanes; the tail, if any, is 0 on both sides.
                    out[len..].fill(0.0);
                }
            }
            for (tile, acc) in tiles.iter().zip(scratch.acc.chunks_exact_mut(lanes)) {
                for (k, x) in (from..to).step_by(KC).zip(scratch.x.chunks(m * KC)) {
                    let w = tile.read(isa, k, KC.min(to - k), &mut scratch.w);
                    isa.tile(x, w, w.len() / TILE, acc);
                }
            }
        }
        for (j, acc) in scratch.acc.chunks_exact(lanes).enumerate() {
            isa.reduce(acc, &mut out[j * TILE..], width);
        }
    }
}

/// A `[rows, cols]` result, stored as panels of up to [`PANEL`] columns: what tasks can write without sharing.
pub(super) struct Panels {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Panels {
    /// Computes every panel in parallel: `fill(thread state, first column, columns, [rows, columns])`.
    pub(super) fn compute<S>(
        rows: usize,
        cols: usize,
        state: impl Fn() -> S + Sync + Send,
        fill: impl Fn(&mut S, usize, usize, &mut [f32]) + Sync + Send,
    ) -> Self {
        let mut data = vec![0.0; rows * cols];
        if rows > 0 {
            data.par_chunks_mut(rows * PANEL).enumerate().for_each_init(state, |state, (panel, out)| {
                fill(state, panel * PANEL, out.len() / rows, out)
            });
        }
        Self { rows, cols, data }
    }

    /// The pieces of one row, in order.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = &[f32]> {
        self.data.chunks((self.rows * PANEL).max(1)).map(move |panel| {
            let width = panel.len() / self.rows;
            &panel[row * width..][..width]
        })
    }

    /// Row-major.
    pub(super) fn into_rows(self) -> Vec<f32> {
        let mut out = vec![0.0; self.data.len()];
        if self.cols > 0 {
            out.par_chunks_mut(self.cols).enumerate().for_each(|(row, out)| {
                let mut at = 0;
                for piece in self.row(row) {
                    out[at..at + piece.len()].copy_from_slice(piece);
                    at += piece.len();
                }
            });
        }
        out
    }
}

/// All rows of `x` through a whole weight: `[rows, out features]`, each accumulator times `scale(row) *
/// global_scale` (one rounding for the product of the two scales).
pub(super) fn linear(isa: Isa, x: &Rows<'_>, weight: &dyn WeightRows) -> Panels {
    let index: Vec<u32> = (0..x.len() as u32).collect();
    let state = || (Scratch::default(), Vec::new(), Vec::new());
    Panels::compute(x.len(), weight.shape().0, state, |(scratch, list, acc), col, width, out| {
        list.clear();
        list.extend(tiles(weight, col, col + width));
        let stride = list.len() * TILE;
        acc.clear();
        acc.resize(x.len() * stride, 0.0);
        dots(isa, x, &index, list, scratch, acc);
        for (row, (out, acc)) in out.chunks_exact_mut(width).zip(acc.chunks_exact(stride)).enumerate() {
            let alpha = x.scale(row) * weight.global_scale();
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = acc * alpha;
            }
        }
    })
}
