//! Reading a planned layer, in parallel, straight into its final memory.

use half::bf16;
use nvfp4::{e8m0, mxfp4};
use rayon::prelude::*;
use safetensors::Dtype;

use super::error::{CheckpointError, Result};
use super::open::Checkpoint;
use super::plan::{LayerInfo, LayerPlan, MatrixPlan, RouterPlan, Scalar, Source, Triple};
use super::resolve;
use super::source::{At, usable_scale};
use crate::weights::{
    Bf16Matrix, ExpertWeights, FP8_BLOCK, Fp8Matrix, LayerWeights, Linear, Nvfp4Matrix, RouterWeights,
    Selection, SharedExpertWeights,
};

/// Options of [`Checkpoint::load_layer`].
#[derive(Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// Called, from any thread, with the number of bytes read since the last call; the numbers add up to
    /// [`Checkpoint::layer_bytes`].
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl std::fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("LoadOptions").field("progress", &self.progress.is_some()).finish()
    }
}

impl Checkpoint {
    /// How a layer is stored. Names, dtypes and shapes are checked; no data are read.
    ///
    /// # Errors
    /// Those of [`Checkpoint::load_layer`] but for the values.
    pub fn layer_info(&self, layer: usize) -> Result<LayerInfo> {
        resolve::plan(self, layer).map(|plan| plan.info)
    }

    /// Bytes that loading a layer reads; 0 if it cannot be loaded.
    pub fn layer_bytes(&self, layer: usize) -> u64 {
        resolve::plan(self, layer).map_or(0, |plan| plan.bytes())
    }

    /// Loads one layer, on all threads of the current rayon pool. Every shape and dtype is checked before any
    /// data are read; every scale, table entry and unquantised value while they are. Memory exceeds that of the
    /// result by no more than one tensor of MXFP4 scales, or 64 KiB, per thread.
    ///
    /// # Errors
    /// Something found wrong; nothing is kept.
    pub fn load_layer(&self, layer: usize, options: &LoadOptions) -> Result<LayerWeights> {
        let plan = resolve::plan(self, layer)?;
        for warning in &plan.info.warnings {
            tracing::warn!("{}: {warning}", self.dir().display());
        }
        let result = Reader { checkpoint: self, options }.layer(&plan);
        // A change underneath explains any other finding.
        let mut used: Vec<usize> = plan.tensors().map(|t| self.tensors[t].shard).collect();
        used.sort_unstable();
        used.dedup();
        used.into_iter().try_for_each(|shard| self.shards[shard].check_unchanged())?;
        result
    }
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a LoadOptions<'a>,
}

impl Reader<'_> {
    fn layer(&self, plan: &LayerPlan) -> Result<LayerWeights> {
        let experts = || {
            let one = |triple: &Triple| {
                let [gate, up, down] = self.triple(triple, |m| self.nvfp4(m))?;
                Ok(ExpertWeights { gate, up, down })
            };
            plan.experts.par_iter().map(one).collect::<Result<Vec<_>>>()
        };
        let rest = || {
            let shared = plan.shared.as_ref().map(|triple| {
                let [gate, up, down] = self.triple(triple, |m| self.linear(m))?;
                Ok(SharedExpertWeights { gate, up, down })
            });
            Ok((shared.transpose()?, self.router(&plan.router, plan.config.experts)?))
        };
        let (experts, rest) = rayon::join(experts, rest);
        let (experts, (shared, router)) = (experts?, rest?);
        Ok(LayerWeights {
            layer: plan.layer,
            config: plan.config.clone(),
            experts,
            shared,
            router: Some(router),
        })
    }

    fn triple<T: Send>(
        &self,
        triple: &Triple,
        read: impl Fn(&MatrixPlan) -> Result<T> + Sync,
    ) -> Result<[T; 3]> {
        let one = |m: &MatrixPlan| {
            let out = read(m)?;
            self.progress(m.bytes());
            Ok(out)
        };
        let (gate, (up, down)) =
            rayon::join(|| one(&triple[0]), || rayon::join(|| one(&triple[1]), || one(&triple[2])));
        Ok([gate?, up?, down?])
    }

    fn progress(&self, bytes: u64) {
        if let Some(progress) = self.options.progress {
            progress(bytes);
        }
    }

    fn linear(&self, plan: &MatrixPlan) -> Result<Linear> {
        match *plan {
            MatrixPlan::Nvfp4 { .. } | MatrixPlan::Mxfp4 { .. } => self.nvfp4(plan).map(Linear::Nvfp4),
            MatrixPlan::Bf16 { rows, cols, data } => {
                let at = self.at(data);
                let mut data: Vec<bf16> = self.checkpoint.allocate(at.tensor, data.bytes / 2)?;
                at.read(bytemuck::cast_slice_mut(&mut data), 0)?;
                if cfg!(target_endian = "big") {
                    data.iter_mut().for_each(|v| *v = bf16::from_bits(u16::from_le(v.to_bits())));
                }
                at.check_bf16(&data)?;
                Ok(Linear::Bf16(Bf16Matrix { rows, cols, data: data.into() }))
            }
            MatrixPlan::Fp8 { rows, cols, data, scales, e8m0, per_tensor } => {
                let mut scales = self.fp8_scales(scales, e8m0)?;
                if per_tensor {
                    let blocks = rows.div_ceil(FP8_BLOCK) * cols.div_ceil(FP8_BLOCK);
                    scales = scales.iter().cycle().take(blocks).copied().collect();
                }
                let at = self.at(data);
                let data = at.bytes()?;
                at.check_fp8(&data)?;
                Ok(Linear::Fp8(Fp8Matrix { rows, cols, data, scales }))
            }
        }
    }

    fn nvfp4(&self, plan: &MatrixPlan) -> Result<Nvfp4Matrix> {
        let input_scale = plan.input().map(|scalar| self.input_scale(scalar)).transpose()?;
        match *plan {
            MatrixPlan::Nvfp4 { rows, cols, packed, scales, global, .. } => {
                let global_scale = self.global_scale(global)?;
                let at = self.at(scales);
                let scales = at.bytes()?;
                at.check_scales(&scales)?;
                let packed = self.at(packed).bytes()?;
                Ok(Nvfp4Matrix { rows, cols, packed, scales, global_scale, input_scale })
            }
            MatrixPlan::Mxfp4 { rows, cols, packed, codes, .. } => {
                let packed = self.at(packed).bytes()?;
                let at = self.at(codes);
                let mut scales = self.checkpoint.allocate(at.tensor, codes.bytes * 2)?;
                let global_scale =
                    mxfp4::cast_scales(&packed, &at.bytes()?, &mut scales).map_err(|source| {
                        CheckpointError::Mxfp4 { file: at.file(), tensor: at.name(), source }
                    })?;
                Ok(Nvfp4Matrix { rows, cols, packed, scales: scales.into(), global_scale, input_scale })
            }
            // Plans of routed experts are FP4 by construction.
            MatrixPlan::Bf16 { data, .. } | MatrixPlan::Fp8 { data, .. } => {
                let at = self.at(data);
                let found = at.tensor.dtype();
                Err(CheckpointError::NotQuantized {
                    file: at.file(),
                    tensor: at.name(),
                    found,
                    pattern: None,
                })
            }
        }
    }

    fn router(&self, router: &RouterPlan, experts: usize) -> Result<RouterWeights> {
        let weight = self.floats(router.weight)?;
        let selection = match router.table {
            Some(table) => Selection::Hash { tid2eid: self.table(table, experts)? },
            None => Selection::TopK { bias: router.bias.map(|bias| self.floats(bias)).transpose()? },
        };
        self.progress(router.bytes());
        Ok(RouterWeights { weight, selection })
    }

    fn global_scale(&self, scalar: Scalar) -> Result<f32> {
        let (at, found) = self.scalar(scalar)?;
        usable_scale(found, scalar.divisor).ok_or_else(|| CheckpointError::GlobalScale {
            file: at.file(),
            tensor: at.name(),
            found,
            divisor: scalar.divisor,
        })
    }

    fn input_scale(&self, scalar: Scalar) -> Result<f32> {
        let (at, found) = self.scalar(scalar)?;
        usable_scale(found, scalar.divisor).ok_or_else(|| CheckpointError::InputScale {
            file: at.file(),
            tensor: at.name(),
            found,
            divisor: scalar.divisor,
        })
    }

    fn scalar(&self, scalar: Scalar) -> Result<(At<'_>, f32)> {
        let at = self.at(Source { tensor: scalar.tensor, offset: scalar.element * 4, bytes: 4 });
        let mut bytes = [0; 4];
        at.read(&mut bytes, 0)?;
        Ok((at, f32::from_le_bytes(bytes)))
    }

    /// BF16 or F32, widened, finite.
    fn floats(&self, source: Source) -> Result<Box<[f32]>> {
        let at = self.at(source);
        let finite = |i, v: f32| if v.is_finite() { Ok(v) } else { Err(at.non_finite(i, v)) };
        if at.tensor.dtype() == Dtype::BF16 {
            at.convert(|i, b: [u8; 2]| finite(i, bf16::from_le_bytes(b).to_f32()))
        } else {
            at.convert(|i, b: [u8; 4]| finite(i, f32::from_le_bytes(b)))
        }
    }

    /// E8M0 or F32, finite and positive.
    fn fp8_scales(&self, source: Source, e8m0: bool) -> Result<Box<[f32]>> {
        let at = self.at(source);
        let check = |index, found: f32| {
            if found.is_finite() && found > 0.0 {
                return Ok(found);
            }
            Err(CheckpointError::BlockScale { file: at.file(), tensor: at.name(), index, found })
        };
        if e8m0 {
            at.convert(|i, [code]: [u8; 1]| check(i, e8m0::decode(code)))
        } else {
            at.convert(|i, b: [u8; 4]| check(i, f32::from_le_bytes(b)))
        }
    }

    /// I64 or I32, each an expert.
    fn table(&self, source: Source, experts: usize) -> Result<Box<[i32]>> {
        let at = self.at(source);
        let check = |index, found: i64| match i32::try_from(found) {
            Ok(id) if (0..experts as i64).contains(&found) => Ok(id),
            _ => {
                Err(CheckpointError::TableEntry { file: at.file(), tensor: at.name(), index, found, experts })
            }
        };
        if at.tensor.dtype() == Dtype::I64 {
            at.convert(|i, b: [u8; 8]| check(i, i64::from_le_bytes(b)))
        } else {
            at.convert(|i, b: [u8; 4]| check(i, i64::from(i32::from_le_bytes(b))))
        }
    }

    fn at(&self, source: Source) -> At<'_> {
        At { checkpoint: self.checkpoint, tensor: &self.checkpoint.tensors[source.tensor], source }
    }
}
