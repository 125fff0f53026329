//! Cases of `quantize_nvfp4_rows`.

use kernels::launch::{Dims, Launch};
use kernels::quantize_nvfp4_rows::LAUNCH;
use nvfp4::bf16;

use super::data::Data;
use super::outputs::{Outputs, Scale, parallel_rows};
use super::{Case, Check, DEVICE_ROWS, Device, GRIDS, ODD_CONSTANTS, Sizes, Value};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Rows that the buffers hold.
    pub max_rows: usize,
    /// Row count on the device.
    pub rows: usize,
    /// Elements of a row.
    pub k: usize,
    /// Elements from row to row of the input; the gap is NaN.
    pub stride: usize,
    /// Values.
    pub data: Data,
    /// Global scale.
    pub scale: Scale,
}

impl Problem {
    /// Full buffers without gaps.
    pub fn new(rows: usize, k: usize, data: Data, scale: Scale) -> Self {
        Self { max_rows: rows, rows, k, stride: k, data, scale }
    }

    /// The input, bf16 `[max_rows, stride]`; rows past the row count are NaN.
    pub fn input(&self) -> Vec<u16> {
        const NAN: u16 = 0xffff;
        parallel_rows(NAN, self.max_rows, self.stride, |row, out| {
            if row < self.rows {
                let mut values = vec![0.0; self.k];
                self.data.fill(row, 1, &mut values);
                out.iter_mut().zip(values).for_each(|(o, v)| *o = (v.to_bits() >> 16) as u16);
            }
        })
    }

    /// What every byte must be, from the input alone.
    pub fn reference(&self, x: &[u16]) -> Outputs {
        Outputs::reference((self.max_rows, self.rows, self.k), self.scale, |row, out| {
            let x = &x[row * self.stride..][..self.k];
            out.iter_mut().zip(x).for_each(|(o, &bits)| *o = bf16::to_f32(bits));
        })
    }

    /// Launches once on poisoned outputs.
    pub fn launch(&self, device: &dyn Device, dims: Dims, x: &[u16]) -> Result<Outputs, String> {
        let mut out = Outputs::poisoned(self.max_rows, self.k);
        let constant = self.scale.bytes();
        device.launch(
            KERNEL,
            dims,
            &mut [
                Value::In(bytemuck::cast_slice(x)),
                Value::Out(&mut out.packed),
                Value::Out(&mut out.scales),
                Value::Out(&mut out.row_scale),
                Value::In(&(self.rows as u32).to_le_bytes()),
                constant.as_ref().map_or(Value::Null, |bytes| Value::In(bytes)),
                Value::U32(self.max_rows as u32),
                Value::U32(self.k as u32),
                Value::U32(self.stride as u32),
            ],
        )?;
        Ok(out)
    }

    /// The table's dimensions.
    pub fn dims(&self, device: &dyn Device) -> Dims {
        KERNEL.rows(self.max_rows as u32, self.k as u32, device.multiprocessors())
    }

    /// One launch with the table's grid, every byte compared.
    pub fn check(&self, device: &dyn Device) -> Check {
        self.check_grids(device, &[self.dims(device).grid[0]], 1)
    }

    /// `times` launches with the grids in turn, every byte of each compared.
    pub fn check_grids(&self, device: &dyn Device, grids: &[u32], times: usize) -> Check {
        let x = self.input();
        let want = self.reference(&x);
        for (n, &grid) in grids.iter().cycle().take(times).enumerate() {
            self.launch(device, Dims { grid: [grid, 1, 1], ..self.dims(device) }, &x)?
                .expect(&want)
                .map_err(|e| format!("launch {n}, grid {grid}: {e}"))?;
        }
        Ok(())
    }

    fn add_to(self, case: &mut Case) {
        case.part(self, self.max_rows * self.stride, move |device| self.check(device));
    }
}

/// The sizes for a card.
pub const CARD: Sizes = Sizes {
    size: super::Size::Card,
    rows: &[1, 7, 127, 128, 129, 1000, 8192],
    k: &[16, 512, 2304, 2880, 4096, 7168, 16384],
    long: None,
    data_rows: 260,
    data_k: &[16, 512, 2880, 16384],
    device_rows_k: 2304,
    stride_rows: 129,
    stride: &[(16, 24), (2880, 2888), (7168, 8192)],
    grid: (300, 2880),
    repeats: 400,
    constants: (260, 512),
};

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: String, fill: &dyn Fn(&mut Case)| {
        let mut case = Case::new(KERNEL, name);
        fill(&mut case);
        cases.push(case);
    };
    for scale in [Scale::Row, Scale::Constant(0.01)] {
        let s = scale.name();
        let mixed = |rows, k| Problem::new(rows, k, Data::Mixed, scale);
        for &rows in sizes.rows {
            case(format!("shape/rows={rows}/{s}"), &|case| {
                sizes.k.iter().for_each(|&k| mixed(rows, k).add_to(case));
            });
        }
        if let Some((rows, k)) = sizes.long {
            case(format!("shape/rows={rows}/k={k}/{s}"), &|case| mixed(rows, k).add_to(case));
        }
        for data in Data::PURE {
            case(format!("data/{}/{s}", data.name()), &|case| {
                sizes.data_k.iter().for_each(|&k| Problem::new(sizes.data_rows, k, data, scale).add_to(case));
            });
        }
        case(format!("device_rows/{s}"), &|case| {
            for (max_rows, rows) in DEVICE_ROWS {
                Problem { max_rows, ..mixed(rows, sizes.device_rows_k) }.add_to(case);
            }
        });
        case(format!("stride/{s}"), &|case| {
            for &(k, stride) in sizes.stride {
                Problem { stride, ..mixed(sizes.stride_rows, k) }.add_to(case);
            }
        });
        let p = mixed(sizes.grid.0, sizes.grid.1);
        let elements = p.max_rows * p.k;
        case(format!("grid/{s}"), &|case| {
            case.part(p, elements, move |device| p.check_grids(device, &GRIDS, GRIDS.len()));
        });
        let repeats = sizes.repeats;
        case(format!("repeat/{s}"), &|case| {
            case.part(p, elements * repeats, move |device| {
                let own = p.dims(device).grid[0];
                p.check_grids(device, &[own, own, 7, 133], repeats)
            });
        });
    }
    case("constants".to_owned(), &|case| {
        for constant in ODD_CONSTANTS {
            let (rows, k) = sizes.constants;
            Problem::new(rows, k, Data::Mixed, Scale::Constant(constant)).add_to(case);
        }
    });
    cases
}
