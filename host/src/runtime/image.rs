//! A layer's weights on a device: one allocation, filled once.
//!
//! Matrices go over as the checkpoint stores them, one expert at a time through a staging buffer, and `repack_nvfp4` or
//! `repack_nvfp4_blocks` brings them into the order of their products there.

use kernels::fragment::RowOrder;
use kernels::operand::BlockOrder;
use kernels::{repack_nvfp4, repack_nvfp4_blocks};

use super::shape::{LayerOptions, LayerShape, Operands, Packed, SharedKind};
use super::shared::SharedRegions;
use super::{Args, Device, DevicePtr, Memory, Region, Regions};
use crate::cpu::scales::{self, Scales, Who};
use crate::options::{ActScale, ActScaleL2, Activations};
use crate::weights::{LayerWeights, Linear, Nvfp4Matrix, Selection, SharedExpertWeights};
use crate::{Error, Result};

/// Token counts that lie ready in the image.
pub const NUMBERS: usize = 1 << 14;

/// Matrices of one shape, with their alphas.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRegions {
    /// `[groups][row_tiles][k_units]` units.
    pub packed: Region,
    /// f32 `[groups]`: gate's, or the only one.
    pub alpha: Region,
    /// f32 `[groups]`: up's; empty for a plain matrix.
    pub alpha_up: Region,
}

/// Where everything of a layer lies in its allocation.
#[derive(Clone, Debug)]
pub struct ImageLayout {
    regions: Regions,
    /// Gate and up.
    pub l1: MatrixRegions,
    /// Down.
    pub l2: MatrixRegions,
    /// f32 `[groups]`: constant global scale of an L1 row by expert; empty unless it is constant.
    pub l1_scale: Region,
    /// f32 `[groups]`: the same for L2.
    pub l2_scale: Region,
    /// f32 `[experts, hidden]`.
    pub router: Region,
    /// f32 `[experts]`, or empty.
    pub bias: Region,
    /// i32 `[vocab_size, top_k]`, or empty.
    pub tid2eid: Region,
    /// A shared expert that is apart.
    pub shared: Option<SharedRegions>,
    /// u32 `[NUMBERS]`: 0, 1, 2, ...: a token count that the host knows is an address in here.
    pub numbers: Region,
}

impl ImageLayout {
    /// The layout for `layer`. [`bytes`](Self::bytes) is its size.
    pub fn new(layer: &LayerWeights, shape: &LayerShape, options: &LayerOptions) -> Result<Self> {
        let mut regions = Regions::new();
        let groups = shape.groups();
        let mut matrix = |names: [&'static str; 3], packed: Packed, up: usize| -> Result<MatrixRegions> {
            Ok(MatrixRegions {
                packed: regions.add(names[0], groups, packed.bytes())?,
                alpha: regions.add(names[1], groups, 4)?,
                alpha_up: regions.add(names[2], up, 4)?,
            })
        };
        let l1 = matrix(["gate and up", "alpha of gate", "alpha of up"], shape.l1(), groups)?;
        let l2 = matrix(["down", "alpha of down", "no second alpha"], shape.l2(), 0)?;
        let quantised = options.activations == Activations::Nvfp4;
        let (mut router, mut bias, mut tid2eid) = (Region::default(), Region::default(), Region::default());
        if let Some(weights) = &layer.router {
            router = regions.add("router", weights.weight.len(), 4)?;
            match &weights.selection {
                Selection::TopK { bias: Some(b) } => bias = regions.add("router bias", b.len(), 4)?,
                Selection::TopK { bias: None } => {}
                Selection::Hash { tid2eid: ids } => tid2eid = regions.add("expert table", ids.len(), 4)?,
            }
        }
        let constant = |is: bool| if quantised && is { groups } else { 0 };
        let l1_constant = matches!(options.act_scale, ActScale::Static | ActScale::Warmup);
        let l2_constant = match options.act_scale_l2 {
            ActScaleL2::Static | ActScaleL2::Warmup => true,
            ActScaleL2::Bound => shape.limit.is_finite(),
            ActScaleL2::RowDynamic | ActScaleL2::TensorDynamic => false,
        };
        let l1_scale = regions.add("constant L1 scales", constant(l1_constant), 4)?;
        let l2_scale = regions.add("constant L2 scales", constant(l2_constant), 4)?;
        let numbers = regions.add("token counts", NUMBERS, 4)?;
        let shared = SharedRegions::new(layer, shape, &mut regions)?;
        Ok(Self { regions, l1, l2, l1_scale, l2_scale, router, bias, tid2eid, shared, numbers })
    }

    /// Size of the allocation.
    pub fn bytes(&self) -> usize {
        self.regions.bytes()
    }

    /// Every part with its name.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }
}

/// One expert's matrices, whoever owns them.
#[derive(Clone, Copy)]
struct Group<'a> {
    gate: &'a Nvfp4Matrix,
    up: &'a Nvfp4Matrix,
    down: &'a Nvfp4Matrix,
}

/// The experts of the grouped GEMMs, in order: the local ones, then a folded shared one.
fn groups<'a>(layer: &'a LayerWeights, shape: &LayerShape) -> Vec<Group<'a>> {
    let experts = layer.experts[shape.local.clone()].iter();
    let mut all: Vec<_> = experts.map(|e| Group { gate: &e.gate, up: &e.up, down: &e.down }).collect();
    if shape.shared == SharedKind::Folded
        && let Some(shared) = &layer.shared
        && let (Linear::Nvfp4(gate), Linear::Nvfp4(up), Linear::Nvfp4(down)) =
            (&shared.gate, &shared.up, &shared.down)
    {
        all.push(Group { gate, up, down });
    }
    all
}

impl ImageLayout {
    /// Fills the allocation at `base` and waits.
    ///
    /// # Safety
    /// `base` is [`bytes`](Self::bytes) bytes of the device's memory, 256-byte aligned.
    pub unsafe fn upload(
        &self,
        layer: &LayerWeights,
        shape: &LayerShape,
        options: &LayerOptions,
        device: &dyn Device,
        base: DevicePtr,
    ) -> Result<()> {
        let groups = groups(layer, shape);
        // SAFETY: every region lies in the caller's memory and is as large as what goes there.
        unsafe {
            for (e, group) in groups.iter().enumerate() {
                let l1 = matrix_ptr(self.l1, shape.l1(), e, base);
                pack(device, shape.l1(), group.gate, Some(group.up), l1)?;
                pack(device, shape.l2(), group.down, None, matrix_ptr(self.l2, shape.l2(), e, base))?;
            }
            let alphas = |of: for<'a> fn(&Group<'a>) -> &'a Nvfp4Matrix| -> Vec<f32> {
                groups.iter().map(|g| of(g).global_scale).collect()
            };
            put(device, self.l1.alpha, base, &alphas(|g| g.gate))?;
            put(device, self.l1.alpha_up, base, &alphas(|g| g.up))?;
            put(device, self.l2.alpha, base, &alphas(|g| g.down))?;
            put(device, self.numbers, base, &(0..NUMBERS as u32).collect::<Vec<_>>())?;
            let constants = Constants::new(layer, shape, options)?;
            put(device, self.l1_scale, base, &constants.l1)?;
            put(device, self.l2_scale, base, &constants.l2)?;
            if let (Some(at), Some(shared)) = (&self.shared, &layer.shared) {
                at.upload(shared, shape, constants.shared, device, base)?;
            }
            if let Some(router) = &layer.router {
                put(device, self.router, base, &router.weight)?;
                match &router.selection {
                    Selection::TopK { bias } => put(device, self.bias, base, bias.as_deref().unwrap_or(&[]))?,
                    Selection::Hash { tid2eid } => put(device, self.tid2eid, base, tid2eid)?,
                }
            }
        }
        device.synchronize()
    }
}

/// Address of the matrices of group `e`.
fn matrix_ptr(regions: MatrixRegions, packed: Packed, e: usize, base: DevicePtr) -> DevicePtr {
    regions.packed.at(base).byte_add((e * packed.bytes()) as u64)
}

/// # Safety
/// The region is memory of the device and as large as `values`.
pub(super) unsafe fn put<T: bytemuck::NoUninit>(
    device: &dyn Device,
    to: Region,
    base: DevicePtr,
    values: &[T],
) -> Result<()> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    if to.bytes == 0 || bytes.is_empty() {
        return Ok(());
    }
    if bytes.len() != to.bytes {
        return Err(Error::mismatch("bytes of a region", to.bytes, bytes.len()));
    }
    // SAFETY: the caller's.
    unsafe { device.upload(to.at(base), bytes) }
}

/// Brings a matrix, or gate and up, into the order of `packed` at `to`, on the device.
///
/// # Safety
/// `to` is memory for the packed matrix.
pub(super) unsafe fn pack(
    device: &dyn Device,
    packed: Packed,
    matrix: &Nvfp4Matrix,
    up: Option<&Nvfp4Matrix>,
    to: DevicePtr,
) -> Result<()> {
    let mut staged = Vec::new();
    for bytes in [Some(matrix), up].into_iter().flatten().flat_map(|m| [&m.packed, &m.scales]) {
        staged.push(Memory::of(device, bytes)?);
    }
    let at = |n: usize| staged.get(n).map_or(DevicePtr::NULL, Memory::ptr);
    let (features, k, sms) = (matrix.rows as u32, matrix.cols as u32, device.multiprocessors());
    let (launch, dims) = match packed.operands {
        Operands::Fragments => {
            let order = if up.is_some() { RowOrder::GateUp } else { RowOrder::Plain };
            debug_assert_eq!(packed.row_tiles, order.row_tiles(matrix.rows));
            (&repack_nvfp4::LAUNCH, repack_nvfp4::dims(order, features, k, sms))
        }
        Operands::Blocks => {
            let order = if up.is_some() { BlockOrder::GateUp } else { BlockOrder::Plain };
            debug_assert_eq!(packed.row_tiles, order.row_blocks(matrix.rows));
            (&repack_nvfp4_blocks::LAUNCH, repack_nvfp4_blocks::dims(order, features, k, sms))
        }
    };
    let args = Args::new(launch)
        .input("packed", at(0))
        .input("scales", at(1))
        .input("up_packed", at(2))
        .input("up_scales", at(3))
        .output("out", to)
        .u32("features", features)
        .u32("k", k);
    // SAFETY: the staged matrices have these shapes and live until the work is finished; `to` is the caller's.
    unsafe { device.launch(dims, args, false)? };
    device.synchronize()
}

/// The constant global scales of the groups, where the options ask for them; else empty.
struct Constants {
    l1: Vec<f32>,
    l2: Vec<f32>,
    /// Those of a shared expert that is apart; 1 where there is none.
    shared: [f32; 2],
}

impl Constants {
    /// Warm-up scales that are not measured yet are NaN: a call before their measurement shows.
    fn new(layer: &LayerWeights, shape: &LayerShape, options: &LayerOptions) -> Result<Self> {
        let unmeasured = options.warmup.is_none();
        let (l1_unknown, l2_unknown) = (
            unmeasured && options.act_scale == ActScale::Warmup,
            unmeasured && options.act_scale_l2 == ActScaleL2::Warmup,
        );
        let options = options.forward();
        let name = |e: usize, what: &str| match shape.local.clone().nth(e) {
            Some(id) => format!("expert {id} {what}"),
            None => format!("shared expert {what}"),
        };
        let groups = groups(layer, shape);
        let (routed, folded) = groups.split_at(shape.local.len());
        let (mut l1, mut l2) = (Vec::new(), Vec::new());
        for (first, who, groups) in [(0, Who::Routed, routed), (routed.len(), Who::Shared, folded)] {
            let numbered = || groups.iter().enumerate().map(move |(i, g)| (first + i, g));
            let gate_up = numbered()
                .map(|(e, g)| [(name(e, "gate"), g.gate.input_scale), (name(e, "up"), g.up.input_scale)]);
            let scales = if l1_unknown { Scales::Constant(f32::NAN) } else { scales::l1(&options, gate_up)? };
            l1.extend(values(scales, groups.len()));
            let down = numbered().map(|(e, g)| (name(e, "down"), g.down.input_scale));
            let scales = match l2_unknown {
                true => Scales::Constant(f32::NAN),
                false => scales::l2(&options, who, shape.limit, down)?,
            };
            l2.extend(values(scales, groups.len()));
        }
        let mut shared = [1.0; 2];
        if let (SharedKind::Apart { .. }, Some(SharedExpertWeights { gate, up, down })) =
            (shape.shared, &layer.shared)
            && let (Linear::Nvfp4(gate), Linear::Nvfp4(up), Linear::Nvfp4(down)) = (gate, up, down)
        {
            let named = |what: &str, m: &Nvfp4Matrix| (format!("shared expert {what}"), m.input_scale);
            let first = |scales: Scales| values(scales, 1).first().copied().unwrap_or(1.0);
            let gate_up = [[named("gate", gate), named("up", up)]].into_iter();
            let down = [named("down", down)].into_iter();
            shared = [
                if l1_unknown { f32::NAN } else { first(scales::l1(&options, gate_up)?) },
                if l2_unknown {
                    f32::NAN
                } else {
                    first(scales::l2(&options, Who::Shared, shape.limit, down)?)
                },
            ];
        }
        Ok(Self { l1, l2, shared })
    }
}

/// One scale per expert where they are constant.
fn values(scales: Scales, experts: usize) -> Vec<f32> {
    match scales {
        Scales::Constant(s) => vec![s; experts],
        Scales::PerExpert(list) => list,
        Scales::Bf16 | Scales::PerRow | Scales::Tensor => Vec::new(),
    }
}
