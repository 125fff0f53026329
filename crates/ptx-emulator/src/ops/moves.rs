//! `mov` in its scalar form (PTX ISA 9.7.9.1).

use super::{Entry, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("mov", decode_mov)];

struct Mov {
    ty: Ty,
    dst: Reg,
    src: Src,
}

impl Execute for Mov {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map(self.dst, [self.src], |[a]| self.ty.truncate(a));
        Flow::Next
    }
}

/// `mov.type d, a`.
fn decode_mov(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = d.ty()?;
    let (dst, src) = (d.reg(0)?, d.src(1, ty)?);
    d.finish(2)?;
    Ok(Box::new(Mov { ty, dst, src }))
}
