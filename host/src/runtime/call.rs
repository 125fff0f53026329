//! One forward call, launch by launch.

use kernels::launch::Dims;
use kernels::{combine, count_slots, place_slots, route_tokens, router_logits, slots, sort_slots};
use nvfp4::routing::Scoring;

use super::gemm::{Epilogue, Gemm, Operand, Output, Quantised};
use super::image::{MatrixRegions, NUMBERS};
use super::plan::{LayerIo, LayerPlan, RoutingIo, Tokens};
use super::rows::{self, Scales};
use super::shape::{Operands, Packed, SharedKind};
use super::shared::SharedCall;
use super::workspace::{STATS, WorkspaceLayout, quantises_h};
use super::{Args, DevicePtr, Queue, Region, grids};
use crate::options::{ActScale, ActScaleL2, Activations, Part};
use crate::{Error, Result};

/// Slots up to which one block sorts; above, two launches of many.
const SORT_SLOTS: usize = 4096;

/// Word of the first counter of saturated blocks.
const STAT_SATURATED: u64 = 4;

/// A call being enqueued.
pub(super) struct Call<'a> {
    pub(super) plan: &'a LayerPlan,
    pub(super) queue: &'a dyn Queue,
    pub(super) io: &'a LayerIo,
    pub(super) layout: &'a WorkspaceLayout,
    pub(super) at: DevicePtr,
    /// Whether SwiGLU's results are wanted in f32, whatever their policy.
    pub(super) measuring: bool,
}

impl Call<'_> {
    /// # Safety
    /// As [`LayerPlan::enqueue`](super::plan::LayerPlan::enqueue), for this and all methods below: every region is as
    /// large as the kernels' tables ask.
    pub(super) unsafe fn enqueue(&self) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            if let Some(kernel) = self.mega_kernel()? {
                self.clear_counters()?;
                let tokens = self.tokens()?;
                let (ids, weights) = self.route(tokens)?;
                self.prepare_tokens(tokens, ids)?;
                return self.mega(kernel, weights, tokens);
            }
            let tokens = self.tokens()?;
            if self.takes_decode()? {
                let (ids, weights) = self.route(tokens)?;
                let mut shared = DevicePtr::NULL;
                if let Some(apart) = self.shared(tokens) {
                    if apart.takes_rows() {
                        rows::bf16(self.queue, self.token_rows(tokens), self.x(), DevicePtr::NULL)?;
                    }
                    apart.enqueue(ids)?;
                    shared = self.region(self.layout.shared.y);
                }
                return self.decode(ids, weights, shared, tokens);
            }
            let (ids, weights) = self.swiglu(tokens)?;
            if let Some(shared) = self.shared(tokens) {
                shared.enqueue(ids)?;
            }
            self.prepare_h()?;
            self.results(weights, tokens)
        }
    }

    /// Everything up to SwiGLU's results. Returns expert ids and routing weights.
    pub(super) unsafe fn swiglu(&self, tokens: DevicePtr) -> Result<(DevicePtr, DevicePtr)> {
        // SAFETY: the caller's.
        unsafe {
            let (ids, weights) = self.route(tokens)?;
            self.prepare_tokens(tokens, ids)?;
            self.l1()?;
            Ok((ids, weights))
        }
    }

    pub(super) fn region(&self, region: Region) -> DevicePtr {
        region.at(self.at)
    }

    pub(super) fn quantised(&self) -> bool {
        self.plan.options().activations == Activations::Nvfp4
    }

    /// Whether products with these operands quantise SwiGLU's results themselves.
    pub(super) fn quantises_h(&self, operands: Operands) -> bool {
        !self.measuring && quantises_h(operands, self.plan.options(), self.plan.shape().limit)
    }

    /// Whether routed experts, and whether a folded shared expert, are computed.
    pub(super) fn parts(&self) -> (bool, bool) {
        let folded = self.plan.shape().shared == SharedKind::Folded;
        (self.io.part != Part::Shared, folded && self.io.part != Part::Routed)
    }

    /// Counters that nobody reads.
    pub(super) fn unread_stats(&self) -> DevicePtr {
        self.region(self.layout.stats).byte_add(4 * STATS as u64 / 2)
    }

    /// The shared expert, if it is computed and apart.
    fn shared(&self, tokens: DevicePtr) -> Option<SharedCall<'_>> {
        let (SharedKind::Apart { intermediate, operands }, Some(at)) =
            (self.plan.shape().shared, &self.plan.image().shared)
        else {
            return None;
        };
        let wanted = self.io.part != Part::Routed;
        let work = &self.layout.shared;
        wanted.then_some(SharedCall { call: self, at, work, intermediate, operands, tokens })
    }

    /// First group and number of groups that are computed: local experts, then a folded shared one.
    pub(super) fn groups(&self) -> (usize, usize) {
        let local = self.plan.shape().local.len();
        match self.parts() {
            (true, shared) => (0, local + usize::from(shared)),
            (false, shared) => (local, usize::from(shared)),
        }
    }

    /// Address of the number of expert rows: the last offset.
    pub(super) fn rows(&self) -> DevicePtr {
        self.region(self.layout.offsets).byte_add(4 * self.groups().1 as u64)
    }

    /// Address of the token count.
    pub(super) unsafe fn tokens(&self) -> Result<DevicePtr> {
        match self.io.tokens {
            Tokens::Device(at) => Ok(at),
            // A constant of the image: no node in front of the first kernel.
            Tokens::Host(tokens) if tokens as usize <= self.io.max_tokens && (tokens as usize) < NUMBERS => {
                Ok(self.plan.image().numbers.at(self.plan.base()).byte_add(4 * u64::from(tokens)))
            }
            Tokens::Host(tokens) if tokens as usize <= self.io.max_tokens => {
                let at = self.region(self.layout.tokens);
                // SAFETY: one word of the workspace.
                unsafe { self.queue.fill_u32(at, tokens, 1)? };
                Ok(at)
            }
            Tokens::Host(tokens) => {
                Err(Error::mismatch("tokens", format!("at most {}", self.io.max_tokens), tokens))
            }
        }
    }

    pub(super) unsafe fn launch(&self, dims: Dims, args: Args) -> Result<()> {
        // SAFETY: the caller's. Every kernel of a layer waits for the one in front of it by itself.
        unsafe { self.queue.launch(dims, args, true) }
    }

    /// Ids and weights of the slots.
    unsafe fn route(&self, tokens: DevicePtr) -> Result<(DevicePtr, DevicePtr)> {
        let input_ids = match self.io.routing {
            _ if self.io.part == Part::Shared => {
                // No slot has an expert; none is counted either (see `sort`).
                let ids = self.region(self.layout.topk_ids);
                let slots = self.plan.shape().slots(self.io.max_tokens);
                // SAFETY: the region has a word per slot.
                unsafe { self.queue.fill_u32(ids, u32::MAX, slots)? };
                return Ok((ids, DevicePtr::NULL));
            }
            RoutingIo::Given { topk_ids, topk_weights } => return Ok((topk_ids, topk_weights)),
            RoutingIo::Model { input_ids } => input_ids,
        };
        let (shape, config, image) = (self.plan.shape(), self.plan.config(), self.plan.image());
        if !shape.router {
            return Err(Error::invalid("routing", "the layer has no router: give topk_ids and topk_weights"));
        }
        let table = image.tid2eid.at(self.plan.base());
        if table != DevicePtr::NULL && input_ids == DevicePtr::NULL {
            return Err(Error::invalid("input_ids", "a hash layer routes by token id and needs them"));
        }
        let (max_tokens, experts) = (self.io.max_tokens as u32, shape.experts as u32);
        let logits = self.region(self.layout.logits);
        let (ids, weights) = (self.region(self.layout.topk_ids), self.region(self.layout.topk_weights));
        // SAFETY: as `enqueue` says.
        unsafe {
            self.launch(
                grids::resident(&router_logits::LAUNCH, self.queue.multiprocessors()),
                Args::new(&router_logits::LAUNCH)
                    .input("x", self.io.hidden_states)
                    .input("weight", image.router.at(self.plan.base()))
                    .output("logits", logits)
                    .input("tokens", tokens)
                    .u32("max_tokens", max_tokens)
                    .u32("experts", experts)
                    .u32("hidden", shape.hidden as u32)
                    .u32("x_stride", shape.hidden as u32),
            )?;
            self.launch(
                grids::blocks(&route_tokens::LAUNCH, max_tokens.min(16 * self.queue.multiprocessors())),
                Args::new(&route_tokens::LAUNCH)
                    .input("logits", logits)
                    .input("bias", image.bias.at(self.plan.base()))
                    .input("table", table)
                    .input("input_ids", input_ids)
                    .output("topk_ids", ids)
                    .output("topk_weights", weights)
                    .output("stats", self.region(self.layout.stats))
                    .input("tokens", tokens)
                    .u32("max_tokens", max_tokens)
                    .u32("experts", experts)
                    .u32("top_k", shape.top_k as u32)
                    .u32("vocab", config.vocab_size as u32)
                    .u32("scoring", scoring(config.scoring))
                    .u32("normalise", u32::from(config.norm_topk_prob))
                    .f32("scaling", config.routed_scaling_factor),
            )?;
        }
        Ok((ids, weights))
    }

    /// Slots by expert.
    pub(super) unsafe fn sort(&self, ids: DevicePtr, tokens: DevicePtr) -> Result<()> {
        let shape = self.plan.shape();
        let (routed, folded) = self.parts();
        let token_scale = self.token_scale();
        let local = if routed { shape.local.len() as u32 } else { 0 };
        let (counts, offsets) = (self.region(self.layout.counts), self.region(self.layout.offsets));
        let (row_token, slot_row) = (self.region(self.layout.row_token), self.region(self.layout.slot_row));
        // The counters of slots that are not asked for go into the second half.
        let stats = if routed { self.region(self.layout.stats) } else { self.unread_stats() };
        let max_tokens = self.io.max_tokens as u32;
        let tile = shape.operands.row_tile() as u32;
        let sizes = |args: Args| {
            args.u32("max_tokens", max_tokens)
                .u32("top_k", shape.top_k as u32)
                .u32("experts", shape.experts as u32)
                .u32("first_local", shape.local.start as u32)
                .u32("local", local)
        };
        // SAFETY: as `enqueue` says.
        unsafe {
            if shape.slots(self.io.max_tokens) <= SORT_SLOTS {
                let args = Args::new(&sort_slots::LAUNCH)
                    .input("topk_ids", ids)
                    .input("b_scale", token_scale)
                    .input("tokens", tokens)
                    .output("counts", counts)
                    .output("offsets", offsets)
                    .output("row_token", row_token)
                    .output("slot_row", slot_row)
                    .output("stats", stats);
                let args = sizes(args).u32("shared", u32::from(folded)).u32("tile", tile);
                return self.launch(grids::one(&sort_slots::LAUNCH), args);
            }
            let chunk_counts = self.region(self.layout.chunk_counts);
            let args = Args::new(&count_slots::LAUNCH)
                .input("topk_ids", ids)
                .input("b_scale", token_scale)
                .input("tokens", tokens)
                .output("chunk_counts", chunk_counts)
                .output("stats", stats);
            self.launch(grids::blocks(&count_slots::LAUNCH, slots::CHUNKS), sizes(args))?;
            let args = Args::new(&place_slots::LAUNCH)
                .input("topk_ids", ids)
                .input("b_scale", token_scale)
                .input("tokens", tokens)
                .input("chunk_counts", chunk_counts)
                .output("counts", counts)
                .output("offsets", offsets)
                .output("row_token", row_token)
                .output("slot_row", slot_row);
            let args = sizes(args).u32("shared", u32::from(folded)).u32("tile", tile);
            self.launch(grids::blocks(&place_slots::LAUNCH, slots::CHUNKS), args)
        }
    }

    /// Scales of tokens, NaN where a token is not finite.
    fn token_scale(&self) -> DevicePtr {
        match self.layout.token_scale.bytes {
            0 => self.region(self.layout.x_scale),
            _ => self.region(self.layout.token_scale),
        }
    }

    /// The rows of the call.
    pub(super) fn token_rows(&self, tokens: DevicePtr) -> rows::Source {
        let shape = self.plan.shape();
        rows::Source {
            x: self.io.hidden_states,
            rows: tokens,
            max_rows: self.io.max_tokens,
            k: shape.hidden,
            packed: shape.l1(),
            stride: shape.hidden,
        }
    }

    /// Where the L1 operand lies.
    pub(super) fn x(&self) -> rows::Target {
        rows::Target {
            b: self.region(self.layout.x),
            block_scales: self.region(self.layout.x_block_scales),
            scale: self.region(self.layout.x_scale),
        }
    }

    /// Where the L2 operand lies.
    pub(super) fn h(&self) -> rows::Target {
        rows::Target {
            b: self.region(self.layout.h),
            block_scales: self.region(self.layout.h_block_scales),
            scale: self.region(self.layout.h_scale),
        }
    }

    /// The L1 operand, and the slots by expert.
    unsafe fn prepare_tokens(&self, tokens: DevicePtr, ids: DevicePtr) -> Result<()> {
        if self.plan.shape().operands == Operands::Blocks {
            // SAFETY: the caller's.
            return unsafe { self.prepare_blocks(tokens, ids) };
        }
        let (source, to) = (self.token_rows(tokens), self.x());
        // SAFETY: as `enqueue` says.
        unsafe {
            if !self.quantised() {
                rows::bf16(self.queue, source, to, DevicePtr::NULL)?;
                return self.sort(ids, tokens);
            }
            let constant = self.plan.image().l1_scale.at(self.plan.base());
            let scales = match self.plan.options().act_scale {
                ActScale::RowDynamic => Scales::Row,
                ActScale::Warmup => Scales::Constant(constant),
                ActScale::TensorDynamic => {
                    let maxima = self.region(self.layout.tensor_scales);
                    self.queue.fill_u32(maxima, 0, 2)?;
                    rows::amax_bf16(self.queue, source, DevicePtr::NULL, maxima)?;
                    Scales::Tensor(maxima)
                }
                ActScale::Static => {
                    let token_scale = self.region(self.layout.token_scale);
                    rows::amax_bf16(self.queue, source, token_scale, DevicePtr::NULL)?;
                    self.sort(ids, tokens)?;
                    let (first, experts) = self.groups();
                    let scales = Scales::PerExpert {
                        scale: constant.byte_add(4 * first as u64),
                        offsets: self.region(self.layout.offsets),
                        experts,
                    };
                    let max_rows = self.plan.shape().rows(self.io.max_tokens);
                    let source = rows::Source { rows: self.rows(), max_rows, ..source };
                    let index = self.region(self.layout.row_token);
                    return rows::nvfp4_bf16(self.queue, source, to, index, scales, self.saturated(0));
                }
            };
            rows::nvfp4_bf16(self.queue, source, to, DevicePtr::NULL, scales, self.saturated(0))?;
            self.sort(ids, tokens)
        }
    }

    /// Counter of saturated blocks of L1 (0) or L2 (1).
    pub(super) fn saturated(&self, which: u64) -> DevicePtr {
        self.region(self.layout.stats).byte_add(4 * (STAT_SATURATED + which))
    }

    /// L1 and SwiGLU.
    unsafe fn l1(&self) -> Result<()> {
        let (plan, shape) = (self.plan, self.plan.shape());
        let per_row = self.layout.token_scale.bytes != 0;
        let x = self.x();
        let operand = Operand {
            rows: x.b,
            block_scales: x.block_scales,
            scale: x.scale,
            index: if per_row { DevicePtr::NULL } else { self.region(self.layout.row_token) },
            lines: self.region(self.layout.lines),
        };
        let (to, stride, epilogue) = if !self.quantised() {
            (self.layout.h, shape.l2().k(), Epilogue::SwigluBf16)
        } else if self.quantises_h(shape.operands) {
            let (first, _) = self.groups();
            let to = Quantised {
                block_scales: self.region(self.layout.h_block_scales),
                scale: self.region(self.layout.h_scale),
                constant: plan.image().l2_scale.at(plan.base()).byte_add(4 * first as u64),
                saturated: self.saturated(1),
                steps: shape.l2().k_units,
            };
            (self.layout.h, 0, Epilogue::SwigluNvfp4(to))
        } else {
            (self.layout.h_f32, shape.intermediate, Epilogue::SwigluF32)
        };
        let output = Output {
            to: self.region(to),
            stride,
            features: shape.intermediate,
            first_tile: 0,
            tiles: shape.l1().row_tiles,
        };
        // SAFETY: as `enqueue` says.
        unsafe { self.gemm(epilogue, plan.image().l1, shape.l1(), operand, output) }
    }

    /// The L2 operand.
    unsafe fn prepare_h(&self) -> Result<()> {
        let shape = self.plan.shape();
        let source = rows::Source {
            x: DevicePtr::NULL,
            rows: self.rows(),
            max_rows: shape.rows(self.io.max_tokens),
            k: shape.intermediate,
            packed: shape.l2(),
            stride: shape.l2().k(),
        };
        let to = self.h();
        let index = self.region(self.layout.row_token);
        if self.groups().1 == 0 || self.quantises_h(shape.operands) {
            return Ok(());
        }
        // SAFETY: as `enqueue` says.
        unsafe {
            if !self.quantised() {
                return rows::bf16(self.queue, source, to, index);
            }
            let source =
                rows::Source { x: self.region(self.layout.h_f32), stride: shape.intermediate, ..source };
            let (first, experts) = self.groups();
            let scales = match self.plan.options().act_scale_l2 {
                ActScaleL2::TensorDynamic => {
                    let maxima = self.region(self.layout.tensor_scales).byte_add(8);
                    self.queue.fill_u32(maxima, 0, 2)?;
                    self.h_maxima(source, maxima)?;
                    match self.parts() {
                        (true, true) => {
                            Scales::TensorApart { maxima, offsets: self.region(self.layout.offsets), experts }
                        }
                        (true, false) => Scales::Tensor(maxima),
                        (false, _) => Scales::Tensor(maxima.byte_add(4)),
                    }
                }
                _ if self.plan.image().l2_scale.bytes == 0 => Scales::Row,
                _ => Scales::PerExpert {
                    scale: self.plan.image().l2_scale.at(self.plan.base()).byte_add(4 * first as u64),
                    offsets: self.region(self.layout.offsets),
                    experts,
                },
            };
            match shape.operands {
                Operands::Fragments => {
                    rows::nvfp4_f32(self.queue, source, to, index, scales, self.saturated(1))
                }
                Operands::Blocks => {
                    rows::blocks_f32(self.queue, source, to, index, scales, self.saturated(1))
                }
            }
        }
    }

    /// Maxima of SwiGLU's results: of the routed rows, and of the shared expert's.
    unsafe fn h_maxima(&self, source: rows::Source, maxima: DevicePtr) -> Result<()> {
        let index = self.region(self.layout.row_token);
        // The shared expert's rows come last: they begin at the last but one offset.
        let split = match self.parts() {
            (_, true) => self.rows().0 - 4,
            (_, false) => 0,
        };
        // SAFETY: the caller's.
        unsafe { rows::amax_f32(self.queue, source, index, DevicePtr(split), maxima) }
    }

    /// L1's results measured: maxima of the rows of the call, of SwiGLU's routed results and of the shared expert's,
    /// as bits, in the first three words of the tensor scales.
    pub(super) unsafe fn measure_h(&self, ids: DevicePtr, tokens: DevicePtr) -> Result<()> {
        let shape = self.plan.shape();
        let source = rows::Source {
            x: self.region(self.layout.h_f32),
            rows: self.rows(),
            max_rows: shape.rows(self.io.max_tokens),
            k: shape.intermediate,
            packed: shape.l2(),
            stride: shape.intermediate,
        };
        let maxima = self.region(self.layout.tensor_scales).byte_add(8);
        // SAFETY: the caller's.
        unsafe {
            self.queue.fill_u32(maxima, 0, 2)?;
            self.h_maxima(source, maxima)?;
            match self.shared(tokens) {
                Some(shared) => shared.measure_h(ids),
                None => Ok(()),
            }
        }
    }

    /// The maximum of the rows of the call, as bits, in the first word of the tensor scales.
    pub(super) unsafe fn measure_x(&self, tokens: DevicePtr) -> Result<()> {
        let source = self.token_rows(tokens);
        let maxima = self.region(self.layout.tensor_scales);
        // SAFETY: the caller's.
        unsafe {
            self.queue.fill_u32(maxima, 0, 2)?;
            rows::amax_bf16(self.queue, source, DevicePtr::NULL, maxima)
        }
    }

    /// L2 and the combination, chunk of columns by chunk.
    unsafe fn results(&self, weights: DevicePtr, tokens: DevicePtr) -> Result<()> {
        let (plan, shape) = (self.plan, self.plan.shape());
        let (routed, folded) = self.parts();
        let y = self.region(self.layout.y);
        let h = self.h();
        let operand = Operand {
            rows: h.b,
            block_scales: h.block_scales,
            scale: h.scale,
            index: DevicePtr::NULL,
            lines: self.region(self.layout.lines),
        };
        let tile_rows = shape.operands.tile_rows();
        let at =
            |to: DevicePtr, bytes: usize| if to == DevicePtr::NULL { to } else { to.byte_add(bytes as u64) };
        let mut column = 0;
        while column < shape.hidden {
            let columns = self.layout.chunk_columns.min(shape.hidden - column);
            let output = Output {
                to: y,
                stride: self.layout.chunk_columns,
                features: shape.hidden,
                first_tile: column / tile_rows,
                tiles: columns.div_ceil(tile_rows),
            };
            // SAFETY: as `enqueue` says.
            unsafe {
                self.gemm(Epilogue::Plain, plan.image().l2, shape.l2(), operand, output)?;
                // The shared expert's rows begin at the last but one offset.
                let shared_row = if folded { DevicePtr(self.rows().0 - 4) } else { DevicePtr::NULL };
                let shared = match self.shared(tokens) {
                    Some(_) => self.region(self.layout.shared.y).byte_add(4 * column as u64),
                    None => DevicePtr::NULL,
                };
                let elements = (self.io.max_tokens * columns).div_ceil(1024) as u32;
                self.launch(
                    grids::blocks(&combine::LAUNCH, elements.min(3 * self.queue.multiprocessors())),
                    Args::new(&combine::LAUNCH)
                        .input("y", y)
                        .input("slot_row", self.region(self.layout.slot_row))
                        .input("topk_weights", weights)
                        .input("shared_row", shared_row)
                        .input("shared", shared)
                        .input("b_scale", self.token_scale())
                        .output("out", at(self.io.output, 2 * column))
                        .output("out_f32", at(self.io.output_f32, 4 * column))
                        .input("tokens", tokens)
                        .u32("max_tokens", self.io.max_tokens as u32)
                        .u32("top_k", if routed { shape.top_k as u32 } else { 0 })
                        .u32("columns", columns as u32)
                        .u32("y_stride", self.layout.chunk_columns as u32)
                        .u32("shared_stride", shape.hidden as u32)
                        .u32("out_stride", shape.hidden as u32),
                )?;
            }
            column += columns;
        }
        Ok(())
    }

    /// One grouped GEMM over the groups of the call.
    unsafe fn gemm(
        &self,
        epilogue: Epilogue,
        weights: MatrixRegions,
        packed: Packed,
        operand: Operand,
        output: Output,
    ) -> Result<()> {
        let (first, groups) = self.groups();
        let base = self.plan.base();
        let rows = self.plan.shape().expert_rows(self.io.max_tokens);
        let of_group = |region: Region| region.at(base).byte_add(4 * first as u64);
        let gemm = Gemm {
            weights: weights.packed.at(base).byte_add((first * packed.bytes()) as u64),
            alpha: of_group(weights.alpha),
            alpha_up: of_group(weights.alpha_up),
            packed,
            operand,
            offsets: self.region(self.layout.offsets),
            counts: self.region(self.layout.counts),
            groups,
            output,
            fold_alpha: self.quantised(),
            limit: self.plan.shape().limit,
            form: self.io.form,
            mean_rows: rows.div_ceil(groups.max(1)),
            rows,
        };
        // SAFETY: the caller's.
        unsafe { gemm.enqueue(self.queue, epilogue) }
    }
}

fn scoring(scoring: Scoring) -> u32 {
    match scoring {
        Scoring::SqrtSoftplus => 0,
        Scoring::Sigmoid => 1,
        Scoring::Softmax => 2,
    }
}
