//! A shared expert that is computed apart: bf16, FP8, or NVFP4 of another width than the routed ones.

use kernels::{dense_bf16_linear, dense_bf16_swiglu, dense_fp8_linear, dense_fp8_swiglu, sort_slots};

use super::call::Call;
use super::gemm::{Epilogue, Gemm, Operand, Output, Quantised};
use super::image::{MatrixRegions, pack, put};
use super::plan::Form;
use super::rows::{self, Scales};
use super::shape::{LayerOptions, LayerShape, Operands, Packed, SharedKind};
use super::workspace::needs_h_f32;
use super::{Args, Device, DevicePtr, Region, Regions, grids};
use crate::options::{ActScale, ActScaleL2, Activations};
use crate::weights::{LayerWeights, Linear, SharedExpertWeights};
use crate::{Error, Result};

/// One product of the shared expert: gate and up, or down.
#[derive(Clone, Copy, Debug)]
pub enum Product {
    /// In the order of its [`Operands`].
    Nvfp4(MatrixRegions),
    /// Row-major bf16; the second is up's.
    Bf16([Region; 2]),
    /// Row-major E4M3 and its scales; the second pair is up's.
    Fp8([[Region; 2]; 2]),
}

/// Where its weights lie.
#[derive(Clone, Copy, Debug)]
pub struct SharedRegions {
    /// Gate and up.
    pub l1: Product,
    /// Down.
    pub l2: Product,
    /// f32 `[2]`: constant global scales of L1 and L2 rows (NVFP4 weights and activations, constant policies).
    pub scales: Region,
}

/// Shapes of an expert `intermediate` wide.
fn packed(shape: &LayerShape, intermediate: usize, operands: Operands) -> (Packed, Packed) {
    (operands.gate_up(intermediate, shape.hidden), operands.plain(shape.hidden, intermediate))
}

impl SharedRegions {
    /// The regions for a shared expert that is apart.
    pub(super) fn new(
        layer: &LayerWeights,
        shape: &LayerShape,
        regions: &mut Regions,
    ) -> Result<Option<Self>> {
        let (SharedKind::Apart { intermediate, operands }, Some(shared)) = (shape.shared, &layer.shared)
        else {
            return Ok(None);
        };
        let (l1, l2) = packed(shape, intermediate, operands);
        let l1 = product(regions, &shared.gate, Some(&shared.up), l1)?;
        let l2 = product(regions, &shared.down, None, l2)?;
        Ok(Some(Self { l1, l2, scales: regions.add("shared constant scales", 2, 4)? }))
    }

    /// Whether quantised rows enter.
    pub(super) fn quantises(&self) -> bool {
        matches!((self.l1, self.l2), (Product::Nvfp4(_), Product::Nvfp4(_)))
    }

    /// # Safety
    /// `base` is the image's memory.
    pub(super) unsafe fn upload(
        &self,
        shared: &SharedExpertWeights,
        shape: &LayerShape,
        scales: [f32; 2],
        device: &dyn Device,
        base: DevicePtr,
    ) -> Result<()> {
        let SharedKind::Apart { intermediate, operands } = shape.shared else { return Ok(()) };
        let (l1, l2) = packed(shape, intermediate, operands);
        // SAFETY: the regions were made for these weights.
        unsafe {
            upload(device, self.l1, &shared.gate, Some(&shared.up), l1, base)?;
            upload(device, self.l2, &shared.down, None, l2, base)?;
            put(device, self.scales, base, &scales)
        }
    }
}

fn product(regions: &mut Regions, matrix: &Linear, up: Option<&Linear>, packed: Packed) -> Result<Product> {
    let mixed = |up: &Linear| {
        let what = format!("a shared expert with gate in {} and up in {}", matrix.format(), up.format());
        Err(Error::unsupported(what, "both must have one format"))
    };
    Ok(match (matrix, up) {
        (Linear::Nvfp4(_), None | Some(Linear::Nvfp4(_))) => Product::Nvfp4(MatrixRegions {
            packed: regions.add("shared NVFP4", 1, packed.bytes())?,
            alpha: regions.add("shared alpha", 1, 4)?,
            alpha_up: regions.add("shared alpha of up", usize::from(up.is_some()), 4)?,
        }),
        (Linear::Bf16(m), None) => {
            Product::Bf16([regions.add("shared bf16", m.data.len(), 2)?, Region::default()])
        }
        (Linear::Bf16(m), Some(Linear::Bf16(u))) => Product::Bf16([
            regions.add("shared bf16", m.data.len(), 2)?,
            regions.add("shared bf16 up", u.data.len(), 2)?,
        ]),
        (Linear::Fp8(m), None) => Product::Fp8([
            [
                regions.add("shared FP8", m.data.len(), 1)?,
                regions.add("shared FP8 scales", m.scales.len(), 4)?,
            ],
            [Region::default(); 2],
        ]),
        (Linear::Fp8(m), Some(Linear::Fp8(u))) => Product::Fp8([
            [
                regions.add("shared FP8", m.data.len(), 1)?,
                regions.add("shared FP8 scales", m.scales.len(), 4)?,
            ],
            [
                regions.add("shared FP8 up", u.data.len(), 1)?,
                regions.add("shared FP8 scales of up", u.scales.len(), 4)?,
            ],
        ]),
        (_, Some(up)) => return mixed(up),
    })
}

/// # Safety
/// The regions of `product` were made for these weights and lie at `base`.
unsafe fn upload(
    device: &dyn Device,
    product: Product,
    matrix: &Linear,
    up: Option<&Linear>,
    packed: Packed,
    base: DevicePtr,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe {
        match (product, matrix) {
            (Product::Nvfp4(to), Linear::Nvfp4(m)) => {
                let up = match up {
                    Some(Linear::Nvfp4(u)) => Some(u),
                    _ => None,
                };
                pack(device, packed, m, up, to.packed.at(base))?;
                put(device, to.alpha, base, &[m.global_scale])?;
                put(device, to.alpha_up, base, &[up.map_or(1.0, |u| u.global_scale)])?;
            }
            (Product::Bf16(to), _) => {
                for (to, m) in to.into_iter().zip([Some(matrix), up]) {
                    if let Some(Linear::Bf16(m)) = m {
                        put(device, to, base, &m.data)?;
                    }
                }
            }
            (Product::Fp8(to), _) => {
                for (to, m) in to.into_iter().zip([Some(matrix), up]) {
                    if let Some(Linear::Fp8(m)) = m {
                        put(device, to[0], base, &m.data)?;
                        put(device, to[1], base, &m.scales)?;
                    }
                }
            }
            (Product::Nvfp4(_), _) => {}
        }
    }
    Ok(())
}

/// Regions of the workspace that a shared expert apart needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedWorkspace {
    /// u32 `[1]`, `[2]`, `[tokens]`, `[tokens]`: what the sort gives for one expert that takes all tokens.
    pub counts: Region,
    /// See `counts`.
    pub offsets: Region,
    /// See `counts`.
    pub row_token: Region,
    /// See `counts`.
    pub slot_row: Region,
    /// f16 `[tokens, k]`: its own L1 operand, where it is not the routed experts'; or codes, of whole row blocks.
    pub x: Region,
    /// E4M3 scales of the codes.
    pub x_block_scales: Region,
    /// f32 `[tokens]`.
    pub x_scale: Region,
    /// bf16 or f16 `[tokens, k]`: SwiGLU's result, then the L2 operand; or codes.
    pub h: Region,
    /// E4M3 scales of the codes.
    pub h_block_scales: Region,
    /// f32 `[tokens, width]`: SwiGLU's result before it is quantised; empty where L1 quantises it itself.
    pub h_f32: Region,
    /// f32 `[tokens]`.
    pub h_scale: Region,
    /// u32 `[4]`: maxima of the L2 rows.
    pub maxima: Region,
    /// f16 `[tokens, k]`: rows of L1, then of L2, as the forms by wgmma take them; empty where there are none.
    pub lines: Region,
    /// f32 `[tokens, H]`: the result.
    pub y: Region,
}

impl SharedWorkspace {
    pub(super) fn new(
        shape: &LayerShape,
        options: &LayerOptions,
        tokens: usize,
        regions: &mut Regions,
    ) -> Result<Self> {
        let SharedKind::Apart { intermediate, operands } = shape.shared else { return Ok(Self::default()) };
        let (l1, l2) = packed(shape, intermediate, operands);
        let rows = tokens.next_multiple_of(operands.row_tile());
        let own = if options.activations == Activations::Nvfp4 { rows } else { 0 };
        let h_f32 = if needs_h_f32(operands, options, shape.limit) { own } else { 0 };
        Ok(Self {
            counts: regions.add("shared rows", 1, 4)?,
            offsets: regions.add("shared offsets", 2, 4)?,
            row_token: regions.add("token of shared row", rows, 4)?,
            slot_row: regions.add("shared row of token", tokens, 4)?,
            x: regions.add("shared L1 operand", own, l1.row_bytes())?,
            x_block_scales: regions.add("shared L1 block scales", own, l1.row_scale_bytes())?,
            x_scale: regions.add("shared L1 row scales", own, 4)?,
            h: regions.add("shared L2 operand", rows, l2.row_bytes())?,
            h_block_scales: regions.add("shared L2 block scales", rows, l2.row_scale_bytes())?,
            h_f32: regions.add("shared SwiGLU results", h_f32 * intermediate, 4)?,
            h_scale: regions.add("shared L2 row scales", rows, 4)?,
            maxima: regions.add("shared maxima", 4, 4)?,
            lines: regions.add(
                "shared token lines",
                if shape.wgmma { tokens } else { 0 },
                l1.row_bytes().max(l2.row_bytes()),
            )?,
            y: regions.add("shared results", tokens * shape.hidden, 4)?,
        })
    }
}

/// The shared expert of a call.
pub(super) struct SharedCall<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) at: &'a SharedRegions,
    pub(super) work: &'a SharedWorkspace,
    pub(super) intermediate: usize,
    pub(super) operands: Operands,
    /// Address of the token count, at most `max_tokens`.
    pub(super) tokens: DevicePtr,
}

impl SharedCall<'_> {
    /// Everything up to `work.y`. `ids` is any memory of one word per token.
    ///
    /// # Safety
    /// As [`Call::enqueue`].
    pub(super) unsafe fn enqueue(&self, ids: DevicePtr) -> Result<()> {
        let quantised = self.call.quantised() && self.at.quantises();
        let uses_rows = |p: Product| !matches!(p, Product::Bf16(_));
        // SAFETY: the caller's; so below.
        unsafe {
            if matches!(self.at.l1, Product::Nvfp4(_)) || uses_rows(self.at.l2) {
                self.list_tokens(ids)?;
            }
            self.l1(quantised)?;
            self.l2(quantised)
        }
    }

    /// Whether it takes the tokens as the routed experts' products do, not as they are.
    pub(super) fn takes_rows(&self) -> bool {
        !matches!(self.at.l1, Product::Bf16(_))
    }

    pub(super) fn region(&self, region: Region) -> DevicePtr {
        self.call.region(region)
    }

    pub(super) fn weights(&self, region: Region) -> DevicePtr {
        region.at(self.call.plan.base())
    }

    fn max_tokens(&self) -> usize {
        self.call.io.max_tokens
    }

    /// One expert that takes every token.
    unsafe fn list_tokens(&self, ids: DevicePtr) -> Result<()> {
        let args = Args::new(&sort_slots::LAUNCH)
            .input("topk_ids", ids)
            .input("b_scale", DevicePtr::NULL)
            .input("tokens", self.tokens)
            .output("counts", self.region(self.work.counts))
            .output("offsets", self.region(self.work.offsets))
            .output("row_token", self.region(self.work.row_token))
            .output("slot_row", self.region(self.work.slot_row))
            .output("stats", self.call.unread_stats())
            .u32("max_tokens", self.max_tokens() as u32)
            .u32("top_k", 1)
            .u32("experts", 1)
            .u32("first_local", 0)
            .u32("local", 0)
            .u32("shared", 1)
            .u32("tile", self.operands.row_tile() as u32);
        // SAFETY: the caller's.
        unsafe { self.call.launch(grids::one(&sort_slots::LAUNCH), args) }
    }

    /// The L1 operand: the routed experts', or its own.
    unsafe fn operand(&self, quantised: bool) -> Result<Operand> {
        let (call, shape) = (self.call, self.call.plan.shape());
        let options = call.plan.options();
        let own = Operand {
            rows: self.region(self.work.x),
            block_scales: self.region(self.work.x_block_scales),
            scale: self.region(self.work.x_scale),
            index: DevicePtr::NULL,
            lines: self.region(self.work.lines),
        };
        let routed = Operand {
            rows: self.region(call.layout.x),
            block_scales: DevicePtr::NULL,
            scale: self.region(call.layout.x_scale),
            index: DevicePtr::NULL,
            lines: self.region(self.work.lines),
        };
        // The routed experts' rows are of tokens, unless their scale is the expert's or they lie in blocks; quantised rows
        // are only for quantised products.
        let blocks = self.operands == Operands::Blocks;
        let of_experts = blocks || (quantised && options.act_scale == ActScale::Static);
        if call.quantised() == quantised && !of_experts {
            return Ok(routed);
        }
        let source = rows::Source {
            x: call.io.hidden_states,
            rows: self.tokens,
            max_rows: self.max_tokens(),
            k: shape.hidden,
            packed: packed(shape, self.intermediate, self.operands).0,
            stride: shape.hidden,
        };
        let to = rows::Target { b: own.rows, block_scales: own.block_scales, scale: own.scale };
        // SAFETY: the caller's.
        unsafe {
            if blocks {
                self.blocks(source, to)?;
            } else if quantised {
                let scales = Scales::Constant(self.weights(self.at.scales));
                rows::nvfp4_bf16(call.queue, source, to, DevicePtr::NULL, scales, call.saturated(0))?;
            } else {
                rows::bf16(call.queue, source, to, DevicePtr::NULL)?;
            }
        }
        Ok(own)
    }

    unsafe fn l1(&self, quantised: bool) -> Result<()> {
        let (call, shape) = (self.call, self.call.plan.shape());
        let (l1, l2) = packed(shape, self.intermediate, self.operands);
        let h = self.region(self.work.h);
        let tiles = (self.intermediate.div_ceil(64) * self.max_tokens().div_ceil(64)) as u32;
        let grid = tiles.min(2 * call.queue.multiprocessors());
        let sizes = |args: Args| {
            args.input("tokens", self.tokens)
                .u32("max_tokens", self.max_tokens() as u32)
                .u32("features", self.intermediate as u32)
                .u32("k", shape.hidden as u32)
        };
        // SAFETY: the caller's.
        unsafe {
            match self.at.l1 {
                Product::Bf16([gate, up]) => {
                    let launch = &dense_bf16_swiglu::LAUNCH;
                    let args = Args::new(launch)
                        .input("weight", self.weights(gate))
                        .input("weight_up", self.weights(up))
                        .input("x", call.io.hidden_states)
                        .output("h", h);
                    let args = sizes(args)
                        .u32("x_stride", shape.hidden as u32)
                        .u32("out_stride", l2.k() as u32)
                        .f32("limit", shape.limit);
                    call.launch(grids::blocks(launch, grid), args)
                }
                Product::Fp8([gate, up]) => {
                    let operand = self.operand(false)?;
                    let launch = &dense_fp8_swiglu::LAUNCH;
                    let args = Args::new(launch)
                        .input("weight", self.weights(gate[0]))
                        .input("scales", self.weights(gate[1]))
                        .input("weight_up", self.weights(up[0]))
                        .input("scales_up", self.weights(up[1]))
                        .input("b", operand.rows)
                        .input("b_scale", operand.scale)
                        .output("h", h);
                    let args = sizes(args)
                        .u32("x_stride", l1.k() as u32)
                        .u32("out_stride", l2.k() as u32)
                        .f32("limit", shape.limit);
                    call.launch(grids::blocks(launch, grid), args)
                }
                Product::Nvfp4(weights) => {
                    let operand = self.operand(quantised)?;
                    let (to, stride, epilogue) = if !quantised {
                        (self.work.h, l2.k(), Epilogue::SwigluBf16)
                    } else if call.quantises_h(self.operands) {
                        let to = Quantised {
                            block_scales: self.region(self.work.h_block_scales),
                            scale: self.region(self.work.h_scale),
                            constant: self.weights(self.at.scales).byte_add(4),
                            saturated: call.saturated(1),
                            steps: l2.k_units,
                        };
                        (self.work.h, 0, Epilogue::SwigluNvfp4(to))
                    } else {
                        (self.work.h_f32, self.intermediate, Epilogue::SwigluF32)
                    };
                    let output = Output {
                        to: self.region(to),
                        stride,
                        features: self.intermediate,
                        first_tile: 0,
                        tiles: l1.row_tiles,
                    };
                    self.gemm(weights, l1, operand, output, quantised).enqueue(call.queue, epilogue)
                }
            }
        }
    }

    unsafe fn l2(&self, quantised: bool) -> Result<()> {
        let (call, shape) = (self.call, self.call.plan.shape());
        let (_, l2) = packed(shape, self.intermediate, self.operands);
        let (h, scale, y) =
            (self.region(self.work.h), self.region(self.work.h_scale), self.region(self.work.y));
        let tiles = (shape.hidden.div_ceil(64) * self.max_tokens().div_ceil(64)) as u32;
        let grid = tiles.min(2 * call.queue.multiprocessors());
        let sizes = |args: Args| {
            args.output("y", y)
                .input("tokens", self.tokens)
                .u32("max_tokens", self.max_tokens() as u32)
                .u32("features", shape.hidden as u32)
                .u32("k", self.intermediate as u32)
                .u32("x_stride", l2.k() as u32)
                .u32("out_stride", shape.hidden as u32)
        };
        // SAFETY: the caller's.
        unsafe {
            match self.at.l2 {
                Product::Bf16([down, _]) => {
                    let launch = &dense_bf16_linear::LAUNCH;
                    let args = Args::new(launch).input("weight", self.weights(down)).input("x", h);
                    call.launch(grids::blocks(launch, grid), sizes(args))
                }
                Product::Fp8([down, _]) => {
                    self.prepare_h(false)?;
                    let launch = &dense_fp8_linear::LAUNCH;
                    let args = Args::new(launch)
                        .input("weight", self.weights(down[0]))
                        .input("scales", self.weights(down[1]))
                        .input("b", h)
                        .input("b_scale", scale);
                    call.launch(grids::blocks(launch, grid), sizes(args))
                }
                Product::Nvfp4(weights) => {
                    self.prepare_h(quantised)?;
                    let output = Output {
                        to: y,
                        stride: shape.hidden,
                        features: shape.hidden,
                        first_tile: 0,
                        tiles: l2.row_tiles,
                    };
                    let block_scales = self.region(self.work.h_block_scales);
                    let lines = self.region(self.work.lines);
                    let operand = Operand { rows: h, block_scales, scale, index: DevicePtr::NULL, lines };
                    self.gemm(weights, l2, operand, output, quantised).enqueue(call.queue, Epilogue::Plain)
                }
            }
        }
    }

    /// The L2 operand from SwiGLU's result.
    unsafe fn prepare_h(&self, quantised: bool) -> Result<()> {
        let call = self.call;
        let (_, l2) = packed(call.plan.shape(), self.intermediate, self.operands);
        let source = rows::Source {
            x: DevicePtr::NULL,
            rows: self.tokens,
            max_rows: self.max_tokens(),
            k: self.intermediate,
            packed: l2,
            stride: l2.k(),
        };
        let to = rows::Target {
            b: self.region(self.work.h),
            block_scales: self.region(self.work.h_block_scales),
            scale: self.region(self.work.h_scale),
        };
        if quantised && call.quantises_h(self.operands) {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe {
            if !quantised {
                return rows::bf16(call.queue, source, to, DevicePtr::NULL);
            }
            let source =
                rows::Source { x: self.region(self.work.h_f32), stride: self.intermediate, ..source };
            let constant = Scales::Constant(self.weights(self.at.scales).byte_add(4));
            let scales = match call.plan.options().act_scale_l2 {
                ActScaleL2::TensorDynamic => {
                    let maxima = self.region(self.work.maxima);
                    self.measure(source, maxima)?;
                    Scales::Tensor(maxima)
                }
                ActScaleL2::RowDynamic => Scales::Row,
                ActScaleL2::Bound if !call.plan.shape().limit.is_finite() => Scales::Row,
                ActScaleL2::Bound | ActScaleL2::Static | ActScaleL2::Warmup => constant,
            };
            match self.operands {
                Operands::Fragments => {
                    rows::nvfp4_f32(call.queue, source, to, DevicePtr::NULL, scales, call.saturated(1))
                }
                Operands::Blocks => {
                    // The count of the list is no larger than the buffers, whatever the device says.
                    let rows = self.region(self.work.counts);
                    let max_rows = self.max_tokens().next_multiple_of(self.operands.row_tile());
                    let source = rows::Source { rows, max_rows, ..source };
                    rows::blocks_f32(call.queue, source, to, DevicePtr::NULL, scales, call.saturated(1))
                }
            }
        }
    }

    unsafe fn measure(&self, source: rows::Source, maxima: DevicePtr) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            self.call.queue.fill_u32(maxima, 0, 2)?;
            rows::amax_f32(self.call.queue, source, DevicePtr::NULL, DevicePtr::NULL, maxima)
        }
    }

    /// The maximum of its SwiGLU results, as bits, at `work.maxima`, in a call that has run L1 quantised.
    ///
    /// # Safety
    /// As [`enqueue`](Self::enqueue).
    pub(super) unsafe fn measure_h(&self, ids: DevicePtr) -> Result<()> {
        if !(self.call.quantised() && self.at.quantises()) {
            return Ok(());
        }
        let (_, l2) = packed(self.call.plan.shape(), self.intermediate, self.operands);
        let source = rows::Source {
            x: self.region(self.work.h_f32),
            rows: self.tokens,
            max_rows: self.max_tokens(),
            k: self.intermediate,
            packed: l2,
            stride: self.intermediate,
        };
        // SAFETY: the caller's.
        unsafe {
            self.list_tokens(ids)?;
            self.l1(true)?;
            self.measure(source, self.region(self.work.maxima))
        }
    }

    fn gemm(
        &self,
        weights: MatrixRegions,
        packed: Packed,
        operand: Operand,
        output: Output,
        fold: bool,
    ) -> Gemm {
        Gemm {
            weights: self.weights(weights.packed),
            alpha: self.weights(weights.alpha),
            alpha_up: self.weights(weights.alpha_up),
            packed,
            operand,
            offsets: self.region(self.work.offsets),
            counts: self.region(self.work.counts),
            groups: 1,
            output,
            fold_alpha: fold,
            limit: self.call.plan.shape().limit,
            // A form of the routed experts' products is none of others'.
            form: self
                .call
                .io
                .form
                .filter(|&form| form != Form::Decode && self.operands == self.call.plan.shape().operands),
            mean_rows: self.max_tokens(),
            rows: self.max_tokens(),
        }
    }
}
