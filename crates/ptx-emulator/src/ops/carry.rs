//! Extended-precision arithmetic with the carry flag (PTX ISA 9.7.2): add.cc, addc, sub.cc, subc, mad.cc, madc.

use super::integer::high_product;
use super::{Entry, form, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("add", &["cc"], decode_add_sub),
    form("sub", &["cc"], decode_add_sub),
    root("addc", decode_add_sub),
    root("subc", decode_add_sub),
    form("mad", &["cc"], decode_mad),
    root("madc", decode_mad),
];

/// `x + y` or `x - y` with carry, where for `mad` x is a part of a product.
struct Carry {
    ty: Ty,
    dst: Reg,
    sources: Vec<Src>,
    subtract: bool,
    /// Uses the flag.
    reads: bool,
    /// Sets the flag.
    writes: bool,
    /// `mad`: `Some(high)`.
    product: Option<bool>,
}

impl Carry {
    /// Value and carry out.
    fn compute(&self, args: &[u64; 3], carry: bool) -> (u64, bool) {
        let (x, y) = match self.product {
            Some(true) => (high_product(self.ty, args[0], args[1]), args[2]),
            Some(false) => (self.ty.truncate(args[0].wrapping_mul(args[1])), args[2]),
            None => (args[0], args[1]),
        };
        let (x, y, c) = (u128::from(x), u128::from(y), u128::from(carry && self.reads));
        // The flag of a subtraction is the borrow.
        let wide = if self.subtract { x.wrapping_sub(y).wrapping_sub(c) } else { x + y + c };
        (self.ty.truncate(wide as u64), wide >> self.ty.bits() & 1 == 1)
    }
}

impl Execute for Carry {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let rows: Vec<[u64; LANES]> = self.sources.iter().map(|&s| ctx.row(s)).collect();
        let mut out = [0; LANES];
        for lane in ctx.lanes() {
            let arg = |i: usize| rows.get(i).map_or(0, |r: &[u64; LANES]| r[lane]);
            let (value, carry) = self.compute(&[arg(0), arg(1), arg(2)], ctx.warp.carry >> lane & 1 == 1);
            out[lane] = value;
            if self.writes {
                ctx.warp.carry = ctx.warp.carry & !(1 << lane) | u32::from(carry) << lane;
            }
        }
        ctx.write_row(self.dst, &self.sources, &out);
        Flow::Next
    }
}

fn carry_type(d: &mut Decoder<'_>, writes: bool) -> Result<Ty> {
    let ty = d.ty()?;
    match ty {
        Ty::U16 | Ty::S16 if !writes => Ok(ty),
        Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 => Ok(ty),
        _ => d.error(format!("has no type {ty:?}")),
    }
}

/// `add.cc.type`, `addc{.cc}.type`, `sub.cc.type`, `subc{.cc}.type`.
fn decode_add_sub(d: &mut Decoder<'_>) -> Result<Op> {
    let reads = d.mnemonic().ends_with('c');
    let subtract = d.mnemonic().starts_with("sub");
    let writes = d.take("cc");
    let ty = carry_type(d, writes)?;
    let sources = vec![d.value(1, ty)?, d.value(2, ty)?];
    let dst = d.dst(0, ty)?;
    d.finish(3)?;
    Ok(Box::new(Carry { ty, dst, sources, subtract, reads, writes, product: None }))
}

/// `mad{.hi,.lo}.cc.type`, `madc{.hi,.lo}{.cc}.type`.
fn decode_mad(d: &mut Decoder<'_>) -> Result<Op> {
    let reads = d.mnemonic() == "madc";
    let writes = d.take("cc");
    let high = d.need_one("`.lo` or `.hi`", &[("lo", false), ("hi", true)])?;
    let ty = carry_type(d, writes)?;
    let sources = vec![d.value(1, ty)?, d.value(2, ty)?, d.value(3, ty)?];
    let dst = d.dst(0, ty)?;
    d.finish(4)?;
    Ok(Box::new(Carry { ty, dst, sources, subtract: false, reads, writes, product: Some(high) }))
}
