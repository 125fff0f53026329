//! What goes into a layer and what comes out, on the host.

use half::bf16;

use crate::error::{Error, Result};

/// Rows for one forward call.
#[derive(Clone, Copy, Debug)]
pub struct LayerInput<'a> {
    /// `[tokens, hidden]` bf16, row-major.
    pub hidden_states: &'a [bf16],
    /// Number of rows.
    pub tokens: usize,
    /// Where the experts of each token come from.
    pub routing: RoutingSource<'a>,
}

/// Where expert ids and weights come from.
#[derive(Clone, Copy, Debug)]
pub enum RoutingSource<'a> {
    /// The layer's own router. Hash layers need the token ids, `[tokens]`.
    Model {
        /// `[tokens]`, each in `0..vocab_size`; ignored by top-k routers.
        input_ids: Option<&'a [i64]>,
    },
    /// The caller's: `[tokens, top_k]` each. Ids of -1, other negative ids and ids outside the local range
    /// are skipped; an id may occur twice.
    Given {
        /// Global expert ids.
        topk_ids: &'a [i32],
        /// Weights, final (normalised and scaled).
        topk_weights: &'a [f32],
    },
}

/// Expert ids and weights of a call, `[tokens, top_k]` each, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// Global expert ids.
    pub topk_ids: Vec<i32>,
    /// Final weights.
    pub topk_weights: Vec<f32>,
}

/// Counters of one call: nothing is dropped or clamped silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Slots whose id was negative or at least the number of experts.
    pub invalid_slots: u64,
    /// Slots routed to experts of other ranks.
    pub foreign_slots: u64,
    /// Hash-layer tokens whose id is outside the vocabulary: all their slots are skipped.
    pub invalid_tokens: u64,
    /// Rows (tokens) with a NaN or infinite element: their output is NaN.
    pub non_finite_rows: u64,
    /// L1 activation blocks whose scale saturated at 448 because the constant global scale was too small.
    pub saturated_blocks_l1: u64,
    /// The same for L2.
    pub saturated_blocks_l2: u64,
}

/// The result of one call, `[tokens, hidden]` each.
#[derive(Clone, Debug, Default)]
pub struct LayerOutput {
    /// The requested part, f32.
    pub output_f32: Vec<f32>,
    /// The same, rounded to bf16.
    pub output: Vec<bf16>,
    /// Routing that was used (empty for [`crate::options::Part::Shared`]).
    pub routing: Routing,
    /// Counters.
    pub stats: Stats,
}

impl LayerInput<'_> {
    /// Checks the lengths against a layer's shape.
    pub fn check(&self, hidden: usize, top_k: usize) -> Result<()> {
        let expect = |what: &str, want: usize, got: usize| {
            if want == got { Ok(()) } else { Err(Error::mismatch(what, format!("{want} elements"), got)) }
        };
        let size = |a: usize, b: usize, what: &str| {
            a.checked_mul(b).ok_or_else(|| Error::invalid(what, format!("{a} x {b} overflows")))
        };
        expect("hidden_states", size(self.tokens, hidden, "hidden_states")?, self.hidden_states.len())?;
        match self.routing {
            RoutingSource::Model { input_ids } => {
                input_ids.map_or(Ok(()), |ids| expect("input_ids", self.tokens, ids.len()))
            }
            RoutingSource::Given { topk_ids, topk_weights } => {
                let slots = size(self.tokens, top_k, "topk_ids")?;
                expect("topk_ids", slots, topk_ids.len())?;
                expect("topk_weights", slots, topk_weights.len())
            }
        }
    }
}
