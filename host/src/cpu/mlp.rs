//! Gate, up, SwiGLU, down, combine: the gated MLP of all (local) experts on rows sorted by expert. The shared
//! expert is the same with one expert that gets every token.

use nvfp4::quantize;
use nvfp4::swiglu::swiglu;
use rayon::prelude::*;

use super::dequant::WeightRows;
use super::gemm::{PANEL, Panels, Scratch, dots, tiles};
use super::rows::{Rows, Scales, tensor_scale};
use super::simd::{Isa, TILE};
use super::slots::{NONE, SlotPlan};

/// The three weights of an expert.
pub(super) struct Expert<'a> {
    pub(super) gate: &'a dyn WeightRows,
    pub(super) up: &'a dyn WeightRows,
    pub(super) down: &'a dyn WeightRows,
}

/// Experts of equal shape.
pub(super) struct Mlp<'a> {
    pub(super) isa: Isa,
    pub(super) experts: Vec<Expert<'a>>,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) limit: f32,
}

/// Columns of an L1 task: as many gate rows and as many up rows make a panel of the GEMM.
const HALF: usize = PANEL / 2;

/// SwiGLU results of rows sorted by expert, f32. Stored by expert and, inside, by panels of [`HALF`] columns.
pub(super) struct Hidden<'a> {
    offsets: &'a [usize],
    cols: usize,
    data: Vec<f32>,
}

impl Hidden<'_> {
    /// Copies a row; returns its expert.
    fn read(&self, row: usize, out: &mut [f32]) -> usize {
        // `offsets` covers every row of `data`.
        let expert = nvfp4::offsets::expert_of_row(self.offsets, row).unwrap_or(0);
        let (start, end) = (self.offsets[expert], self.offsets[expert + 1]);
        let (n, segment) = (end - start, &self.data[start * self.cols..end * self.cols]);
        for (panel, out) in segment.chunks(n * HALF).zip(out.chunks_mut(HALF)) {
            let width = panel.len() / n;
            out.copy_from_slice(&panel[(row - start) * width..][..width]);
        }
        expert
    }

    fn rows(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// The `TensorDynamic` scale: rows with NaN or infinity are left out.
    pub(super) fn tensor_scale(&self) -> f32 {
        let amax: Vec<u32> = (0..self.rows())
            .into_par_iter()
            .map_init(
                || vec![0.0; self.cols],
                |buffer, row| {
                    self.read(row, buffer);
                    quantize::amax_bits_of(buffer)
                },
            )
            .collect();
        tensor_scale(amax.into_iter())
    }

    /// The rows as L2 takes them; the number of blocks whose scale saturated under a constant global scale.
    pub(super) fn activations(&self, scales: &Scales) -> (Rows<'static>, u64) {
        let read = |row: usize, out: &mut [f32]| {
            self.read(row, out);
        };
        let build = |scale: &(dyn Fn(usize, u32) -> f32 + Sync)| {
            Rows::build(self.rows(), self.cols, read, Some(scale))
        };
        match scales {
            Scales::Bf16 => Rows::build(self.rows(), self.cols, read, None),
            Scales::PerRow => (build(&|_, amax| quantize::tensor_scale_from_amax_bits(amax)).0, 0),
            Scales::Tensor => {
                let scale = self.tensor_scale();
                (build(&|_, _| scale).0, 0)
            }
            Scales::Constant(scale) => build(&|_, _| *scale),
            Scales::PerExpert(list) => {
                build(&|row, _| list[nvfp4::offsets::expert_of_row(self.offsets, row).unwrap_or(0)])
            }
        }
    }
}

impl Mlp<'_> {
    /// L1 and SwiGLU. Row `i` of `plan` reads row `x_row[i]` of `x`.
    pub(super) fn l1<'p>(&self, x: &Rows<'_>, x_row: &[u32], plan: &'p SlotPlan) -> Hidden<'p> {
        let cols = self.intermediate;
        let mut data = vec![0.0; x_row.len() * cols];
        let mut tasks = Vec::new();
        let mut rest = data.as_mut_slice();
        for expert in (0..self.experts.len()).filter(|&e| plan.counts[e] > 0) {
            for from in (0..cols).step_by(HALF) {
                let to = cols.min(from + HALF);
                let (out, tail) = rest.split_at_mut(plan.counts[expert] * (to - from));
                tasks.push((expert, from..to, out));
                rest = tail;
            }
        }
        let state = || (Scratch::default(), Vec::new());
        tasks.into_par_iter().for_each_init(state, |(scratch, acc), (expert, columns, out)| {
            let Expert { gate, up, .. } = &self.experts[expert];
            let (from, to) = (columns.start, columns.end);
            let list: Vec<_> = tiles(*gate, from, to).chain(tiles(*up, from, to)).collect();
            let index = &x_row[plan.rows(expert)];
            let stride = list.len() * TILE;
            acc.clear();
            acc.resize(index.len() * stride, 0.0);
            dots(self.isa, x, index, &list, scratch, acc);
            let rows = out.chunks_exact_mut(to - from).zip(acc.chunks_exact(stride));
            for ((out, acc), &row) in rows.zip(index) {
                let scale = x.scale(row as usize);
                let (alpha_gate, alpha_up) = (scale * gate.global_scale(), scale * up.global_scale());
                let (gates, ups) = acc.split_at(stride / 2);
                for (out, (gate, up)) in out.iter_mut().zip(gates.iter().zip(ups)) {
                    *out = swiglu(gate * alpha_gate, up * alpha_up, self.limit);
                }
            }
        });
        Hidden { offsets: &plan.offsets, cols, data }
    }

    /// L2 and combine: `[tokens, hidden]`, the weighted sum of each token's slots in slot order, from 0. Without
    /// weights, the one slot of each token as it is.
    pub(super) fn l2(
        &self,
        h: &Rows<'_>,
        plan: &SlotPlan,
        tokens: usize,
        top_k: usize,
        weights: Option<&[f32]>,
    ) -> Panels {
        let index: Vec<u32> = (0..h.len() as u32).collect();
        let state = || (Scratch::default(), Vec::new(), Vec::new());
        Panels::compute(tokens, self.hidden, state, |(scratch, list, y), col, width, out| {
            let stride = width.next_multiple_of(TILE);
            y.clear();
            y.resize(h.len() * stride, 0.0f32);
            for (e, expert) in self.experts.iter().enumerate().filter(|&(e, _)| plan.counts[e] > 0) {
                let rows = plan.rows(e);
                list.clear();
                list.extend(tiles(expert.down, col, col + width));
                let y = &mut y[rows.start * stride..rows.end * stride];
                dots(self.isa, h, &index[rows.clone()], list, scratch, y);
                for (y, row) in y.chunks_exact_mut(stride).zip(rows) {
                    let alpha = h.scale(row) * expert.down.global_scale();
                    y.iter_mut().for_each(|y| *y *= alpha);
                }
            }
            for (token, out) in out.chunks_exact_mut(width).enumerate() {
                for slot in token * top_k..(token + 1) * top_k {
                    let row = plan.row_of_slot[slot];
                    if row == NONE {
                        continue;
                    }
                    let y = &y[row as usize * stride..][..width];
                    match weights {
                        Some(weights) => {
                            out.iter_mut().zip(y).for_each(|(out, y)| *out += weights[slot] * y);
                        }
                        None => out.copy_from_slice(y),
                    }
                }
            }
        })
    }
}

/// Marks the tokens that have a slot whose L2 row is not finite.
pub(super) fn poison(h: &Rows<'_>, plan: &SlotPlan, top_k: usize, finite: &mut [bool]) {
    for (row, _) in h.finite().iter().enumerate().filter(|&(_, &ok)| !ok) {
        let slot = plan.slot_of_row[row];
        if slot != NONE {
            finite[slot as usize / top_k] = false;
        }
    }
}
