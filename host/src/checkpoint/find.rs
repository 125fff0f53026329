//! Finding one matrix: which tensors it consists of is decided by their roles, dtypes and shapes, which leave one
//! reading or an error.

use std::path::PathBuf;

use nvfp4::BLOCK;
use nvfp4::mxfp4::MX_BLOCK;
use safetensors::Dtype;

use super::error::{CheckpointError, Result};
use super::names::{Module, Proj, Role};
use super::open::{Checkpoint, LayerTensors, TensorInfo};
use super::plan::{MatrixPlan, Scalar, Source};
use crate::weights::FP8_BLOCK;

/// Where in the tensors of a module a matrix lies.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub module: Module,
    /// Leading dimension of stacked tensors, else 0.
    pub experts: usize,
    /// Index in the leading dimension.
    pub expert: usize,
    /// 2 for gate over up, else 1.
    pub parts: usize,
    /// 0 for gate, 1 for up.
    pub part: usize,
}

impl Place {
    /// The matrix's rank among those of one tensor.
    fn position(&self) -> u64 {
        (self.expert * self.parts + self.part) as u64
    }

    /// `[E?, parts * rows, cols]`.
    fn shape(&self, rows: usize, cols: usize) -> Vec<usize> {
        let experts = (self.experts > 0).then_some(self.experts);
        experts.into_iter().chain([self.parts * rows, cols]).collect()
    }
}

/// Looks up tensors of one layer.
pub struct Finder<'a> {
    pub checkpoint: &'a Checkpoint,
    pub tensors: &'a LayerTensors,
    pub warnings: Vec<String>,
}

const FP4_DTYPES: [Dtype; 3] = [Dtype::U8, Dtype::I8, Dtype::F4];

impl<'a> Finder<'a> {
    /// The one place that has a weight.
    pub fn choose(&self, places: &[Place], wanted: Module) -> Result<Place> {
        let weight = |p: &Place| {
            self.tensors.find(p.module, Role::Weight).or(self.tensors.find(p.module, Role::WeightPacked))
        };
        let mut found = places.iter().filter_map(|p| weight(p).map(|t| (*p, t)));
        match (found.next(), found.next()) {
            (Some((place, _)), None) => Ok(place),
            (Some((_, a)), Some((_, b))) => Err(self.ambiguous(a, b)),
            (None, _) => {
                Err(self.missing(format!("{}.weight", self.spell(wanted)), "no spelling of it was found"))
            }
        }
    }

    /// The plan of a matrix of `rows` x `cols`. Routed experts must be FP4.
    pub fn matrix(&mut self, place: Place, rows: usize, cols: usize, routed: bool) -> Result<MatrixPlan> {
        let find = |role| self.tensors.find(place.module, role);
        if let Some(tensor) = find(Role::Foreign) {
            return Err(self.unsupported(tensor, "it changes what the expert computes"));
        }
        let weight = match (find(Role::Weight), find(Role::WeightPacked)) {
            (Some(a), Some(b)) => return Err(self.ambiguous(a, b)),
            (Some(weight), None) | (None, Some(weight)) => weight,
            (None, None) => {
                return Err(self.missing(format!("{}.weight", self.spell(place.module)), ""));
            }
        };
        let dtype = self.info(weight).dtype();
        let fp4 = FP4_DTYPES.contains(&dtype);
        self.check_excludes(weight, fp4, routed)?;
        if fp4 {
            return self.fp4(place, weight, rows, cols);
        }
        let plain = [Role::WeightPacked, Role::WeightScale2, Role::WeightGlobalScale];
        if let Some(tensor) = plain.into_iter().find_map(find) {
            return Err(self.unexpected(tensor, &format!("the weight is {dtype:?}")));
        }
        match dtype {
            Dtype::BF16 => self.bf16(place, weight, rows, cols),
            Dtype::F8_E4M3 => self.fp8(place, weight, rows, cols),
            _ => Err(self.wrong_dtype(weight, "U8, I8 or F4 (FP4), BF16, or F8_E4M3")),
        }
    }

    /// Compares the exclude lists with what is stored. For routed experts a contradiction is an error; for the
    /// shared expert, which may be in any format, the tensors are right and the lists get a warning.
    fn check_excludes(&mut self, weight: usize, fp4: bool, routed: bool) -> Result<()> {
        let name = self.info(weight).name();
        let module = [".weight", "_weight", ".weight_packed", "_weight_packed"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        let pattern = self.checkpoint.config().quant.excluded(module).map(|p| p.as_str().to_owned());
        match (fp4, routed, pattern) {
            (false, true, pattern) => Err(CheckpointError::NotQuantized {
                file: self.file(weight),
                tensor: self.name(weight),
                found: self.info(weight).dtype(),
                pattern,
            }),
            (true, true, Some(pattern)) => Err(CheckpointError::ExcludedExpert {
                file: self.file(weight),
                tensor: self.name(weight),
                pattern,
            }),
            (true, false, Some(pattern)) => {
                self.warn(format!(
                    "{name}: stored in FP4 although {pattern:?} excludes it; loaded as stored"
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fp4(&self, place: Place, weight: usize, rows: usize, cols: usize) -> Result<MatrixPlan> {
        let find = |role| self.tensors.find(place.module, role);
        // F4 counts elements, U8 and I8 count pairs.
        let last = if self.info(weight).dtype() == Dtype::F4 { cols } else { cols / 2 };
        let shape = place.shape(rows, last);
        self.check_shape(weight, &[&shape])?;
        let packed = self.slice(weight, place, rows * cols / 2);
        let scale = match (find(Role::WeightScale), find(Role::Scale)) {
            (Some(a), Some(b)) => return Err(self.ambiguous(a, b)),
            (Some(scale), None) | (None, Some(scale)) => scale,
            (None, None) => return Err(self.missing_beside(weight, "weight_scale")),
        };
        if let Some(tensor) = find(Role::WeightScaleInv) {
            return Err(self.unexpected(tensor, "the weight is FP4"));
        }
        let globals = [find(Role::WeightScale2), find(Role::WeightGlobalScale)];
        let input = match (find(Role::InputScale), find(Role::InputGlobalScale)) {
            (Some(a), Some(b)) => return Err(self.ambiguous(a, b)),
            (Some(tensor), None) => Some(self.scalar(tensor, place, false)?),
            (None, Some(tensor)) => Some(self.scalar(tensor, place, true)?),
            (None, None) => None,
        };
        match self.info(scale).dtype() {
            Dtype::F8_E4M3 => {
                self.check_shape(scale, &[&place.shape(rows, cols / BLOCK)])?;
                let global = match globals {
                    [Some(a), Some(b)] => return Err(self.ambiguous(a, b)),
                    [Some(tensor), None] => self.scalar(tensor, place, false)?,
                    [None, Some(tensor)] => self.scalar(tensor, place, true)?,
                    [None, None] => return Err(self.missing_beside(weight, self.global_name(weight))),
                };
                let scales = self.slice(scale, place, rows * cols / BLOCK);
                Ok(MatrixPlan::Nvfp4 { rows, cols, packed, scales, global, input })
            }
            // U8 is E8M0 only in the shape that E8M0 has; bytes alone could be either.
            dtype @ (Dtype::F8_E8M0 | Dtype::U8) => {
                if !cols.is_multiple_of(MX_BLOCK) {
                    return Err(self.wrong_shape(scale, format!("K = {cols} in blocks of 32 (E8M0 scales)")));
                }
                let shape = place.shape(rows, cols / MX_BLOCK);
                if dtype == Dtype::U8 && *self.info(scale).shape() != shape[..] {
                    return Err(self.wrong_dtype(scale, "F8_E4M3 (one per 16), or F8_E8M0 (one per 32)"));
                }
                self.check_shape(scale, &[&shape])?;
                if let Some(tensor) = globals.into_iter().flatten().next() {
                    return Err(self.unexpected(tensor, "MXFP4 (E8M0 scales) has no global scale"));
                }
                let codes = self.slice(scale, place, rows * cols / MX_BLOCK);
                Ok(MatrixPlan::Mxfp4 { rows, cols, packed, codes, input })
            }
            _ => Err(self.wrong_dtype(scale, "F8_E4M3 (one per 16), or F8_E8M0 (one per 32)")),
        }
    }

    fn bf16(&self, place: Place, weight: usize, rows: usize, cols: usize) -> Result<MatrixPlan> {
        for role in [Role::WeightScale, Role::Scale, Role::WeightScaleInv] {
            if let Some(tensor) = self.tensors.find(place.module, role) {
                return Err(self.unexpected(tensor, "the weight is BF16"));
            }
        }
        self.check_shape(weight, &[&place.shape(rows, cols)])?;
        Ok(MatrixPlan::Bf16 { rows, cols, data: self.slice(weight, place, rows * cols * 2) })
    }

    fn fp8(&self, place: Place, weight: usize, rows: usize, cols: usize) -> Result<MatrixPlan> {
        self.check_shape(weight, &[&place.shape(rows, cols)])?;
        let roles = [Role::Scale, Role::WeightScaleInv, Role::WeightScale];
        let mut found = roles.into_iter().filter_map(|role| self.tensors.find(place.module, role));
        let scale = match (found.next(), found.next()) {
            (Some(a), Some(b)) => return Err(self.ambiguous(a, b)),
            (Some(scale), None) => scale,
            (None, _) => return Err(self.missing_beside(weight, "weight_scale_inv")),
        };
        self.check_dtype(scale, &[Dtype::F8_E8M0, Dtype::F32])?;
        let e8m0 = self.info(scale).dtype() == Dtype::F8_E8M0;
        let (block_rows, block_cols) = (rows.div_ceil(FP8_BLOCK), cols.div_ceil(FP8_BLOCK));
        if place.parts > 1 && !rows.is_multiple_of(FP8_BLOCK) {
            return Err(self.unsupported(weight, "fused FP8 whose halves share 128 x 128 blocks"));
        }
        let blocks = place.shape(block_rows, block_cols);
        self.check_shape(scale, &[&blocks, &[], &[1]])?;
        let per_tensor = *self.info(scale).shape() != blocks[..];
        let size = if e8m0 { 1 } else { 4 };
        let scales = match per_tensor {
            true => Source { tensor: scale, offset: 0, bytes: size },
            false => self.slice(scale, place, block_rows * block_cols * size as usize),
        };
        let data = self.slice(weight, place, rows * cols);
        Ok(MatrixPlan::Fp8 { rows, cols, data, scales, e8m0, per_tensor })
    }

    /// The matrix's own bytes in a tensor.
    fn slice(&self, tensor: usize, place: Place, bytes: usize) -> Source {
        Source { tensor, offset: place.position() * bytes as u64, bytes: bytes as u64 }
    }

    /// The matrix's own element of a tensor of global scales: one for all, one per expert, or one per expert and
    /// part.
    fn scalar(&self, tensor: usize, place: Place, divisor: bool) -> Result<Scalar> {
        self.check_dtype(tensor, &[Dtype::F32])?;
        let shape = self.info(tensor).shape();
        // Trailing ones say nothing.
        let trimmed = &shape[..shape.iter().rposition(|&d| d != 1).map_or(0, |i| i + 1)];
        let (experts, parts) = (place.experts, place.parts);
        let element = if trimmed.is_empty() {
            0
        } else if experts > 0 && parts == 2 && trimmed == [experts, 2] {
            place.position()
        } else if experts > 0 && trimmed == [experts] {
            place.expert as u64
        } else if parts == 2 && (trimmed == [2] && experts == 0 || trimmed == [1, 2] && experts == 1) {
            place.part as u64
        } else {
            let expected = match (experts, parts) {
                (0, 1) => "[] or [1]".to_owned(),
                (0, _) => "[], [1] or [2]".to_owned(),
                (_, 1) => format!("[], [1] or [{experts}]"),
                _ => format!("[], [1], [{experts}] or [{experts}, 2]"),
            };
            return Err(self.wrong_shape(tensor, expected));
        };
        Ok(Scalar { tensor, element, divisor })
    }

    /// A tensor that must be there; `suffix` spells it for the message.
    pub fn need(&self, module: Module, role: Role, suffix: &str, why: &str) -> Result<usize> {
        self.tensors
            .find(module, role)
            .ok_or_else(|| self.missing(format!("{}.{suffix}", self.tensors.block), why))
    }

    /// Notes a warning.
    pub fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }
}

/// Checks and messages.
impl Finder<'_> {
    pub fn info(&self, tensor: usize) -> &TensorInfo {
        &self.checkpoint.tensors[tensor]
    }

    pub fn name(&self, tensor: usize) -> String {
        self.info(tensor).name().to_owned()
    }

    pub fn file(&self, tensor: usize) -> PathBuf {
        self.checkpoint.file_of(self.info(tensor)).to_owned()
    }

    pub fn check_dtype(&self, tensor: usize, expected: &[Dtype]) -> Result<()> {
        if expected.contains(&self.info(tensor).dtype()) {
            return Ok(());
        }
        let names: Vec<String> = expected.iter().map(|d| format!("{d:?}")).collect();
        Err(self.wrong_dtype(tensor, &names.join(" or ")))
    }

    pub fn check_shape(&self, tensor: usize, expected: &[&[usize]]) -> Result<()> {
        if expected.contains(&self.info(tensor).shape()) {
            return Ok(());
        }
        let shapes: Vec<String> = expected.iter().map(|s| format!("{s:?}")).collect();
        Err(self.wrong_shape(tensor, shapes.join(" or ")))
    }

    fn wrong_dtype(&self, tensor: usize, expected: &str) -> CheckpointError {
        CheckpointError::WrongDtype {
            file: self.file(tensor),
            tensor: self.name(tensor),
            expected: expected.to_owned(),
            found: self.info(tensor).dtype(),
        }
    }

    fn wrong_shape(&self, tensor: usize, expected: String) -> CheckpointError {
        let found = self.info(tensor).shape().to_vec();
        CheckpointError::WrongShape { file: self.file(tensor), tensor: self.name(tensor), expected, found }
    }

    pub fn unsupported(&self, tensor: usize, why: &'static str) -> CheckpointError {
        let found = format!("{:?} {:?}", self.info(tensor).dtype(), self.info(tensor).shape());
        CheckpointError::Unsupported { file: self.file(tensor), field: self.name(tensor), found, why }
    }

    pub fn unexpected(&self, tensor: usize, why: &str) -> CheckpointError {
        CheckpointError::Unexpected {
            file: self.file(tensor),
            tensor: self.name(tensor),
            why: why.to_owned(),
        }
    }

    fn ambiguous(&self, a: usize, b: usize) -> CheckpointError {
        CheckpointError::Ambiguous { file: self.file(a), tensor: self.name(a), other: self.name(b) }
    }

    fn missing(&self, tensor: String, why: &str) -> CheckpointError {
        CheckpointError::TensorMissing { dir: self.checkpoint.dir().to_owned(), tensor, why: why.to_owned() }
    }

    /// A companion of a weight is missing.
    fn missing_beside(&self, weight: usize, suffix: &str) -> CheckpointError {
        let name = self.name(weight);
        let tensor = match name.strip_suffix("weight_packed").or(name.strip_suffix("weight")) {
            Some(stem) => format!("{stem}{suffix}"),
            None => format!("{name}_{suffix}"),
        };
        self.missing(tensor, &format!("{name} needs it"))
    }

    fn global_name(&self, weight: usize) -> &'static str {
        if self.name(weight).ends_with("weight_packed") { "weight_global_scale" } else { "weight_scale_2" }
    }

    /// The first choice of a module's name, for messages.
    fn spell(&self, module: Module) -> String {
        use super::names::NameFamily::HuggingFace;
        let proj = |proj| match (self.tensors.family, proj) {
            (Some(HuggingFace), Proj::Gate) => "gate_proj",
            (Some(HuggingFace), Proj::Up) => "up_proj",
            (Some(HuggingFace), Proj::Down) => "down_proj",
            (Some(HuggingFace), Proj::GateUp) => "gate_up_proj",
            (_, Proj::Gate) => "w1",
            (_, Proj::Up) => "w3",
            (_, Proj::Down) => "w2",
            (_, Proj::GateUp) => "w13",
        };
        let block = &self.tensors.block;
        match module {
            Module::Expert(expert, p) => format!("{block}.experts.{expert}.{}", proj(p)),
            Module::Stacked(p) => format!("{block}.experts.{}", proj(p)),
            Module::Shared(p) => format!("{block}.shared_experts.{}", proj(p)),
            Module::Router | Module::SharedGate => format!("{block}.gate"),
        }
    }
}
