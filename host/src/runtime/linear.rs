//! Linear maps with NVFP4 weights alone: `[tokens, in]` to `[tokens, out]`, and the grouped one, `[tokens, groups, in]`
//! to `[tokens, groups, out]`, where every token goes through every group.
//!
//! ```text
//! (tokens, if the device counts) -> (maximum, TensorDynamic) -> per group: prepare -> ( GEMM -> combine ) per column chunk
//! ```
//!
//! The layer's kernels with one expert that takes every token: results are those of [`cpu::Nvfp4Linear`] under the bar,
//! the same bits in every form, and NaN in a row with NaN or infinity. As with a layer, which kernels run depends on the
//! shapes and the largest number of tokens only.
//!
//! [`cpu::Nvfp4Linear`]: crate::cpu::Nvfp4Linear

use kernels::launch::Arch;
use kernels::{combine, sort_slots};

use super::gemm::{Epilogue, Gemm, Operand, Output};
use super::image::{MatrixRegions, NUMBERS, pack, put};
use super::plan::{Form, Tokens};
use super::rows::{self, Scales};
use super::shape::{MAX_WIDTH, Operands, Packed};
use super::workspace::{STATE, STATS, chunk_columns};
use super::{Args, Device, DevicePtr, Queue, Region, Regions, grids};
use crate::cpu::{LinearMode, RowScale};
use crate::weights::Nvfp4Matrix;
use crate::{Error, Result};

/// Word of the counter of saturated blocks: the layers' first.
const STAT_SATURATED: u64 = 4;

/// Sizes of a linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Weights; 1 for a plain map.
    pub groups: usize,
    /// In features of a group.
    pub cols: usize,
    /// Out features of a group.
    pub rows: usize,
    /// How the weights lie on the device.
    pub operands: Operands,
}

impl LinearShape {
    fn new(groups: &[Nvfp4Matrix], operands: Operands) -> Result<Self> {
        // The checks of the CPU's map: sizes of buffers, one shape for all.
        crate::cpu::Nvfp4GroupedLinear::new(groups)?;
        let shape = Self { groups: groups.len(), cols: groups[0].cols, rows: groups[0].rows, operands };
        if shape.rows == 0 || !shape.rows.is_multiple_of(16) {
            let why = "the kernels write positive multiples of 16 features";
            return Err(Error::unsupported(format!("{} out features", shape.rows), why));
        }
        if shape.cols > MAX_WIDTH {
            let why = format!("the kernels go up to {MAX_WIDTH}");
            return Err(Error::unsupported(format!("{} in features", shape.cols), why));
        }
        Ok(shape)
    }

    /// One weight.
    fn packed(&self) -> Packed {
        self.operands.plain(self.rows, self.cols)
    }
}

/// Where the weights lie in their allocation.
#[derive(Clone, Debug)]
struct Image {
    regions: Regions,
    weights: MatrixRegions,
    /// f32 `[groups]`: constant global scales of the rows; empty unless they are constant.
    scales: Region,
    /// u32 `[NUMBERS]`: 0, 1, 2, ...
    numbers: Region,
}

/// Where everything of a call lies in the workspace.
#[derive(Clone, Debug)]
pub struct LinearWorkspace {
    regions: Regions,
    chunk_columns: usize,
    /// u32 `[STATE]`: counters, at the start as in every workspace.
    stats: Region,
    tokens: Region,
    counts: Region,
    offsets: Region,
    row_token: Region,
    slot_row: Region,
    maxima: Region,
    /// f16 `[max_tokens, k]`: rows of one group, as operand; or codes, of whole row blocks.
    x: Region,
    /// E4M3 scales of the codes.
    x_block_scales: Region,
    x_scale: Region,
    /// f16 `[max_tokens, k]`: rows as the forms by wgmma take them; empty where there are none.
    lines: Region,
    /// f32 `[max_tokens, chunk_columns]`: products.
    y: Region,
}

impl LinearWorkspace {
    /// Size of the allocation.
    pub fn bytes(&self) -> usize {
        self.regions.bytes()
    }

    /// Every part with its name.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }
}

/// Addresses of one call. All memory is device memory.
#[derive(Clone, Copy, Debug)]
pub struct LinearIo {
    /// bf16 `[max_tokens, groups, in]`, 16-byte aligned.
    pub rows: DevicePtr,
    /// Tokens of this call.
    pub tokens: Tokens,
    /// Tokens that the buffers hold.
    pub max_tokens: usize,
    /// bf16 `[max_tokens, groups, out]`, 16-byte aligned, or null; rows past the tokens of the call are not written.
    pub output: DevicePtr,
    /// f32 `[max_tokens, groups, out]`, 16-byte aligned, or null: before rounding.
    pub output_f32: DevicePtr,
    /// The form of the GEMMs; `None` for the planner's choice by `max_tokens`.
    pub form: Option<Form>,
}

/// A linear map, ready to be enqueued.
#[derive(Clone, Debug)]
pub struct LinearPlan {
    shape: LinearShape,
    mode: LinearMode,
    image: Image,
    /// Constant scales of the groups, where the mode has them.
    constants: Vec<f32>,
    /// Whether the device has forms of the GEMM by wgmma.
    wgmma: bool,
    base: DevicePtr,
}

impl LinearPlan {
    /// Checks the weights against the kernels of `arch`; nothing is allocated. One weight is a plain map.
    pub fn new(groups: &[Nvfp4Matrix], mode: LinearMode, arch: Arch) -> Result<Self> {
        let shape = LinearShape::new(groups, Operands::of(arch, mode.activations()))?;
        let constants = constants(groups, mode)?;
        let mut regions = Regions::new();
        let weights = MatrixRegions {
            packed: regions.add("weights", shape.groups, shape.packed().bytes())?,
            alpha: regions.add("alpha", shape.groups, 4)?,
            alpha_up: Region::default(),
        };
        let scales = regions.add("constant row scales", constants.len(), 4)?;
        let numbers = regions.add("token counts", NUMBERS, 4)?;
        let image = Image { regions, weights, scales, numbers };
        let wgmma = arch == Arch::Sm90a;
        Ok(Self { shape, mode, image, constants, wgmma, base: DevicePtr::NULL })
    }

    /// Bytes of the weights on the device.
    pub fn bytes(&self) -> usize {
        self.image.regions.bytes()
    }

    /// Sizes.
    pub fn shape(&self) -> LinearShape {
        self.shape
    }

    /// Format of the activations.
    pub fn mode(&self) -> LinearMode {
        self.mode
    }

    /// The workspace of a call of up to `max_tokens` tokens.
    pub fn workspace(&self, max_tokens: usize) -> Result<LinearWorkspace> {
        let mut regions = Regions::new();
        let chunk_columns = chunk_columns(self.shape.rows, max_tokens);
        let (packed, rows) =
            (self.shape.packed(), max_tokens.next_multiple_of(self.shape.operands.row_tile()));
        Ok(LinearWorkspace {
            chunk_columns,
            stats: regions.add("counters", STATE, 4)?,
            tokens: regions.add("token count", 1, 4)?,
            counts: regions.add("rows", 1, 4)?,
            offsets: regions.add("offsets", 2, 4)?,
            row_token: regions.add("token of row", max_tokens, 4)?,
            slot_row: regions.add("row of token", max_tokens, 4)?,
            maxima: regions.add("maximum", 2, 4)?,
            x: regions.add("operand", rows, packed.row_bytes())?,
            x_block_scales: regions.add("block scales", rows, packed.row_scale_bytes())?,
            x_scale: regions.add("row scales", rows, 4)?,
            lines: regions.add("token lines", if self.wgmma { rows } else { 0 }, packed.row_bytes())?,
            y: regions.add("products", max_tokens, 4 * chunk_columns)?,
            regions,
        })
    }

    /// Brings the weights to `base` and waits.
    ///
    /// # Safety
    /// `base` is [`bytes`](Self::bytes) bytes of the device's memory, 256-byte aligned, as long as the plan is used.
    pub unsafe fn load(
        &mut self,
        groups: &[Nvfp4Matrix],
        device: &dyn Device,
        base: DevicePtr,
    ) -> Result<()> {
        let shape = LinearShape::new(groups, self.shape.operands)?;
        if shape != self.shape {
            let got = format!("{shape:?}");
            return Err(Error::mismatch("weights", format!("{:?}", self.shape), got));
        }
        let (at, packed) = (self.image.weights, self.shape.packed());
        // SAFETY: the regions were made for these shapes and lie in the caller's memory.
        unsafe {
            for (g, matrix) in groups.iter().enumerate() {
                let to = at.packed.at(base).byte_add((g * packed.bytes()) as u64);
                pack(device, packed, matrix, None, to)?;
            }
            put(device, at.alpha, base, &groups.iter().map(|m| m.global_scale).collect::<Vec<_>>())?;
            put(device, self.image.scales, base, &self.constants)?;
            put(device, self.image.numbers, base, &(0..NUMBERS as u32).collect::<Vec<_>>())?;
        }
        device.synchronize()?;
        self.base = base;
        Ok(())
    }

    /// Enqueues one call with a workspace of `workspace_bytes` bytes at `workspace`.
    ///
    /// # Safety
    /// The plan is loaded on the queue's device. `io` and the workspace are memory of the sizes they claim, the
    /// workspace 256-byte aligned and used by nobody else until the work is finished.
    pub unsafe fn enqueue(
        &self,
        queue: &dyn Queue,
        io: &LinearIo,
        workspace: DevicePtr,
        workspace_bytes: usize,
    ) -> Result<()> {
        let layout = self.workspace(io.max_tokens)?;
        if layout.bytes() > workspace_bytes {
            let what = format!("bytes of the workspace for {} tokens", io.max_tokens);
            return Err(Error::mismatch(what, layout.bytes(), workspace_bytes));
        }
        if io.max_tokens == 0 {
            return Ok(());
        }
        let call = Call { plan: self, queue, io, layout: &layout, at: workspace };
        // SAFETY: the caller's.
        unsafe { call.enqueue() }
    }
}

/// The constant scale of each group's rows, if the mode has constants.
fn constants(groups: &[Nvfp4Matrix], mode: LinearMode) -> Result<Vec<f32>> {
    let usable = |what: String, scale: f32| match scale >= 0.0 && scale.is_finite() {
        true => Ok(scale),
        false => Err(Error::invalid(what, format!("{scale} is not a finite, non-negative scale"))),
    };
    match mode {
        LinearMode::W4A4(RowScale::Constant(scale)) => {
            Ok(vec![usable("row scale".to_owned(), scale)?; groups.len()])
        }
        LinearMode::W4A4(RowScale::Static) => {
            let of = |(g, matrix): (usize, &Nvfp4Matrix)| match matrix.input_scale {
                Some(scale) => usable(format!("group {g}: input_scale"), scale),
                None => {
                    let why = "a static row scale needs an input_scale, and there is none";
                    Err(Error::invalid(format!("group {g}"), why))
                }
            };
            groups.iter().enumerate().map(of).collect()
        }
        LinearMode::W4A16 | LinearMode::W4A4(RowScale::RowDynamic | RowScale::TensorDynamic) => {
            Ok(Vec::new())
        }
    }
}

/// A call being enqueued.
struct Call<'a> {
    plan: &'a LinearPlan,
    queue: &'a dyn Queue,
    io: &'a LinearIo,
    layout: &'a LinearWorkspace,
    at: DevicePtr,
}

impl Call<'_> {
    /// # Safety
    /// As [`LinearPlan::enqueue`], for this and all methods below.
    unsafe fn enqueue(&self) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            let tokens = self.tokens()?;
            if self.plan.mode == LinearMode::W4A4(RowScale::TensorDynamic) {
                // One maximum over all groups, before the first is quantised.
                self.queue.fill_u32(self.region(self.layout.maxima), 0, 2)?;
                for g in 0..self.plan.shape.groups {
                    let maxima = self.region(self.layout.maxima);
                    rows::amax_bf16(self.queue, self.source(g, tokens), DevicePtr::NULL, maxima)?;
                }
            }
            (0..self.plan.shape.groups).try_for_each(|g| self.group(g, tokens))
        }
    }

    fn region(&self, region: Region) -> DevicePtr {
        region.at(self.at)
    }

    /// Address of the number `n` below [`NUMBERS`].
    fn number(&self, n: usize) -> DevicePtr {
        self.plan.image.numbers.at(self.plan.base).byte_add(4 * n as u64)
    }

    /// Address of the token count, which is at most `max_tokens`.
    unsafe fn tokens(&self) -> Result<DevicePtr> {
        let most = self.io.max_tokens;
        match self.io.tokens {
            Tokens::Host(tokens) if tokens as usize > most => {
                Err(Error::mismatch("tokens", format!("at most {most}"), tokens))
            }
            Tokens::Host(tokens) if (tokens as usize) < NUMBERS => Ok(self.number(tokens as usize)),
            Tokens::Host(tokens) => {
                let at = self.region(self.layout.tokens);
                // SAFETY: one word of the workspace.
                unsafe { self.queue.fill_u32(at, tokens, 1)? };
                Ok(at)
            }
            Tokens::Device(at) => {
                // A device's number may be too large: the sort caps it. With no local expert every value is legal as an
                // id, and those of the rows are at hand.
                let args = Args::new(&sort_slots::LAUNCH)
                    .input("topk_ids", self.io.rows)
                    .input("b_scale", DevicePtr::NULL)
                    .input("tokens", at)
                    .output("counts", self.region(self.layout.counts))
                    .output("offsets", self.region(self.layout.offsets))
                    .output("row_token", self.region(self.layout.row_token))
                    .output("slot_row", self.region(self.layout.slot_row))
                    .output("stats", self.region(self.layout.stats).byte_add(4 * STATS as u64 / 2))
                    .u32("max_tokens", most as u32)
                    .u32("top_k", 1)
                    .u32("experts", 1)
                    .u32("first_local", 0)
                    .u32("local", 0)
                    .u32("shared", 1)
                    .u32("tile", 1);
                // SAFETY: the caller's; a row is at least 32 bytes, so there is a word for each token.
                unsafe { self.queue.launch(grids::one(&sort_slots::LAUNCH), args, true)? };
                Ok(self.region(self.layout.counts))
            }
        }
    }

    /// The rows of a group, where the caller has them.
    fn source(&self, g: usize, tokens: DevicePtr) -> rows::Source {
        let shape = self.plan.shape;
        rows::Source {
            x: self.io.rows.byte_add((2 * g * shape.cols) as u64),
            rows: tokens,
            max_rows: self.io.max_tokens,
            k: shape.cols,
            packed: shape.packed(),
            stride: shape.groups * shape.cols,
        }
    }

    /// One group: operand, product, results.
    unsafe fn group(&self, g: usize, tokens: DevicePtr) -> Result<()> {
        let shape = self.plan.shape;
        let source = self.source(g, tokens);
        let to = rows::Target {
            b: self.region(self.layout.x),
            block_scales: self.region(self.layout.x_block_scales),
            scale: self.region(self.layout.x_scale),
        };
        let scales = match self.plan.mode {
            LinearMode::W4A16 => None,
            LinearMode::W4A4(RowScale::RowDynamic) => Some(Scales::Row),
            LinearMode::W4A4(RowScale::TensorDynamic) => {
                Some(Scales::Tensor(self.region(self.layout.maxima)))
            }
            LinearMode::W4A4(RowScale::Static | RowScale::Constant(_)) => {
                let scales = self.plan.image.scales.at(self.plan.base);
                Some(Scales::Constant(scales.byte_add(4 * g as u64)))
            }
        };
        let saturated = self.region(self.layout.stats).byte_add(4 * STAT_SATURATED);
        // SAFETY: the caller's.
        unsafe {
            match scales {
                None => rows::bf16(self.queue, source, to, DevicePtr::NULL)?,
                Some(scales) if shape.operands == Operands::Fragments => {
                    rows::nvfp4_bf16(self.queue, source, to, DevicePtr::NULL, scales, saturated)?;
                }
                Some(scales) => {
                    let place = rows::Placement {
                        slot_row: DevicePtr::NULL,
                        top_k: 1,
                        shared: false,
                        counts: tokens,
                        offsets: DevicePtr::NULL,
                        experts: 1,
                        next: [DevicePtr::NULL; 2],
                    };
                    rows::blocks_bf16(self.queue, source, to, place, scales, saturated)?;
                }
            }
        }
        let operand = Operand {
            rows: to.b,
            block_scales: to.block_scales,
            scale: to.scale,
            index: DevicePtr::NULL,
            lines: self.region(self.layout.lines),
        };
        let tile_rows = shape.operands.tile_rows();
        let (out, out_f32) = (self.output(self.io.output, 2, g), self.output(self.io.output_f32, 4, g));
        if out == DevicePtr::NULL {
            // f32 only: that is what the GEMM writes.
            let output = Output {
                to: out_f32,
                stride: shape.groups * shape.rows,
                features: shape.rows,
                first_tile: 0,
                tiles: shape.packed().row_tiles,
            };
            return match out_f32 {
                DevicePtr::NULL => Ok(()),
                // SAFETY: the caller's.
                _ => unsafe { self.gemm(g, operand, output, tokens) },
            };
        }
        let mut column = 0;
        while column < shape.rows {
            let columns = self.layout.chunk_columns.min(shape.rows - column);
            let output = Output {
                to: self.region(self.layout.y),
                stride: self.layout.chunk_columns,
                features: shape.rows,
                first_tile: column / tile_rows,
                tiles: columns.div_ceil(tile_rows),
            };
            let at = |to: DevicePtr, bytes: usize| match to {
                DevicePtr::NULL => to,
                to => to.byte_add((bytes * column) as u64),
            };
            // SAFETY: the caller's.
            unsafe {
                self.gemm(g, operand, output, tokens)?;
                self.round(at(out, 2), at(out_f32, 4), columns, tokens)?;
            }
            column += columns;
        }
        Ok(())
    }

    /// Where a group's first feature of token 0 goes in an output of elements of `bytes` bytes; null without it.
    fn output(&self, to: DevicePtr, bytes: usize, g: usize) -> DevicePtr {
        match to {
            DevicePtr::NULL => to,
            to => to.byte_add((bytes * g * self.plan.shape.rows) as u64),
        }
    }

    /// A product with the weight of group `g`.
    unsafe fn gemm(&self, g: usize, operand: Operand, output: Output, tokens: DevicePtr) -> Result<()> {
        let (packed, weights, base) = (self.plan.shape.packed(), self.plan.image.weights, self.plan.base);
        let gemm = Gemm {
            weights: weights.packed.at(base).byte_add((g * packed.bytes()) as u64),
            alpha: weights.alpha.at(base).byte_add(4 * g as u64),
            alpha_up: DevicePtr::NULL,
            packed,
            operand,
            offsets: self.number(0),
            counts: tokens,
            groups: 1,
            output,
            fold_alpha: self.plan.mode != LinearMode::W4A16,
            limit: f32::INFINITY,
            form: self.io.form,
            mean_rows: self.io.max_tokens,
            rows: self.io.max_tokens,
        };
        // SAFETY: the caller's.
        unsafe { gemm.enqueue(self.queue, Epilogue::Plain) }
    }

    /// Brings `columns` columns of products to the outputs.
    unsafe fn round(
        &self,
        out: DevicePtr,
        out_f32: DevicePtr,
        columns: usize,
        tokens: DevicePtr,
    ) -> Result<()> {
        let (y, stride) = (self.region(self.layout.y), self.layout.chunk_columns as u32);
        let elements = (self.io.max_tokens * columns).div_ceil(1024) as u32;
        let grid = grids::blocks(&combine::LAUNCH, elements.min(3 * self.queue.multiprocessors()));
        // A token has no slots, and the products are its shared expert's results.
        let args = Args::new(&combine::LAUNCH)
            .input("y", y)
            .input("slot_row", DevicePtr::NULL)
            .input("topk_weights", DevicePtr::NULL)
            .input("shared_row", DevicePtr::NULL)
            .input("shared", y)
            .input("b_scale", self.region(self.layout.x_scale))
            .output("out", out)
            .output("out_f32", out_f32)
            .input("tokens", tokens)
            .u32("max_tokens", self.io.max_tokens as u32)
            .u32("top_k", 0)
            .u32("columns", columns as u32)
            .u32("y_stride", stride)
            .u32("shared_stride", stride)
            .u32("out_stride", (self.plan.shape.groups * self.plan.shape.rows) as u32);
        // SAFETY: the caller's.
        unsafe { self.queue.launch(grid, args, true) }
    }
}
