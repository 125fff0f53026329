//! `ldmatrix`, `stmatrix`, `movmatrix` for 8x8 matrices of 16-bit elements (PTX ISA 9.7.14.5.15 - 17).

use super::hooks::{self, Kind};
use super::{Entry, root, traffic};
use crate::check::Class;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow, LANES, Location};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("ldmatrix", decode_ldmatrix),
    root("stmatrix", decode_stmatrix),
    root("movmatrix", decode_movmatrix),
];

/// Row and column of half `half` of lane `lane`'s register.
fn position(lane: usize, half: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, 2 * (lane % 4) + half);
    if transposed { (column, row) } else { (row, column) }
}

struct LdMatrix {
    dst: Vec<Reg>,
    addr: Addr,
    space: AddressSpace,
    transposed: bool,
}

struct StMatrix {
    src: Vec<Src>,
    addr: Addr,
    space: AddressSpace,
    transposed: bool,
}

/// Resolves the row addresses, lane `8 j + i` holds that of row `i` of matrix `j`, and tells the checkers.
fn rows(
    ctx: &mut Ctx<'_>,
    space: AddressSpace,
    addr: Addr,
    matrices: usize,
    kind: Kind,
) -> Option<Vec<Location>> {
    let mut locations = Vec::with_capacity(matrices * 8);
    for lane in 0..matrices * 8 {
        let location = ctx.locate(space, addr, lane)?;
        match location {
            Location::Shared(_, offset) if offset % 16 == 0 => {
                hooks::thread_access(ctx, lane, location, 16, kind);
                locations.push(location);
            }
            Location::Shared(_, offset) => {
                ctx.finding(
                    Class::Misaligned,
                    lane,
                    format!("row address {offset:#x} is not 16-byte aligned"),
                    None,
                );
                return None;
            }
            _ => {
                ctx.finding(Class::OutOfBounds, lane, "row address is not in shared memory".to_owned(), None);
                return None;
            }
        }
    }
    let offsets: Vec<u32> = locations
        .iter()
        .filter_map(|l| if let Location::Shared(_, offset) = l { Some(*offset) } else { None })
        .collect();
    traffic::matrices(ctx, kind.into(), &offsets);
    Some(locations)
}

impl Execute for LdMatrix {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some(locations) = rows(ctx, self.space, self.addr, self.dst.len(), Kind::Read) else {
            return Flow::Abort;
        };
        for (j, &dst) in self.dst.iter().enumerate() {
            let mut matrix = [[0u8; 16]; 8];
            let mut origin = crate::check::Origin::CLEAN;
            for (i, row) in matrix.iter_mut().enumerate() {
                let lane = j * 8 + i;
                let Some(init) = ctx.read(locations[lane], lane, row) else { return Flow::Abort };
                if !init {
                    origin = crate::check::Origin::new(crate::check::OriginKind::Shared, ctx.pc);
                }
            }
            for lane in 0..LANES {
                let half = |h: usize| {
                    let (r, c) = position(lane, h, self.transposed);
                    u64::from(u16::from_le_bytes([matrix[r][2 * c], matrix[r][2 * c + 1]]))
                };
                ctx.set(dst, lane, half(0) | half(1) << 16, origin);
            }
        }
        Flow::Next
    }
}

impl Execute for StMatrix {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some(locations) = rows(ctx, self.space, self.addr, self.src.len(), Kind::Write) else {
            return Flow::Abort;
        };
        for (j, &src) in self.src.iter().enumerate() {
            let mut matrix = [[0u8; 16]; 8];
            let mut init = [true; 8];
            for lane in 0..LANES {
                let value = ctx.get(src, lane) as u32;
                let clean = ctx.origin(src, lane).is_clean();
                for half in 0..2 {
                    let (r, c) = position(lane, half, self.transposed);
                    matrix[r][2 * c..2 * c + 2]
                        .copy_from_slice(&((value >> (16 * half)) as u16).to_le_bytes());
                    init[r] &= clean;
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

struct MovMatrix {
    dst: Reg,
    src: Src,
}

impl Execute for MovMatrix {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let values = ctx.row(self.src);
        let origins: [_; LANES] = std::array::from_fn(|lane| ctx.origin(self.src, lane));
        for lane in 0..LANES {
            let (mut value, mut origin) = (0u64, crate::check::Origin::CLEAN);
            for half in 0..2 {
                let (row, column) = position(lane, half, true);
                let from = row * 4 + column / 2;
                value |= (values[from] >> (16 * (column % 2)) & 0xffff) << (16 * half);
                origin = origin.or(origins[from]);
            }
            ctx.set(self.dst, lane, value, origin);
        }
        Flow::Next
    }
}

/// Common modifiers: `.sync.aligned.m8n8.xN{.trans}{.shared{::cta}}.b16`. Returns N, `.trans`, the space.
fn modifiers(d: &mut Decoder<'_>) -> Result<(usize, bool, AddressSpace)> {
    for needed in ["sync", "aligned", "m8n8", "b16"] {
        if !d.take(needed) {
            return d.error(format!("only the form with .{needed} is modelled"));
        }
    }
    let n = d.need_one("a count", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transposed = d.take("trans");
    let space = d
        .take_one(&[("shared", AddressSpace::SharedCta), ("shared::cta", AddressSpace::SharedCta)])
        .unwrap_or(AddressSpace::Generic);
    Ok((n, transposed, space))
}

/// `ldmatrix.sync.aligned.m8n8.xN{.trans}.shared.b16 {r..}, [a]`.
fn decode_ldmatrix(d: &mut Decoder<'_>) -> Result<Op> {
    let (n, transposed, space) = modifiers(d)?;
    let (dst, addr) = (d.regs(0)?, d.addr(1)?);
    if dst.len() != n {
        return d.error(format!("expected {n} destination registers"));
    }
    d.finish(2)?;
    Ok(Box::new(LdMatrix { dst, addr, space, transposed }))
}

/// `stmatrix.sync.aligned.m8n8.xN{.trans}.shared.b16 [a], {r..}`.
fn decode_stmatrix(d: &mut Decoder<'_>) -> Result<Op> {
    let (n, transposed, space) = modifiers(d)?;
    let (addr, src) = (d.addr(0)?, d.srcs(1, Ty::B32)?);
    if src.len() != n {
        return d.error(format!("expected {n} source registers"));
    }
    d.finish(2)?;
    Ok(Box::new(StMatrix { src, addr, space, transposed }))
}

/// `movmatrix.sync.aligned.m8n8.trans.b16 d, a`.
fn decode_movmatrix(d: &mut Decoder<'_>) -> Result<Op> {
    for needed in ["sync", "aligned", "m8n8", "trans", "b16"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    let (dst, src) = (d.reg(0)?, d.src(1, Ty::B32)?);
    d.finish(2)?;
    Ok(Box::new(MovMatrix { dst, src }))
}
