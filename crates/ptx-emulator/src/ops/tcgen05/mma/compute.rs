//! `tcgen05.mma`: completion, arithmetic, placement of D (PTX ISA 9.7.16.10.5).

use super::{A, Pending};
use crate::check::Class;
use crate::counters::Counter;
use crate::machine::{AsyncCtx, AsyncOp};
use crate::numerics::aligned_sum::{self, WIDE};
use crate::numerics::element::{Element, Format};
use crate::numerics::nvfp4_mma::{self, Row, ScaleType};
use crate::numerics::{Precision, round};
use crate::ops::descriptor::{Generation, MatrixDescriptor};
use crate::ops::hooks::{self, Kind, Range};
use crate::ops::tcgen05::descriptor::MmaKind;

/// Bytes along K of one instruction: 32 for every dense kind.
const K_BYTES: usize = 32;

/// A finding that stops the operation.
struct Fault(Class, String);

/// The scales of a row: one 32-bit cell of tensor memory.
type Cell = [u8; 4];

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
        mn_major: bool,
    ) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        let mut touched = Vec::new();
        let element = mn_major.then(|| self.kind.element_bytes());
        let shared = &ctx.cluster.ctas[cta as usize].shared;
        let init = MatrixDescriptor::decode(bits, Generation::Sm100)
            .and_then(|d| d.fetch(shared, rows, K_BYTES, element, &mut data, |o, n| touched.push((o, n))))
            .map_err(|why| Fault(Class::Descriptor, why))?;
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
        Ok(data)
    }

    /// Rows of A from tensor memory: row m on lane m, lower k in lower bits.
    fn tensor(&self, ctx: &mut AsyncCtx<'_>, cta: u32, column: u32, rows: usize) -> Vec<u8> {
        let range = Range::Tensor { cta, lane: 0, lanes: rows as u32, column, columns: 8 };
        ctx.cluster.counters.add(Counter::MmaTensorBytes, rows as u64 * K_BYTES as u64);
        hooks::async_access(ctx.env, ctx.cluster, self.race, range, Kind::Read);
        let memory = ctx.cluster.state.tcgen05.memory(cta);
        let mut data = vec![0; rows * K_BYTES];
        let mut all_init = true;
        for row in 0..rows {
            for c in 0..8 {
                let (word, init) = memory.get(row, column as usize + c);
                data[row * K_BYTES + 4 * c..][..4].copy_from_slice(&word.to_le_bytes());
                all_init &= init;
            }
        }
        if !all_init && ctx.env.checks.uninitialised {
            let message = "tcgen05.mma read uninitialised tensor memory (operand A)".to_owned();
            ctx.finding(Class::Uninitialised, self.place.clone(), message);
        }
        data
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
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let n_share = self.idesc.n / self.group as usize;
        for &cta in &self.ctas {
            a.extend(match self.a {
                A::Descriptor(bits) => self.shared(ctx, cta, bits, rows, self.idesc.transpose.0)?,
                A::Tensor(column) => self.tensor(ctx, cta, column, rows),
            });
            b.extend(self.shared(ctx, cta, self.b, n_share, self.idesc.transpose.1)?);
        }
        let [sa, sb] = match self.scales {
            Some((ca, cb)) => self.all_scales(ctx, ca, cb)?,
            None => Default::default(),
        };
        let products = Products::new(self, a, b, &sa, &sb, ctx.env.precision);
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

    /// CTA index, lane and column of `D[m][n]`.
    fn place_of(&self, m: usize, n: usize) -> (usize, usize, usize) {
        let d = (self.d & 0xffff) as usize;
        match (self.group, self.idesc.m) {
            (1, 64) => (0, m % 16 + 32 * (m / 16) + ((self.d >> 16) & 31) as usize, d + n),
            (1, _) => (0, m, d + n),
            (_, 256) => (m / 128, m % 128, d + n),
            _ => {
                let half = self.idesc.n / 2;
                (m / 64, m % 64 + 64 * (n / half), d + n % half)
            }
        }
    }

    fn write(&self, ctx: &mut AsyncCtx<'_>, products: &Products<'_>) {
        let columns =
            if self.group == 2 && self.idesc.m == 128 { self.idesc.n / 2 } else { self.idesc.n } as u32;
        for &cta in &self.ctas {
            let range = Range::Tensor { cta, lane: 0, lanes: 128, column: self.d & 0xffff, columns };
            hooks::async_access(ctx.env, ctx.cluster, self.race, range, Kind::Write);
        }
        let mut poisoned = false;
        for m in 0..self.idesc.m {
            for n in 0..self.idesc.n {
                let (cta, lane, column) = self.place_of(m, n);
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

/// Prepared operands of one instruction.
enum Products<'a> {
    Four {
        a: Vec<Row>,
        b: Vec<Row>,
        precision: Precision,
        raw: Box<(Vec<f32>, Vec<f32>)>,
    },
    Wide {
        a: Vec<Element>,
        b: Vec<Element>,
        sa: Vec<[u8; 4]>,
        sb: Vec<[u8; 4]>,
        op: &'a Pending,
        precision: Precision,
    },
}

impl<'a> Products<'a> {
    fn new(
        op: &'a Pending,
        a: Vec<u8>,
        b: Vec<u8>,
        sa: &[[u8; 4]],
        sb: &[[u8; 4]],
        precision: Precision,
    ) -> Self {
        let (na, nb) = op.idesc.negate;
        if matches!(op.kind, MmaKind::Mxf4 | MmaKind::Nvf4) {
            let ty = if op.idesc.ue8m0 { ScaleType::Ue8m0 } else { ScaleType::Ue4m3 };
            let rows = |data: &[u8], scales: &[[u8; 4]], id: u32, negate: bool| -> Vec<Row> {
                data.as_chunks::<K_BYTES>()
                    .0
                    .iter()
                    .zip(scales)
                    .map(|(bytes, cell)| {
                        let bytes = bytes.map(|b| if negate { b ^ 0x88 } else { b });
                        let cell = match op.kind {
                            MmaKind::Mxf4 => {
                                let (s0, s1) = (cell[id as usize], cell[id as usize + 1]);
                                [s0, s0, s1, s1]
                            }
                            _ => *cell,
                        };
                        Row::new(&bytes, cell, ty)
                    })
                    .collect()
            };
            let (ra, rb) = (rows(&a, sa, op.idesc.scale_ids.0, na), rows(&b, sb, op.idesc.scale_ids.1, nb));
            let raw = match precision {
                Precision::Hardware => Box::default(),
                Precision::PlainF32 => Box::new((
                    ra.iter().flat_map(Row::values).collect(),
                    rb.iter().flat_map(Row::values).collect(),
                )),
            };
            return Products::Four { a: ra, b: rb, precision, raw };
        }
        let bytes = op.kind.element_bytes() as usize;
        let elements = |data: &[u8], format: Format, negate: bool| -> Vec<Element> {
            data.chunks_exact(bytes)
                .map(|chunk| {
                    let mut word = [0; 4];
                    word[..bytes].copy_from_slice(chunk);
                    let mut e = format.decode(u32::from_le_bytes(word));
                    if negate {
                        e.sig = -e.sig;
                    }
                    e
                })
                .collect()
        };
        Products::Wide {
            a: elements(&a, op.idesc.a, na),
            b: elements(&b, op.idesc.b, nb),
            sa: sa.to_vec(),
            sb: sb.to_vec(),
            op,
            precision,
        }
    }

    /// `D[m][n]` for the addend `c`.
    fn element(&self, m: usize, n: usize, c: u32) -> u32 {
        match self {
            Products::Four { a, b, precision: Precision::Hardware, .. } => nvfp4_mma::dot(&a[m], &b[n], c),
            Products::Four { raw, .. } => {
                let (x, y) = (&raw.0[m * 64..][..64], &raw.1[n * 64..][..64]);
                x.iter().zip(y).fold(f32::from_bits(c), |s, (x, y)| s + x * y).to_bits()
            }
            Products::Wide { a, b, sa, sb, op, precision } => {
                let k = op.kind.k();
                let (x, y) = (&a[m * k..][..k], &b[n * k..][..k]);
                let fraction = op.idesc.a.fraction() + op.idesc.b.fraction();
                match (op.kind, precision) {
                    (MmaKind::F16 | MmaKind::Tf32, Precision::Hardware) => {
                        aligned_sum::step(x, y, c, fraction, WIDE)
                    }
                    (MmaKind::Mxf8f6f4, _) => {
                        let (ia, ib) = op.idesc.scale_ids;
                        let (sa, sb) = (sa[m][ia as usize], sb[n][ib as usize]);
                        if sa == 0xff || sb == 0xff {
                            return round::CANONICAL_NAN;
                        }
                        aligned_sum::nearest(x, y, c, fraction, i32::from(sa) + i32::from(sb) - 254)
                    }
                    _ => aligned_sum::nearest(x, y, c, fraction, 0),
                }
            }
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
