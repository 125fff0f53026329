//! `tcgen05.mma`: completion, arithmetic, placement of D (PTX ISA 9.7.16.10.5).

use super::products::{Operand, Products};
use super::{A, Pending};
use crate::check::Class;
use crate::counters::Counter;
use crate::machine::{AsyncCtx, AsyncOp};
use crate::numerics::element::Format;
use crate::ops::descriptor::{Extent, Generation, MatrixDescriptor};
use crate::ops::hooks::{self, Kind, Range};
use crate::ops::tcgen05::descriptor::MmaKind;

/// Bytes along K of one instruction: 32 for every dense kind.
pub(super) const K_BYTES: usize = 32;

/// A finding that stops the operation.
struct Fault(Class, String);

/// The scales of a row: one 32-bit cell of tensor memory.
pub(super) type Cell = [u8; 4];

type Result<T> = std::result::Result<T, Fault>;

impl Pending {
    /// Rows of A in each CTA.
    fn rows_a(&self) -> usize {
        self.idesc.m / self.group as usize
    }

    /// Operand rows from shared memory of one CTA: `[rows, 32]`.
    fn shared(
        &self,
        ctx: &mut AsyncCtx<'_>,
        cta: u32,
        bits: u64,
        rows: usize,
        (mn_major, format): (bool, Format),
    ) -> Result<Operand> {
        let mut data = Vec::new();
        let mut touched = Vec::new();
        let element = mn_major.then(|| self.kind.element_bytes());
        let shared = &ctx.cluster.ctas[cta as usize].shared;
        let extent = Extent { rows, k_bytes: K_BYTES, mn_major: element, data: self.kind.data_bytes(format) };
        let fault = |why: String| Fault(Class::Descriptor, why);
        let descriptor = MatrixDescriptor::decode(bits, Generation::Sm100).map_err(fault)?;
        // Table 54.
        if mn_major && descriptor.atom32 != (self.kind == MmaKind::Tf32) {
            let why =
                "MN-major operands have 128-byte swizzle with 32-byte atoms if they are tf32, and only then";
            return Err(fault(why.to_owned()));
        }
        let init = descriptor.fetch(shared, extent, &mut data, |o, n| touched.push((o, n))).map_err(fault)?;
        let total = touched.iter().map(|t| u64::from(t.1)).sum();
        ctx.cluster.counters.add(Counter::MmaSharedBytes, total);
        for (offset, bytes) in touched {
            hooks::async_access(
                ctx.env,
                ctx.cluster,
                self.race,
                Range::Shared { cta, offset, bytes },
                Kind::Read,
            );
        }
        if !init && ctx.env.checks.uninitialised {
            let message = "tcgen05.mma read uninitialised shared memory".to_owned();
            ctx.finding(Class::Uninitialised, self.place.clone(), message);
        }
        Ok(Operand { data, containers: false })
    }

    /// Rows of A from tensor memory, lower k in lower bits: row m on lane m; M = 64 as D's layout F; M = 128 of a
    /// pair of CTAs twice, on lanes m and m + 64, both of which must agree.
    fn tensor(&self, ctx: &mut AsyncCtx<'_>, cta: u32, at: u32, rows: usize) -> Result<Operand> {
        let (first, column) = ((at >> 16) as usize, (at & 0xffff) as usize);
        let spread = self.group == 1 && rows == 64;
        let twice = self.group == 2 && rows == 64;
        let range = Range::Tensor { cta, lane: 0, lanes: 128, column: at & 0xffff, columns: 8 };
        ctx.cluster.counters.add(Counter::MmaTensorBytes, rows as u64 * K_BYTES as u64);
        hooks::async_access(ctx.env, ctx.cluster, self.race, range, Kind::Read);
        let memory = ctx.cluster.state.tcgen05.memory(cta);
        let mut data = vec![0; rows * K_BYTES];
        let mut all_init = true;
        for row in 0..rows {
            let lane = if spread { row % 16 + row / 16 * 32 + first } else { row };
            for c in 0..8 {
                let (word, init) = memory.get(lane, column + c);
                data[row * K_BYTES + 4 * c..][..4].copy_from_slice(&word.to_le_bytes());
                all_init &= init;
                if twice {
                    let (copy, init) = memory.get(lane + 64, column + c);
                    all_init &= init;
                    if copy != word && init {
                        let why = format!(
                            "row {row} of operand A differs between lanes {lane} and {}: both need the same",
                            lane + 64
                        );
                        return Err(Fault(Class::Undefined, why));
                    }
                }
            }
        }
        if !all_init && ctx.env.checks.uninitialised {
            let message = "tcgen05.mma read uninitialised tensor memory (operand A)".to_owned();
            ctx.finding(Class::Uninitialised, self.place.clone(), message);
        }
        Ok(Operand { data, containers: true })
    }

    /// Scale cells of `rows` rows at `column`: the 32-bit cell of row r is on lane `r % 32 + 32 p` of column
    /// `column + r / 32`, for the partitions p in `copies` (all of which must agree).
    fn scales(
        &self,
        ctx: &mut AsyncCtx<'_>,
        cta: u32,
        column: u32,
        rows: usize,
        copies: std::ops::Range<usize>,
    ) -> Result<Vec<[u8; 4]>> {
        let columns = rows.div_ceil(32) as u32;
        ctx.cluster.counters.add(Counter::MmaTensorBytes, 4 * rows as u64);
        let range = Range::Tensor { cta, lane: 0, lanes: 128, column, columns };
        hooks::async_access(ctx.env, ctx.cluster, self.race, range, Kind::Read);
        let memory = ctx.cluster.state.tcgen05.memory(cta);
        let (mut cells, mut all_init) = (Vec::with_capacity(rows), true);
        for row in 0..rows {
            let at = column as usize + row / 32;
            let (cell, _) = memory.get(row % 32 + 32 * copies.start, at);
            for p in copies.clone() {
                let (copy, init) = memory.get(row % 32 + 32 * p, at);
                all_init &= init;
                if copy != cell && init {
                    let why = format!(
                        "scale cell of row {row} (column {at}) is {cell:#010x} in partition {} and {copy:#010x} in \
                         partition {p}: every partition needs the same copy",
                        copies.start
                    );
                    return Err(Fault(Class::Undefined, why));
                }
            }
            cells.push(cell.to_le_bytes());
        }
        if !all_init && ctx.env.checks.uninitialised {
            let message = "tcgen05.mma read uninitialised scales in tensor memory".to_owned();
            ctx.finding(Class::Uninitialised, self.place.clone(), message);
        }
        Ok(cells)
    }

    fn run(&self, ctx: &mut AsyncCtx<'_>) -> Result<()> {
        let rows = self.rows_a();
        let (mut a, mut b) = (Operand::default(), Operand::default());
        let n_share = self.idesc.n / self.group as usize;
        for &cta in &self.ctas {
            a.append(match self.a {
                A::Descriptor(bits) => {
                    self.shared(ctx, cta, bits, rows, (self.idesc.transpose.0, self.idesc.a))?
                }
                A::Tensor(at) => self.tensor(ctx, cta, at, rows)?,
            });
            b.append(self.shared(ctx, cta, self.b, n_share, (self.idesc.transpose.1, self.idesc.b))?);
        }
        let [sa, sb] = match self.scales {
            Some((ca, cb)) => self.all_scales(ctx, ca, cb)?,
            None => Default::default(),
        };
        let products = Products::new(self, &a, &b, &sa, &sb, ctx.env.precision);
        self.write(ctx, &products);
        Ok(())
    }

    /// Scales of all M rows and all N columns.
    fn all_scales(&self, ctx: &mut AsyncCtx<'_>, ca: u32, cb: u32) -> Result<[Vec<Cell>; 2]> {
        let rows = self.rows_a();
        let mut sa = Vec::new();
        for &cta in &self.ctas {
            sa.extend(self.scales(ctx, cta, ca, rows, 0..4)?);
        }
        let n = self.idesc.n;
        let sb = if self.group == 2 && self.idesc.m == 128 {
            // The 2x2 layout: columns of the second half of N on the upper partitions.
            let mut sb = self.scales(ctx, self.ctas[0], cb, n / 2, 0..2)?;
            sb.extend(self.scales(ctx, self.ctas[0], cb, n / 2, 2..4)?);
            sb
        } else {
            let first = self.scales(ctx, self.ctas[0], cb, n, 0..4)?;
            for &cta in &self.ctas[1..] {
                if self.scales(ctx, cta, cb, n, 0..4)? != first {
                    let why = "the scales of B differ between the CTAs of the pair".to_owned();
                    return Err(Fault(Class::Undefined, why));
                }
            }
            first
        };
        Ok([sa, sb])
    }

    /// CTA index, lane and column of `D[m][n]` (9.7.16.10.5, layouts A to G).
    fn place_of(&self, m: usize, n: usize) -> (usize, usize, usize) {
        let d = (self.d & 0xffff) as usize;
        match (self.group, self.idesc.m) {
            // 32 and 64 lanes hold a quarter and a half of the columns each.
            (1, rows @ (32 | 64)) if self.ws => {
                let share = self.idesc.n * rows / 128;
                (0, m + rows * (n / share), d + n % share)
            }
            (1, 64) => (0, m % 16 + 32 * (m / 16) + (self.d >> 16) as usize, d + n),
            (1, _) => (0, m, d + n),
            (_, 256) => (m / 128, m % 128, d + n),
            _ => {
                let half = self.idesc.n / 2;
                (m / 64, m % 64 + 64 * (n / half), d + n % half)
            }
        }
    }

    /// Whether a lane of a CTA (the even one is 0) is written.
    fn enabled(&self, cta: usize, lane: usize) -> bool {
        self.disabled.get(cta * 4 + lane / 32).is_none_or(|mask| mask >> (lane % 32) & 1 == 0)
    }

    fn write(&self, ctx: &mut AsyncCtx<'_>, products: &Products<'_>) {
        let columns = (0..self.idesc.n).map(|n| self.place_of(0, n).2 as u32 + 1).max().unwrap_or_default()
            - (self.d & 0xffff);
        for (i, &cta) in self.ctas.iter().enumerate() {
            let (lanes, step) = if self.disabled.is_empty() { (128, 128) } else { (1, 1) };
            for lane in (0..128u32).step_by(step).filter(|&lane| self.enabled(i, lane as usize)) {
                let range = Range::Tensor { cta, lane, lanes, column: self.d & 0xffff, columns };
                hooks::async_access(ctx.env, ctx.cluster, self.race, range, Kind::Write);
            }
        }
        let mut poisoned = false;
        for m in 0..self.idesc.m {
            for n in 0..self.idesc.n {
                let (cta, lane, column) = self.place_of(m, n);
                if !self.enabled(cta, lane) {
                    continue;
                }
                let memory = ctx.cluster.state.tcgen05.memory(self.ctas[cta]);
                let c = if self.accumulate {
                    let (c, init) = memory.get(lane, column);
                    poisoned |= !init;
                    c
                } else {
                    0
                };
                memory.set(lane, column, products.element(m, n, c), true);
            }
        }
        if poisoned && ctx.env.checks.uninitialised {
            let message = "tcgen05.mma accumulated onto uninitialised tensor memory".to_owned();
            ctx.finding(Class::Uninitialised, self.place.clone(), message);
        }
    }
}

impl AsyncOp for Pending {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        if let Err(Fault(class, why)) = self.run(ctx) {
            ctx.finding(class, self.place.clone(), why);
        }
    }

    fn describe(&self) -> String {
        format!("tcgen05.mma of line {}", self.place.line)
    }
}
