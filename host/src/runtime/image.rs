//! A layer's weights on a device: one allocation, filled once.
//!
//! Matrices go over as the checkpoint stores them, one at a time through a staging buffer, and `repack_nvfp4` brings
//! them into fragment order there: nothing is transformed on the host.

use kernels::launch::Launch;
use kernels::{fragment, repack_nvfp4};

use super::shape::{LayerOptions, LayerShape, Packed, SharedKind};
use super::{Args, Device, DevicePtr, Memory, Region, Regions};
use crate::options::{ActScale, ActScaleL2, Activations};
use crate::weights::{ExpertWeights, LayerWeights, Linear, Nvfp4Matrix, Selection};
use crate::{Error, Result};

/// Matrices of one shape in fragment order, with their alphas.
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
        Ok(Self { regions, l1, l2, l1_scale, l2_scale, router, bias, tid2eid })
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
