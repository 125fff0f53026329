//! `ldmatrix` of 16x16 and 8x16 matrices of 8-bit elements, also unpacked from 4 and 6 bits, and `stmatrix` of 16x8
//! ones (PTX ISA 9.7.14.5.15, 9.7.14.5.16). The ISA shows the fragments in figures only; they are as in CUTLASS's
//! copy traits, and an unpacked element is in the low bits of its byte.

use super::hooks::Kind;
use super::matrix::rows;
use crate::check::{Origin, OriginKind};
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow, LANES};
use crate::program::Reg;
use crate::types::Ty;

/// Rows of the matrix in memory, and where an element comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// 16 rows, transposed; two registers.
    M16n16,
    /// 8 rows; one register.
    M8n16,
}

impl Shape {
    /// Rows and registers of a matrix.
    fn size(self) -> (usize, usize) {
        match self {
            Shape::M16n16 => (16, 2),
            Shape::M8n16 => (8, 1),
        }
    }

    /// Row and byte in memory of byte `b` of register `r` of a lane.
    fn element(self, lane: usize, r: usize, b: usize) -> (usize, usize) {
        match self {
            Shape::M16n16 => (4 * (lane % 4) + 2 * r + b % 2, lane / 4 + b / 2 * 8),
            Shape::M8n16 => (lane / 4, 4 * (lane % 4) + b),
        }
    }
}

struct Load {
    dst: Vec<Reg>,
    addr: Addr,
    space: AddressSpace,
    shape: Shape,
    /// Bits of an element in memory: 8, or 6 or 4 packed with padding behind each 16.
    bits: usize,
}

impl Execute for Load {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (height, registers) = self.shape.size();
        let matrices = self.dst.len() / registers;
        let Some(locations) = rows(ctx, self.space, self.addr, matrices * height, Kind::Read) else {
            return Flow::Abort;
        };
        let data = 2 * self.bits;
        for (j, dst) in self.dst.chunks_exact(registers).enumerate() {
            let mut matrix = [[0u8; 16]; 16];
            let mut origin = Origin::CLEAN;
            for (i, row) in matrix[..height].iter_mut().enumerate() {
                let lane = j * height + i;
                let mut bytes = [0; 16];
                let Some(init) = ctx.read(locations[lane], lane, &mut bytes[..data]) else {
                    return Flow::Abort;
                };
                if !init {
                    origin = Origin::new(OriginKind::Shared, ctx.pc);
                }
                let word = u128::from_le_bytes(bytes);
                *row = std::array::from_fn(|k| (word >> (self.bits * k)) as u8 & (0xff >> (8 - self.bits)));
            }
            for (r, &dst) in dst.iter().enumerate() {
                for lane in 0..LANES {
                    let byte = |b: usize| {
                        let (row, column) = self.shape.element(lane, r, b);
                        matrix[row][column]
                    };
                    let value = u32::from_le_bytes(std::array::from_fn(byte));
                    ctx.set(dst, lane, u64::from(value), origin);
                }
            }
        }
        Flow::Next
    }
}

struct Store {
    src: Vec<Src>,
    addr: Addr,
    space: AddressSpace,
}

impl Execute for Store {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some(locations) = rows(ctx, self.space, self.addr, 8 * self.src.len(), Kind::Write) else {
            return Flow::Abort;
        };
        for (j, &src) in self.src.iter().enumerate() {
            let (mut matrix, mut init) = ([[0u8; 16]; 8], [true; 8]);
            for lane in 0..LANES {
                let clean = ctx.origin(src, lane).is_clean();
                for (b, byte) in (ctx.get(src, lane) as u32).to_le_bytes().into_iter().enumerate() {
                    // Rows l / 4 and 8 below, columns 2 (l % 4) and the next; a column lies along memory.
                    let row = 2 * (lane % 4) + b % 2;
                    matrix[row][lane / 4 + b / 2 * 8] = byte;
                    init[row] &= clean;
                }
            }
            for (i, row) in matrix.iter().enumerate() {
                let lane = j * 8 + i;
                if ctx.write(locations[lane], lane, row, init[i]).is_none() {
                    return Flow::Abort;
                }
            }
        }
        Flow::Next
    }
}

/// `.sync.aligned ... .xN ... {.shared{::cta}}`: N and the space.
fn common(d: &mut Decoder<'_>) -> Result<(usize, AddressSpace)> {
    for needed in ["sync", "aligned"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    let n = d.need_one("a count", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let space = d
        .take_one(&[("shared", AddressSpace::SharedCta), ("shared::cta", AddressSpace::SharedCta)])
        .unwrap_or(AddressSpace::Generic);
    Ok((n, space))
}

/// `ldmatrix.sync.aligned.m16n16.xN.trans{.shared}.b8 r, [p]`, `.b8x16.b6x16_p32`, `.b8x16.b4x16_p64`; of m8n16 the
/// latter two, without `.trans`.
pub(super) fn decode_ldmatrix(d: &mut Decoder<'_>) -> Result<Op> {
    let (n, space) = common(d)?;
    let shape = d.need_one("a shape", &[("m16n16", Shape::M16n16), ("m8n16", Shape::M8n16)])?;
    let bits = if d.take("b8x16") {
        d.need_one("a source format", &[("b6x16_p32", 6), ("b4x16_p64", 4)])?
    } else if d.take("b8") {
        8
    } else {
        return d.error("needs .b8 or .b8x16 and a source format");
    };
    if (d.take("trans"), n == 4) != (shape == Shape::M16n16, n == 4 && shape == Shape::M8n16)
        || (bits == 8 && shape == Shape::M8n16)
    {
        return d.error("m16n16 is .trans, .x1 or .x2; m8n16 is of packed elements");
    }
    let (dst, addr) = (d.regs(0)?, d.addr(1)?);
    if dst.len() != n * shape.size().1 {
        return d.error(format!("expected {} destination registers", n * shape.size().1));
    }
    d.finish(2)?;
    Ok(Box::new(Load { dst, addr, space, shape, bits }))
}

/// `stmatrix.sync.aligned.m16n8.xN.trans{.shared}.b8 [p], r`.
pub(super) fn decode_stmatrix(d: &mut Decoder<'_>) -> Result<Op> {
    let (n, space) = common(d)?;
    for needed in ["m16n8", "trans", "b8"] {
        if !d.take(needed) {
            return d.error(format!("m16n8 needs .{needed}"));
        }
    }
    let (addr, src) = (d.addr(0)?, d.srcs(1, Ty::B32)?);
    if src.len() != n {
        return d.error(format!("expected {n} source registers"));
    }
    d.finish(2)?;
    Ok(Box::new(Store { src, addr, space }))
}
