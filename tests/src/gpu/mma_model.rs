//! One k16 step of the tensor cores in plain integers: an independent form of the model that an H200 confirmed
//! (`docs/numerics.md`, "Sums over K"), for the references of GEMMs. It shares no code with the emulator.

/// An f16 as `significand * 2^(exponent - 10)`, not normalised; finite only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Half {
    significand: i32,
    exponent: i32,
}

impl Half {
    /// From its bits.
    pub fn new(bits: u16) -> Self {
        let (field, mantissa) = (i32::from(bits >> 10 & 31), i32::from(bits & 1023));
        assert!(field != 31, "not finite: {bits:#06x}");
        let magnitude = if field == 0 { mantissa } else { mantissa + 1024 };
        Self {
            significand: if bits >> 15 == 1 { -magnitude } else { magnitude },
            exponent: field.max(1) - 15,
        }
    }

    /// From an f32 that is an f16: what a weight `e2m1 * e4m3` is.
    pub fn from_f32(x: f32) -> Self {
        let half = half::f16::from_f32(x);
        assert!(half.to_f32() == x, "{x} is no f16");
        Self::new(half.to_bits())
    }
}

/// Fraction bits of the addends below the largest exponent.
const WINDOW: i32 = 25;

/// `magnitude * 2^(exponent - fraction)` cut off below `2^(top - WINDOW)`, in units of that.
fn aligned(significand: i64, fraction: i32, exponent: i32, top: i32) -> i64 {
    let shift = WINDOW - fraction - (top - exponent);
    let magnitude = significand.abs();
    let cut = if shift >= 0 { magnitude << shift } else { magnitude.checked_shr(-shift as u32).unwrap_or(0) };
    if significand < 0 { -cut } else { cut }
}

/// `c + sum a[i] * b[i]` of one step: addends cut to the window, added exactly, the sum cut to 24 bits.
pub fn step(a: &[Half], b: &[Half], c: f32) -> f32 {
    let bits = c.to_bits();
    let field = (bits >> 23 & 255) as i32;
    let magnitude = i64::from(bits & 0x7f_ffff) + if field == 0 { 0 } else { 1 << 23 };
    let (c_significand, c_exponent) = (if c < 0.0 { -magnitude } else { magnitude }, field.max(1) - 127);
    let products = || a.iter().zip(b).filter(|(x, y)| x.significand != 0 && y.significand != 0);
    let largest = products().map(|(x, y)| x.exponent + y.exponent).max();
    let top = match (largest, c_significand) {
        (None, 0) => return 0.0,
        (None, _) => c_exponent,
        (Some(e), 0) => e,
        (Some(e), _) => e.max(c_exponent),
    };
    let mut sum = aligned(c_significand, 23, c_exponent, top);
    for (x, y) in products() {
        let product = i64::from(x.significand) * i64::from(y.significand);
        sum += aligned(product, 20, x.exponent + y.exponent, top);
    }
    let length = 64 - sum.unsigned_abs().leading_zeros() as i32;
    let drop = (length - 24).max(0);
    let kept = (sum.unsigned_abs() >> drop) as f64 * f64::from(drop + top - WINDOW).exp2();
    (if sum < 0 { -kept } else { kept }) as f32
}

/// The chain over K in ascending steps of 16.
pub fn dot(a: &[Half], b: &[Half]) -> f32 {
    a.chunks(16).zip(b.chunks(16)).fold(0.0, |c, (a, b)| step(a, b, c))
}

#[cfg(test)]
mod tests {
    use super::super::data::hash;
    use super::*;
    use ptx_emulator::numerics::aligned_sum;
    use ptx_emulator::numerics::element::Format;

    #[test]
    fn it_is_the_emulators_model() {
        for n in 0..20_000u64 {
            let bits = |salt: u64, narrow: bool| -> Vec<u16> {
                (0..16)
                    .map(|i| {
                        let h = hash(n << 8 | i << 4 | salt);
                        let exponent = if narrow { 13 + h % 4 } else { h % 31 };
                        (h >> 40 & 0x83ff) as u16 | (exponent as u16) << 10
                    })
                    .collect()
            };
            let (a, b) = (bits(1, n % 2 == 0), bits(2, n % 3 == 0));
            let c = match n % 4 {
                0 => 0.0,
                k => (hash(n) as i32 as f32) * (-30.0 + 8.0 * k as f32).exp2(),
            };
            let halves = |bits: &[u16]| bits.iter().map(|&h| Half::new(h)).collect::<Vec<_>>();
            let elements =
                |bits: &[u16]| bits.iter().map(|&h| Format::F16.decode(u32::from(h))).collect::<Vec<_>>();
            let want = aligned_sum::step(&elements(&a), &elements(&b), c.to_bits(), 20, aligned_sum::WIDE);
            let got = step(&halves(&a), &halves(&b), c);
            assert_eq!(got.to_bits(), want, "{n}: {got:e}, {:e}", f32::from_bits(want));
        }
    }
}
