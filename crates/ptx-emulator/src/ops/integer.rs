//! Integer arithmetic (PTX ISA 9.7.1).

use super::{Entry, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("add", decode_arithmetic), root("sub", decode_arithmetic)];

struct Binary {
    ty: Ty,
    dst: Reg,
    sources: [Src; 2],
    f: fn(u64, u64) -> u64,
}

impl Execute for Binary {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map(self.dst, self.sources, |[a, b]| self.ty.truncate((self.f)(a, b)));
        Flow::Next
    }
}

/// `add.type d, a, b`, `sub.type d, a, b`.
fn decode_arithmetic(d: &mut Decoder<'_>) -> Result<Op> {
    let f = match d.mnemonic() {
        "add" => u64::wrapping_add,
        _ => u64::wrapping_sub,
    };
    let ty = d.ty()?;
    let (dst, sources) = (d.reg(0)?, [d.src(1, ty)?, d.src(2, ty)?]);
    d.finish(3)?;
    Ok(Box::new(Binary { ty, dst, sources, f }))
}
