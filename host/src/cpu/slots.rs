//! Slots sorted by expert: which rows each expert works on, and where they start.

use std::ops::Range;

use crate::error::{Error, Result};

/// Mark of a padding row in [`SlotPlan::slot_of_row`] and of a skipped slot in [`SlotPlan::row_of_slot`].
pub const NONE: u32 = u32::MAX;

/// The slots of a call (slot `t * top_k + k` is the `k`-th expert of token `t`) grouped by local expert.
///
/// Each expert's rows are in slot order and padded to whole tiles; an expert without slots takes no rows; no slot
/// of a local expert is ever dropped. The same id may occur twice in a token: two slots, two rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPlan {
    /// Slots of each local expert.
    pub counts: Vec<usize>,
    /// First row of each local expert and, last, the number of rows ([`nvfp4::offsets::padded_offsets`]).
    pub offsets: Vec<usize>,
    /// The slot of each row; [`NONE`] in the padding.
    pub slot_of_row: Vec<u32>,
    /// The row of each slot; [`NONE`] if it is skipped.
    pub row_of_slot: Vec<u32>,
    /// Slots whose id was negative or at least the number of experts.
    pub invalid_slots: u64,
    /// Slots of experts outside the local range.
    pub foreign_slots: u64,
}

impl SlotPlan {
    /// Sorts `topk_ids`, global ids of `experts` experts of which `local` are here, with segments padded to `tile`
    /// rows. Slots for which `skip` is true are left out (and only counted if their id is invalid or foreign).
    pub fn new(
        topk_ids: &[i32],
        experts: usize,
        local: Range<usize>,
        tile: usize,
        skip: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        if local.start > local.end || local.end > experts {
            return Err(Error::invalid(
                "local_experts",
                format!("{}..{} is not a range within {experts} experts", local.start, local.end),
            ));
        }
        if tile == 0 {
            return Err(Error::invalid("tile", "must be at least 1"));
        }
        let most = nvfp4::offsets::max_padded_rows(topk_ids.len(), local.len(), tile);
        if most.max(topk_ids.len()) >= NONE as usize {
            return Err(Error::invalid("tokens", format!("{most} expert rows do not fit into one call")));
        }
        let (mut counts, mut invalid_slots, mut foreign_slots) = (vec![0usize; local.len()], 0, 0);
        let mut row_of_slot = vec![NONE; topk_ids.len()];
        for (slot, (&id, row)) in topk_ids.iter().zip(&mut row_of_slot).enumerate() {
            match usize::try_from(id).ok().filter(|&id| id < experts) {
                None => invalid_slots += 1,
                Some(id) if !local.contains(&id) => foreign_slots += 1,
                Some(_) if skip(slot) => {}
                Some(id) => {
                    // The rank within the expert for now; the expert's first row is added below.
                    *row = counts[id - local.start] as u32;
                    counts[id - local.start] += 1;
                }
            }
        }
        let mut offsets = vec![0; counts.len() + 1];
        let rows = nvfp4::offsets::padded_offsets(&counts, tile, &mut offsets);
        let mut slot_of_row = vec![NONE; rows];
        for (slot, (&id, row)) in topk_ids.iter().zip(&mut row_of_slot).enumerate() {
            if *row != NONE {
                // Only local ids got a rank above.
                *row += offsets[id as usize - local.start] as u32;
                slot_of_row[*row as usize] = slot as u32;
            }
        }
        Ok(Self { counts, offsets, slot_of_row, row_of_slot, invalid_slots, foreign_slots })
    }

    /// The rows of a local expert, without the padding.
    pub fn rows(&self, expert: usize) -> Range<usize> {
        self.offsets[expert]..self.offsets[expert] + self.counts[expert]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_pads_and_counts() {
        let ids = [3, 1, 1, 1, -1, 3, 7, 9, i32::MIN, 2];
        let p = SlotPlan::new(&ids, 8, 1..5, 4, |slot| slot == 9).unwrap();
        assert_eq!(p.counts, [3, 0, 2, 0]);
        assert_eq!(p.offsets, [0, 4, 4, 8, 8]);
        assert_eq!(p.slot_of_row, [1, 2, 3, NONE, 0, 5, NONE, NONE]);
        assert_eq!(p.row_of_slot, [4, 0, 1, 2, NONE, 5, NONE, NONE, NONE, NONE]);
        assert_eq!((p.invalid_slots, p.foreign_slots), (3, 1));
        assert_eq!(p.rows(2), 4..6);
    }

    #[test]
    fn nothing_to_do() {
        let p = SlotPlan::new(&[], 8, 0..8, 128, |_| false).unwrap();
        assert_eq!(p.offsets, [0; 9]);
        let p = SlotPlan::new(&[1, 2], 8, 3..3, 1, |_| false).unwrap();
        assert_eq!((p.offsets.as_slice(), p.foreign_slots), ([0].as_slice(), 2));
    }

    #[test]
    fn bad_ranges_are_errors() {
        #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
        let reversed = 3..2;
        for local in [0..9, reversed, 9..9] {
            assert!(SlotPlan::new(&[], 8, local, 1, |_| false).is_err());
        }
        assert!(SlotPlan::new(&[], 8, 0..8, 0, |_| false).is_err());
    }
}
