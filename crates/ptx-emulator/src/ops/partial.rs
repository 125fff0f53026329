//! Poison nibble by nibble, through the instructions that move bits about.
//!
//! Compilers put values of four, eight and sixteen bits together into a 32-bit register, leave what they do not need
//! unwritten, and take the others out again: a register that is partly poisoned is not a fault. Permutations, bitwise
//! logic, shifts and unsigned integer conversions therefore say which nibbles of their result are poisoned; every other
//! instruction poisons all of it.

use crate::check::Origin;
use crate::decode::{Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::program::Reg;

/// An instruction, and which nibbles of its result are poisoned: from those of its sources, and their values.
struct Partial<const N: usize, F> {
    op: Op,
    dst: Reg,
    sources: [Src; N],
    rule: F,
}

impl<const N: usize, F: Fn([u8; N], [u64; N]) -> u8 + Send + Sync> Partial<N, F> {
    #[cold]
    fn execute_poisoned(&self, ctx: &mut Ctx<'_>, dirty: u32) -> Flow {
        // The destination may be a source: all is read before anything is written.
        let found: [Origin; LANES] = std::array::from_fn(|lane| {
            if dirty >> lane & 1 == 0 {
                return Origin::CLEAN;
            }
            let origins = self.sources.map(|s| ctx.partial_origin(s, lane));
            let poisoned = (self.rule)(origins.map(Origin::poisoned), self.sources.map(|s| ctx.get(s, lane)));
            ctx.origin_of(&self.sources, lane).of_nibbles(poisoned)
        });
        let mask = ctx.mask & dirty;
        let flow = self.op.execute(ctx);
        for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            let value = ctx.warp.get(self.dst, lane);
            ctx.warp.set(self.dst, lane, value, found[lane]);
        }
        flow
    }
}

impl<const N: usize, F: Fn([u8; N], [u64; N]) -> u8 + Send + Sync> Execute for Partial<N, F> {
    #[inline]
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        match ctx.dirty_lanes(&self.sources) {
            0 => self.op.execute(ctx),
            dirty => self.execute_poisoned(ctx, dirty),
        }
    }
}

/// `op`, which computes `dst` from `sources`, with a rule for poison.
pub(super) fn partial<const N: usize>(
    op: Result<Op>,
    dst: Reg,
    sources: [Src; N],
    rule: impl Fn([u8; N], [u64; N]) -> u8 + Send + Sync + 'static,
) -> Result<Op> {
    Ok(Box::new(Partial { op: op?, dst, sources, rule }))
}

/// Bitwise instructions: a nibble of the result is poisoned by the same nibble of any source.
pub(super) fn bitwise<const N: usize>(op: Result<Op>, dst: Reg, sources: [Src; N]) -> Result<Op> {
    partial(op, dst, sources, |poisoned, _| poisoned.into_iter().fold(0, |a, b| a | b))
}

/// `and`: a zero nibble of a source that is not poisoned gives zero.
pub(super) fn and(op: Result<Op>, dst: Reg, sources: [Src; 2]) -> Result<Op> {
    partial(op, dst, sources, |[p, q], [a, b]| (p | q) & (nibbles(a) | p) & (nibbles(b) | q))
}

/// All bits of the nibbles of a set.
fn bits(set: u8) -> u64 {
    (0..8).fold(0, |m, i| if set >> i & 1 == 1 { m | 0xf << (4 * i) } else { m })
}

/// The nibbles that are not zero.
fn nibbles(value: u64) -> u8 {
    (0..8).fold(0, |m, i| m | u8::from(value >> (4 * i) & 0xf != 0) << i)
}

/// Shifts of values of at most 32 bits: `shift` moves the poisoned bits as it moves values.
pub(super) fn shift(
    op: Result<Op>,
    dst: Reg,
    sources: [Src; 2],
    shift: impl Fn(u64, u64) -> u64 + Send + Sync + 'static,
) -> Result<Op> {
    partial(op, dst, sources, move |[p, q], [_, n]| if q != 0 { 0xff } else { nibbles(shift(bits(p), n)) })
}

/// `prmt`; `selector` makes the selector of the value of the last source.
pub(super) fn permute(
    op: Result<Op>,
    dst: Reg,
    sources: [Src; 3],
    selector: impl Fn(u64) -> u64 + Send + Sync + 'static,
) -> Result<Op> {
    partial(op, dst, sources, move |[p, q, r], [_, _, c]| {
        let (pair, selector) = (bits(q) << 32 | bits(p), selector(c));
        let picked = (0..4).fold(0u64, |m, i| {
            let nibble = selector >> (4 * i) & 0xf;
            let byte = pair >> (8 * (nibble & 7)) & 0xff;
            // A replicated sign is one bit of the upper nibble.
            let byte = match nibble & 8 {
                0 => byte,
                _ if byte & 0x80 != 0 => 0xff,
                _ => 0,
            };
            m | byte << (8 * i)
        });
        if r != 0 { 0xff } else { nibbles(picked) }
    })
}

/// Unsigned integer conversions to or from `bytes` bytes, whichever are fewer: these are kept, and zeros fill up.
pub(super) fn extend(op: Result<Op>, dst: Reg, source: Src, bytes: u32) -> Result<Op> {
    partial(op, dst, [source], move |[p], _| p & low(bytes))
}

/// The nibbles of that many bytes, at most four.
pub(super) fn low(bytes: u32) -> u8 {
    ((1u32 << (2 * bytes.min(4))) - 1) as u8
}
