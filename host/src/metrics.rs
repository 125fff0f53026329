//! How far two results are apart. Cosine is left out on purpose: it hides amplitude errors.

/// Distances of `got` from `want`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// `|got - want| / |want|` (2-norms).
    pub rel_l2: f64,
    /// `1 - 2<got, want> / (|got|^2 + |want|^2)`: DeepGEMM's measure; sees amplitude.
    pub calc_diff: f64,
    /// `|got| / |want|`.
    pub norm_ratio: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Elements that are NaN in one and not in the other, or infinite and different.
    pub non_finite_mismatches: usize,
}

/// The acceptance bar of a backend against the oracle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// Upper bound of [`Metrics::rel_l2`].
    pub rel_l2: f64,
    /// Upper bound of [`Metrics::calc_diff`].
    pub calc_diff: f64,
    /// Upper bound of `|norm_ratio - 1|`.
    pub norm_ratio: f64,
}

/// The contract's bar for every backend.
pub const BAR: Bar = Bar { rel_l2: 2e-3, calc_diff: 5e-6, norm_ratio: 1e-3 };

impl Metrics {
    /// Compares two equally long slices. Elements that are not finite in either (a NaN row, by contract) are
    /// compared for being the same class and left out of the norms. Two all-zero vectors are equal.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of(got: &[f32], want: &[f32]) -> Self {
        assert_eq!(got.len(), want.len(), "compared results must have the same length");
        let (mut d2, mut g2, mut w2, mut gw, mut max_abs) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        let mut non_finite_mismatches = 0;
        for (&g, &w) in got.iter().zip(want) {
            if !(g.is_finite() && w.is_finite()) {
                let same = (g.is_nan() && w.is_nan()) || g == w;
                non_finite_mismatches += usize::from(!same);
                continue;
            }
            let (g, w) = (f64::from(g), f64::from(w));
            d2 += (g - w) * (g - w);
            g2 += g * g;
            w2 += w * w;
            gw += g * w;
            max_abs = max_abs.max((g - w).abs());
        }
        let ratio = |a: f64, b: f64| if a == b { 1.0 } else { a / b };
        Self {
            rel_l2: if d2 == 0.0 { 0.0 } else { (d2 / w2).sqrt() },
            calc_diff: if g2 + w2 == 0.0 { 0.0 } else { 1.0 - 2.0 * gw / (g2 + w2) },
            norm_ratio: ratio(g2.sqrt(), w2.sqrt()),
            max_abs,
            non_finite_mismatches,
        }
    }

    /// Whether the result is within `bar`. NaN never passes.
    pub fn passes(&self, bar: &Bar) -> bool {
        self.non_finite_mismatches == 0
            && self.rel_l2 <= bar.rel_l2
            && self.calc_diff <= bar.calc_diff
            && (self.norm_ratio - 1.0).abs() <= bar.norm_ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amplitude_errors_do_not_pass() {
        let want: Vec<f32> = (0..100).map(|i| (i as f32).sin()).collect();
        let got: Vec<f32> = want.iter().map(|v| v * 1.25).collect();
        assert!(!Metrics::of(&got, &want).passes(&BAR));
        assert!(Metrics::of(&want, &want).passes(&BAR));
    }

    #[test]
    fn nan_passes_only_against_nan() {
        assert!(!Metrics::of(&[f32::NAN, 1.0], &[0.5, 1.0]).passes(&BAR));
        assert!(!Metrics::of(&[0.5, 1.0], &[f32::NAN, 1.0]).passes(&BAR));
        assert!(Metrics::of(&[f32::NAN, 1.0], &[f32::NAN, 1.0]).passes(&BAR));
        assert!(!Metrics::of(&[1.0], &[0.0]).passes(&BAR));
        assert!(Metrics::of(&[0.0], &[0.0]).passes(&BAR));
    }
}
