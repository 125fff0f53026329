//! From syntax to executable instructions: modifiers and operands, strictly.
//!
//! Every family of instructions has a file in [`crate::ops`] with a table of mnemonics and decode functions.
//! A decode function takes the modifiers it knows out of a [`Decoder`] and reads the operands; what it leaves
//! behind is an error that names line and text. Nothing is ever silently ignored.

use crate::machine::{Ctx, Flow};
use crate::program::Reg;
use crate::syntax::ast::{Instruction, Operand};
use crate::types::Ty;

/// What an instruction does when a warp executes it.
pub trait Execute: Send + Sync {
    /// Executes for the lanes of `ctx.mask` (guard already applied; may be empty only for instructions that
    /// ask for it by [`Execute::runs_without_lanes`]).
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow;

    /// Whether all non-exited lanes of the warp must execute it together (`.aligned`).
    fn is_aligned(&self) -> bool {
        false
    }

    /// Whether the instruction must see executions in which no lane's guard holds.
    fn runs_without_lanes(&self) -> bool {
        false
    }
}

/// An instruction that is not modelled, or not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: `{text}`: {why}")]
pub struct DecodeError {
    /// Source line.
    pub line: u32,
    /// The instruction.
    pub text: String,
    /// What is unknown or wrong.
    pub why: String,
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, DecodeError>;

/// A decoded instruction.
pub type Op = Box<dyn Execute>;

/// A decode function.
pub type DecodeFn = fn(&mut Decoder<'_>) -> Result<Op>;

/// A value source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// A constant.
    Imm(u64),
    /// A special register.
    Special(Special),
    /// The 32-bit shared address of a static or dynamic shared symbol: `(cta rank << 24) | offset`.
    Shared(u32),
    /// The dynamic shared array, whose offset is known at launch, plus a constant.
    DynamicShared(u32),
    /// Offset of a parameter in parameter space.
    Param(u32),
    /// Offset of a variable in local space.
    Local(u32),
    /// Address of module variable number `.0`, plus `.1` bytes; resolved when the module is loaded on a device.
    Global(u32, i64),
}

/// Special registers (PTX ISA chapter 10).
#[allow(missing_docs)] // The names are PTX's own; the number is the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicSmemSize,
    TotalSmemSize,
    AggrSmemSize,
}

impl Special {
    /// The special register of that name, with its component.
    pub fn parse(name: &str) -> Option<Self> {
        let (base, component) = match name.split_once('.') {
            Some((base, "x")) => (base, Some(0)),
            Some((base, "y")) => (base, Some(1)),
            Some((base, "z")) => (base, Some(2)),
            Some(_) => return None,
            None => (name, None),
        };
        Some(match (base, component) {
            ("%tid", Some(c)) => Special::Tid(c),
            ("%ntid", Some(c)) => Special::Ntid(c),
            ("%ctaid", Some(c)) => Special::Ctaid(c),
            ("%nctaid", Some(c)) => Special::Nctaid(c),
            ("%clusterid", Some(c)) => Special::ClusterId(c),
            ("%nclusterid", Some(c)) => Special::NclusterId(c),
            ("%cluster_ctaid", Some(c)) => Special::ClusterCtaid(c),
            ("%cluster_nctaid", Some(c)) => Special::ClusterNctaid(c),
            ("%cluster_ctarank", None) => Special::ClusterCtarank,
            ("%cluster_nctarank", None) => Special::ClusterNctarank,
            ("%is_explicit_cluster", None) => Special::IsExplicitCluster,
            ("%laneid", None) => Special::LaneId,
            ("%warpid", None) => Special::WarpId,
            ("%nwarpid", None) => Special::NwarpId,
            ("%smid", None) => Special::SmId,
            ("%nsmid", None) => Special::NsmId,
            ("%gridid", None) => Special::GridId,
            ("%lanemask_eq", None) => Special::LanemaskEq,
            ("%lanemask_le", None) => Special::LanemaskLe,
            ("%lanemask_lt", None) => Special::LanemaskLt,
            ("%lanemask_ge", None) => Special::LanemaskGe,
            ("%lanemask_gt", None) => Special::LanemaskGt,
            ("%clock", None) => Special::Clock,
            ("%clock64", None) => Special::Clock64,
            ("%globaltimer", None) => Special::GlobalTimer,
            ("%globaltimer_lo", None) => Special::GlobalTimerLo,
            ("%globaltimer_hi", None) => Special::GlobalTimerHi,
            ("%dynamic_smem_size", None) => Special::DynamicSmemSize,
            ("%total_smem_size", None) => Special::TotalSmemSize,
            ("%aggr_smem_size", None) => Special::AggrSmemSize,
            _ => return None,
        })
    }
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Addr {
    /// Base.
    pub base: Src,
    /// Byte offset.
    pub offset: i64,
}

/// How names are resolved; implemented by the linker.
pub trait Names {
    /// A register.
    fn register(&self, name: &str) -> Option<(Reg, Ty)>;
    /// A variable's address.
    fn symbol(&self, name: &str) -> Option<Src>;
    /// The code index of a label in scope.
    fn label(&self, name: &str) -> Option<u32>;
    /// The labels of a `.branchtargets` in scope.
    fn branch_targets(&self, name: &str) -> Option<&[String]>;
}

/// One instruction being decoded.
pub struct Decoder<'a> {
    instruction: &'a Instruction,
    names: &'a dyn Names,
    /// Modifiers not taken yet, in order.
    modifiers: Vec<&'a str>,
}

impl<'a> Decoder<'a> {
    /// Starts decoding.
    pub fn new(instruction: &'a Instruction, names: &'a dyn Names) -> Self {
        let modifiers = instruction.opcode[1..].iter().map(String::as_str).collect();
        Self { instruction, names, modifiers }
    }

    /// An error at this instruction.
    pub fn error<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(DecodeError { line: self.instruction.line, text: self.instruction.to_string(), why: why.into() })
    }

    /// Takes a modifier if it is there, anywhere.
    pub fn take(&mut self, name: &str) -> bool {
        let at = self.modifiers.iter().position(|m| *m == name);
        at.map(|i| self.modifiers.remove(i)).is_some()
    }

    /// Takes the first modifier out of `table` that is there.
    pub fn take_one<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(name, _)| self.take(name)).map(|&(_, value)| value)
    }

    /// As [`Self::take_one`], but one of the table is mandatory.
    pub fn need_one<T: Copy>(&mut self, what: &str, table: &[(&str, T)]) -> Result<T> {
        match self.take_one(table) {
            Some(value) => Ok(value),
            None => self.error(format!("needs {what}")),
        }
    }

    /// Takes the *last* modifier that is a type: the operand type of most instructions.
    pub fn ty(&mut self) -> Result<Ty> {
        let at = self.modifiers.iter().rposition(|m| Ty::parse(m).is_some());
        match at.and_then(|i| Ty::parse(self.modifiers.remove(i))) {
            Some(ty) => Ok(ty),
            None => self.error("needs a type"),
        }
    }

    /// The modifiers not taken yet, in order.
    pub fn rest(&self) -> &[&'a str] {
        &self.modifiers
    }

    /// Takes the first modifier for which `f` gives a value.
    pub fn take_map<T>(&mut self, mut f: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self.modifiers.iter().enumerate().find_map(|(i, m)| f(m).map(|v| (i, v)))?;
        self.modifiers.remove(at);
        Some(value)
    }

    /// Errors if a modifier is left, or the number of operands is not `operands`.
    pub fn finish(&self, operands: usize) -> Result<()> {
        if let Some(left) = self.modifiers.first() {
            return self.error(format!("modifier `.{left}` is not modelled here"));
        }
        let got = self.operand_count();
        if got != operands {
            return self.error(format!("expected {operands} operands, got {got}"));
        }
        Ok(())
    }

    /// Mnemonic without modifiers.
    pub fn mnemonic(&self) -> &'a str {
        &self.instruction.opcode[0]
    }

    /// Source line.
    pub fn line(&self) -> u32 {
        self.instruction.line
    }

    /// Number of operands.
    pub fn operand_count(&self) -> usize {
        self.instruction.operands.len()
    }

    /// Operand `i` as written.
    pub fn operand(&self, i: usize) -> Result<&'a Operand> {
        match self.instruction.operands.get(i) {
            Some(o) => Ok(o),
            None => self.error(format!("operand {i} is missing")),
        }
    }

    /// Operand `i` as a destination register; `None` for `_`.
    pub fn dst_or_sink(&self, i: usize) -> Result<Option<Reg>> {
        match self.operand(i)? {
            Operand::Sink => Ok(None),
            other => self.reg_of(other).map(Some),
        }
    }

    /// Operand `i` as a register.
    pub fn reg(&self, i: usize) -> Result<Reg> {
        self.reg_of(self.operand(i)?)
    }

    /// A register operand.
    pub fn reg_of(&self, operand: &Operand) -> Result<Reg> {
        match operand {
            Operand::Name(name) => match self.names.register(name) {
                Some((reg, _)) => Ok(reg),
                None => self.error(format!("`{name}` is not a register")),
            },
            other => self.error(format!("`{other}` is not a register")),
        }
    }

    /// Declared type of a register operand.
    pub fn reg_ty(&self, operand: &Operand) -> Option<Ty> {
        match operand {
            Operand::Name(name) => self.names.register(name).map(|(_, ty)| ty),
            _ => None,
        }
    }

    /// Operand `i` as a source; floating-point constants become bits of type `ty`.
    pub fn src(&self, i: usize, ty: Ty) -> Result<Src> {
        self.src_of(self.operand(i)?, ty)
    }

    /// A source operand.
    pub fn src_of(&self, operand: &Operand, ty: Ty) -> Result<Src> {
        match operand {
            Operand::Name(name) => {
                if let Some((reg, _)) = self.names.register(name) {
                    return Ok(Src::Reg(reg));
                }
                if let Some(special) = Special::parse(name) {
                    return Ok(Src::Special(special));
                }
                match self.names.symbol(name) {
                    Some(src) => Ok(src),
                    None => match name.as_str() {
                        "WARP_SZ" => Ok(Src::Imm(32)),
                        _ => self.error(format!("`{name}` is not declared")),
                    },
                }
            }
            &Operand::Int(v) => Ok(Src::Imm(match ty {
                // An integer constant where a float is expected is converted, as ptxas does.
                Ty::F32 => u64::from((v as f32).to_bits()),
                Ty::F64 => (v as f64).to_bits(),
                _ => ty.truncate(v as u64),
            })),
            Operand::F32(_) | Operand::F64(_) if ty.bits() < 32 => {
                self.error(format!("`{operand}` is wider than {ty:?}"))
            }
            &Operand::F32(bits) => Ok(Src::Imm(match ty {
                Ty::F64 => f64::from(f32::from_bits(bits)).to_bits(),
                _ => u64::from(bits),
            })),
            &Operand::F64(bits) => Ok(Src::Imm(match ty {
                Ty::F32 => u64::from((f64::from_bits(bits) as f32).to_bits()),
                _ => bits,
            })),
            other => self.error(format!("`{other}` is not a value")),
        }
    }

    /// The type that [`Self::ty`] would take.
    pub fn peek_ty(&self) -> Option<Ty> {
        self.modifiers.iter().rev().find_map(|m| Ty::parse(m))
    }

    /// A register operand with its declared type.
    pub fn typed_reg_of(&self, operand: &Operand) -> Result<(Reg, Ty)> {
        match operand {
            Operand::Name(name) => match self.names.register(name) {
                Some(found) => Ok(found),
                None => self.error(format!("`{name}` is not a register")),
            },
            other => self.error(format!("`{other}` is not a register")),
        }
    }

    /// Operand `i` as a destination register as wide as `ty`.
    pub fn dst(&self, i: usize, ty: Ty) -> Result<Reg> {
        self.dst_of(self.operand(i)?, ty)
    }

    /// A destination register as wide as `ty`.
    pub fn dst_of(&self, operand: &Operand, ty: Ty) -> Result<Reg> {
        let (reg, declared) = self.typed_reg_of(operand)?;
        self.check_width(operand, declared, ty)?;
        Ok(reg)
    }

    /// Operand `i` as a source as wide as `ty`.
    pub fn value(&self, i: usize, ty: Ty) -> Result<Src> {
        self.value_of(self.operand(i)?, ty)
    }

    /// A source as wide as `ty`.
    pub fn value_of(&self, operand: &Operand, ty: Ty) -> Result<Src> {
        if let Operand::Name(name) = operand
            && let Some((_, declared)) = self.names.register(name)
        {
            self.check_width(operand, declared, ty)?;
        }
        self.src_of(operand, ty)
    }

    fn check_width(&self, operand: &Operand, declared: Ty, ty: Ty) -> Result<()> {
        if declared.bits() == ty.bits() {
            return Ok(());
        }
        self.error(format!("`{operand}` is declared {declared:?}, which is not as wide as {ty:?}"))
    }

    /// Operand `i` as an integer constant.
    pub fn imm(&self, i: usize) -> Result<i64> {
        match self.operand(i)? {
            &Operand::Int(v) => Ok(v as i64),
            other => self.error(format!("`{other}` is not an integer constant")),
        }
    }

    /// Operand `i` as a predicate source, possibly negated: `(source, negated)`.
    pub fn pred(&self, i: usize) -> Result<(Src, bool)> {
        match self.operand(i)? {
            Operand::Not(name) => Ok((Src::Reg(self.reg_of(&Operand::Name(name.clone()))?), true)),
            other => Ok((self.src_of(other, Ty::Pred)?, false)),
        }
    }

    /// Operand `i` as a memory operand without coordinates.
    pub fn addr(&self, i: usize) -> Result<Addr> {
        match self.operand(i)? {
            Operand::Address { base, offset, extra } if extra.is_empty() => {
                Ok(Addr { base: self.src_of(base, Ty::B64)?, offset: *offset })
            }
            other => self.error(format!("`{other}` is not an address")),
        }
    }

    /// Operand `i` as the list of a brace vector; a scalar is a list of one.
    pub fn vector(&self, i: usize) -> Result<Vec<&'a Operand>> {
        Ok(match self.operand(i)? {
            Operand::Vector(items) => items.iter().collect(),
            other => vec![other],
        })
    }

    /// Operand `i` as destination registers.
    pub fn regs(&self, i: usize) -> Result<Vec<Reg>> {
        self.vector(i)?.into_iter().map(|o| self.reg_of(o)).collect()
    }

    /// Operand `i` as sources.
    pub fn srcs(&self, i: usize, ty: Ty) -> Result<Vec<Src>> {
        self.vector(i)?.into_iter().map(|o| self.src_of(o, ty)).collect()
    }

    /// Operand `i` as a branch target: a code index.
    pub fn label(&self, i: usize) -> Result<u32> {
        match self.operand(i)? {
            Operand::Name(name) => self.label_of(name),
            other => self.error(format!("`{other}` is not a label")),
        }
    }

    fn label_of(&self, name: &str) -> Result<u32> {
        match self.names.label(name) {
            Some(target) => Ok(target),
            None => self.error(format!("label `{name}` is not in scope")),
        }
    }

    /// Operand `i` as the name of a `.branchtargets`: code indices.
    pub fn branch_targets(&self, i: usize) -> Result<Vec<u32>> {
        match self.operand(i)? {
            Operand::Name(name) => match self.names.branch_targets(name) {
                Some(labels) => labels.iter().map(|l| self.label_of(l)).collect(),
                None => self.error(format!("`{name}` is not the name of a .branchtargets")),
            },
            other => self.error(format!("`{other}` is not the name of a .branchtargets")),
        }
    }
}
