//! Mutants of a launch file's entry.

use super::{LaunchFile, Run};
use crate::device::LaunchConfig;
use crate::mutate::{Observation, Trial};

impl LaunchFile {
    /// One run for [`crate::mutate::run`], on a fresh device. Checkers and precision come from `options`; the result
    /// must be as expected, and the outputs are compared with the unmutated run's.
    ///
    /// # Errors
    /// Anything that keeps the launch from starting.
    pub fn observe(
        &self,
        trial: &Trial<'_>,
        options: &LaunchConfig,
    ) -> std::result::Result<Observation, String> {
        let config = LaunchConfig { schedule: trial.schedule, budget: trial.budget, ..options.clone() };
        let Run { outcome, outputs, comparisons } =
            self.run_text(trial.ptx, &config).map_err(|e| e.to_string())?;
        let wrong = comparisons.iter().find(|c| !c.passed).map(|c| {
            format!(
                "{}: max_abs {:.3e}, rel_l2 {:.3e}, {} non-finite",
                c.buffer, c.max_abs, c.rel_l2, c.non_finite
            )
        });
        Ok(Observation {
            findings: outcome.findings,
            longest_cluster: outcome.longest_cluster,
            wrong,
            outputs: outputs.into_values().flatten().collect(),
        })
    }
}
