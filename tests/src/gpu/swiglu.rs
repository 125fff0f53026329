//! Cases of `swiglu_quantize_nvfp4`.

use kernels::launch::{Dims, Launch};
use kernels::swiglu_quantize_nvfp4::LAUNCH;
use nvfp4::swiglu::{bound_scale, swiglu};

use super::data::{Data, uniform};
use super::outputs::{Outputs, Scale, parallel_rows};
use super::{Case, Check, DEVICE_ROWS, Device, GRIDS, ODD_CONSTANTS, Sizes, Value, quantize};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

/// Clamps that are tried: tight, DeepSeek-V4's, and none.
const LIMITS: [f32; 3] = [1.0, 10.0, f32::INFINITY];

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Rows that the buffers hold.
    pub max_rows: usize,
    /// Row count on the device.
    pub rows: usize,
    /// Elements of a row.
    pub i: usize,
    /// Elements from row to row of gate and up; the gap is NaN.
    pub stride: usize,
    /// Values.
    pub data: Data,
    /// Global scale.
    pub scale: Scale,
    /// SwiGLU clamp.
    pub limit: f32,
}

/// The inputs of a [`Problem`].
pub struct Inputs {
    /// Gate accumulators, `[max_rows, stride]`.
    pub gate: Vec<f32>,
    /// Up accumulators, likewise.
    pub up: Vec<f32>,
    /// `[max_rows]`.
    pub alpha_gate: Vec<f32>,
    /// `[max_rows]`.
    pub alpha_up: Vec<f32>,
}

impl Problem {
    /// Full buffers without gaps.
    pub fn new(rows: usize, i: usize, data: Data, scale: Scale, limit: f32) -> Self {
        Self { max_rows: rows, rows, i, stride: i, data, scale, limit }
    }

    /// The inputs: accumulators that are `1 / alpha` of what the activation sees, so that a forgotten or swapped
    /// alpha, or a clamp on the wrong side of it, changes almost every byte. Rows past the row count are NaN.
    pub fn inputs(&self) -> Inputs {
        let alpha = |salt: u64| {
            (0..self.max_rows as u64)
                .map(|row| match (self.data, row % 16) {
                    // Exact products for exact ties; a zero and a negative one now and then for the rest.
                    (Data::Ties, _) => 0.5,
                    (_, 14) => 0.0,
                    (_, 15) => -0.01,
                    _ => 0.005 * (1.0 + uniform(row | salt << 32)),
                })
                .collect()
        };
        let operand = |salt: u64, factor: f32| {
            parallel_rows(f32::NAN, self.max_rows, self.stride, |row, out| {
                if row < self.rows {
                    let out = &mut out[..self.i];
                    self.data.fill(row, salt, out);
                    out.iter_mut().for_each(|v| *v *= factor);
                }
            })
        };
        if self.data == Data::Ties {
            // silu(32) is 32 in f32 and the products are exact, so without a clamp the ties survive.
            let gate = parallel_rows(64.0, self.max_rows, self.stride, |_, _| {});
            return Inputs { gate, up: operand(2, 2.0 / 32.0), alpha_gate: alpha(5), alpha_up: alpha(6) };
        }
        Inputs { gate: operand(2, 700.0), up: operand(3, 900.0), alpha_gate: alpha(5), alpha_up: alpha(6) }
    }

    /// What every byte must be, from the inputs alone.
    pub fn reference(&self, inputs: &Inputs) -> Outputs {
        Outputs::reference((self.max_rows, self.rows, self.i), self.scale, |row, out| {
            let at = row * self.stride;
            let (gate, up) = (&inputs.gate[at..][..self.i], &inputs.up[at..][..self.i]);
            let (ag, au) = (inputs.alpha_gate[row], inputs.alpha_up[row]);
            for (o, (&g, &u)) in out.iter_mut().zip(gate.iter().zip(up)) {
                *o = swiglu(g * ag, u * au, self.limit);
            }
        })
    }

    /// Launches once on poisoned outputs.
    pub fn launch(&self, device: &dyn Device, dims: Dims, inputs: &Inputs) -> Result<Outputs, String> {
        let mut out = Outputs::poisoned(self.max_rows, self.i);
        let constant = self.scale.bytes();
        device.launch(
            KERNEL,
            dims,
            &mut [
                Value::In(bytemuck::cast_slice(&inputs.gate)),
                Value::In(bytemuck::cast_slice(&inputs.up)),
                Value::In(bytemuck::cast_slice(&inputs.alpha_gate)),
                Value::In(bytemuck::cast_slice(&inputs.alpha_up)),
                Value::Out(&mut out.packed),
                Value::Out(&mut out.scales),
                Value::Out(&mut out.row_scale),
                Value::In(&(self.rows as u32).to_le_bytes()),
                constant.as_ref().map_or(Value::Null, |bytes| Value::In(bytes)),
                Value::U32(self.max_rows as u32),
                Value::U32(self.i as u32),
                Value::U32(self.stride as u32),
                Value::F32(self.limit),
            ],
        )?;
        Ok(out)
    }

    /// The table's dimensions.
    pub fn dims(&self, device: &dyn Device) -> Dims {
        KERNEL.rows(self.max_rows as u32, self.i as u32, device.multiprocessors())
    }

    /// One launch with the table's grid, every byte compared.
    pub fn check(&self, device: &dyn Device) -> Check {
        self.check_grids(device, &[self.dims(device).grid[0]], 1)
    }

    /// `times` launches with the grids in turn, every byte of each compared.
    pub fn check_grids(&self, device: &dyn Device, grids: &[u32], times: usize) -> Check {
        let inputs = self.inputs();
        let want = self.reference(&inputs);
        for (n, &grid) in grids.iter().cycle().take(times).enumerate() {
            self.launch(device, Dims { grid: [grid, 1, 1], ..self.dims(device) }, &inputs)?
                .expect(&want)
                .map_err(|e| format!("launch {n}, grid {grid}: {e}"))?;
        }
        Ok(())
    }

    fn add_to(self, case: &mut Case) {
        case.part(self, 2 * self.max_rows * self.stride, move |device| self.check(device));
    }
}

/// The constant scale of the policy `Bound`; without a clamp there is none, and a static one stands in.
fn constant(limit: f32) -> Scale {
    Scale::Constant(if limit.is_finite() { bound_scale(limit) } else { 0.01 })
}

/// The sizes for a card.
pub const CARD: Sizes = Sizes {
    data_k: &[16, 512, 3072],
    stride: &[(16, 20), (2880, 2884), (3072, 6144)],
    grid: (300, 2304),
    ..quantize::CARD
};

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: String, fill: &dyn Fn(&mut Case)| {
        let mut case = Case::new(KERNEL, name);
        fill(&mut case);
        cases.push(case);
    };
    for limit in LIMITS {
        for scale in [Scale::Row, constant(limit)] {
            let s = format!("limit={limit}/{}", scale.name());
            for &rows in sizes.rows {
                // The largest inputs, a gigabyte of them, once per scale.
                if rows <= 1000 || limit == 10.0 {
                    case(format!("shape/rows={rows}/{s}"), &|case| {
                        sizes
                            .k
                            .iter()
                            .for_each(|&i| Problem::new(rows, i, Data::Mixed, scale, limit).add_to(case));
                    });
                }
            }
            if let Some((rows, i)) = sizes.long {
                case(format!("shape/rows={rows}/k={i}/{s}"), &|case| {
                    Problem::new(rows, i, Data::Mixed, scale, limit).add_to(case);
                });
            }
        }
    }
    for data in Data::PURE {
        case(format!("data/{}", data.name()), &|case| {
            for limit in LIMITS {
                for scale in [Scale::Row, constant(limit)] {
                    sizes
                        .data_k
                        .iter()
                        .for_each(|&i| Problem::new(sizes.data_rows, i, data, scale, limit).add_to(case));
                }
            }
        });
    }
    let limit = 10.0;
    for scale in [Scale::Row, constant(limit)] {
        let s = scale.name();
        let mixed = |rows, i| Problem::new(rows, i, Data::Mixed, scale, limit);
        case(format!("device_rows/{s}"), &|case| {
            for (max_rows, rows) in DEVICE_ROWS {
                Problem { max_rows, ..mixed(rows, sizes.device_rows_k) }.add_to(case);
            }
        });
        case(format!("stride/{s}"), &|case| {
            for &(i, stride) in sizes.stride {
                Problem { stride, ..mixed(sizes.stride_rows, i) }.add_to(case);
            }
        });
        let p = mixed(sizes.grid.0, sizes.grid.1);
        let elements = 2 * p.max_rows * p.i;
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
            Problem::new(rows, k, Data::Mixed, Scale::Constant(constant), limit).add_to(case);
        }
    });
    cases
}
