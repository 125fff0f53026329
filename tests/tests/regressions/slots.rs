//! Slots to rows: nothing is dropped, nothing is computed twice, nobody else's experts are touched.

use std::ops::Range;

use megamoe::cpu::{NONE, SlotPlan};

use super::harness::{Check, prove, require};

/// Row of each slot (or `NONE`), and the first row of each local expert.
type Plan = dyn Fn(&[i32], usize, Range<usize>) -> (Vec<u32>, Vec<usize>);

const EXPERTS: usize = 8;
const TILE: usize = 4;

fn check(plan: &Plan) -> Check {
    // Skewed: expert 5 has 23 of 40 slots; ids of no expert and of other ranks; a token that names one twice.
    let ids: Vec<i32> = (0..40)
        .map(|i| match i {
            3 => -1,
            4 => 8,
            6 | 7 => 2,
            9 => i32::MIN,
            _ if i % 2 == 0 || i > 32 => 5,
            _ => i % 8,
        })
        .collect();
    for local in [0..8, 2..6, 5..6, 6..8, 3..3] {
        let (rows, starts) = plan(&ids, EXPERTS, local.clone());
        let mut taken = vec![false; *starts.last().ok_or("no offsets")?];
        for (slot, &id) in ids.iter().enumerate() {
            let what = || format!("{local:?} slot {slot} of expert {id}: row {}", rows[slot]);
            let here = usize::try_from(id).is_ok_and(|e| local.contains(&e));
            require((rows[slot] != NONE) == here, what())?;
            if here {
                let (row, e) = (rows[slot] as usize, id as usize - local.start);
                require((starts[e]..starts[e + 1]).contains(&row), what())?;
                require(!std::mem::replace(&mut taken[row], true), what())?;
            }
        }
    }
    Ok(())
}

/// A plan that puts slots where `local(id)` says, if `room(rank in expert)`.
fn plan(
    ids: &[i32],
    local: Range<usize>,
    index: impl Fn(i32) -> Option<usize>,
    room: impl Fn(usize) -> Option<usize>,
) -> (Vec<u32>, Vec<usize>) {
    let mut counts = vec![0; local.len()];
    let mut ranks = Vec::new();
    for &id in ids {
        ranks.push(index(id).map(|e| {
            counts[e] += 1;
            (e, counts[e] - 1)
        }));
    }
    let mut starts = vec![0; local.len() + 1];
    nvfp4::offsets::padded_offsets(&counts, TILE, &mut starts);
    let row = |r: Option<(usize, usize)>| {
        r.and_then(|(e, rank)| room(rank).map(|rank| (starts[e] + rank) as u32)).unwrap_or(NONE)
    };
    (ranks.into_iter().map(row).collect(), starts)
}

fn local_index(id: i32, local: &Range<usize>) -> Option<usize> {
    usize::try_from(id).ok().filter(|e| local.contains(e)).map(|e| e - local.start)
}

#[test]
fn every_slot_has_its_row() {
    let real: &Plan = &|ids, experts, local| {
        let plan = SlotPlan::new(ids, experts, local, TILE, |_| false).expect("a range of experts");
        (plan.row_of_slot, plan.offsets)
    };
    let mutants: &[(&str, &Plan)] = &[
        ("a clamped capacity writes two slots to one row", &|ids, _, local| {
            plan(ids, local.clone(), |id| local_index(id, &local), |rank| Some(rank.min(7)))
        }),
        ("slots beyond the average are dropped", &|ids, experts, local| {
            let average = ids.len().div_ceil(experts);
            let room = move |rank: usize| (rank < average).then_some(rank);
            plan(ids, local.clone(), |id| local_index(id, &local), room)
        }),
        ("global ids index local experts", &|ids, _, local| {
            let index = |id: i32| usize::try_from(id).ok().filter(|&e| e < local.len());
            plan(ids, local.clone(), index, Some)
        }),
        ("-1 is the last expert", &|ids, _, local| {
            let index = |id: i32| {
                if id == -1 { local.len().checked_sub(1) } else { local_index(id, &local) }
            };
            plan(ids, local.clone(), index, Some)
        }),
        ("foreign ids are not masked", &|ids, experts, local| {
            let index = |id: i32| {
                let e = usize::try_from(id).ok().filter(|&e| e < experts)?;
                Some(e.saturating_sub(local.start).min(local.len().checked_sub(1)?))
            };
            plan(ids, local.clone(), index, Some)
        }),
        ("offsets without the leading zero", &|ids, _, local| {
            let (rows, mut starts) = plan(ids, local.clone(), |id| local_index(id, &local), Some);
            starts.rotate_left(1);
            (rows, starts)
        }),
    ];
    prove("slots", real, mutants, check);
}

/// Statistics count what is skipped: nothing disappears silently.
#[test]
fn skipped_slots_are_counted() {
    type Count = dyn Fn(&[i32], Range<usize>) -> (u64, u64);
    let real: &Count = &|ids, local| {
        let plan = SlotPlan::new(ids, EXPERTS, local, 1, |_| false).expect("a range of experts");
        (plan.invalid_slots, plan.foreign_slots)
    };
    let mutants: &[(&str, &Count)] = &[
        ("nothing is counted", &|_, _| (0, 0)),
        ("every skipped slot is foreign", &|ids, local| {
            let here = |id: &&i32| usize::try_from(**id).is_ok_and(|e| local.contains(&e));
            (0, (ids.len() - ids.iter().filter(here).count()) as u64)
        }),
    ];
    prove("counters", real, mutants, |count| {
        require(count(&[0, -1, 8, 3, 7, i32::MAX, 4], 2..5) == (3, 2), "3 invalid and 2 foreign")
    });
}
