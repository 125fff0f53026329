//! The mutation harness.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a check says: nothing, or what is wrong.
pub type Check = Result<(), String>;

/// Requires that `check` accepts `real` and rejects every mutant. A mutant that panics is rejected too: an index out of
/// bounds is one of the ways in which these bugs showed themselves.
#[track_caller]
pub fn prove<T: ?Sized>(what: &str, real: &T, mutants: &[(&str, &T)], check: impl Fn(&T) -> Check) {
    if let Err(e) = check(real) {
        panic!("{what}: the real implementation fails its own test: {e}");
    }
    assert!(!mutants.is_empty(), "{what}: no mutants, no proof");
    for (name, mutant) in mutants {
        let verdict = silently(|| check(mutant));
        assert!(
            !matches!(verdict, Ok(Ok(()))),
            "{what}: the mutant {name:?} survives: the test is blind to it"
        );
    }
}

/// Runs something that may panic, without a message on stderr.
pub fn silently<R>(run: impl FnOnce() -> R) -> std::thread::Result<R> {
    // The test harness captures what a panic prints on this thread.
    catch_unwind(AssertUnwindSafe(run))
}

/// An `Err` unless the two are equal, naming the first difference.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], want: &[T]) -> Check {
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, not {}", got.len(), want.len()));
    }
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => Err(format!("{what}[{i}]: {:?}, not {:?}", got[i], want[i])),
    }
}

/// An `Err` with this message unless it holds.
pub fn require(holds: bool, otherwise: impl Into<String>) -> Check {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

#[test]
#[should_panic(expected = "survives")]
fn a_blind_check_is_found() {
    prove::<dyn Fn(i32) -> i32>("addition", &|a| a + 1, &[("nothing", &|a| a)], |_| Ok(()));
}

#[test]
#[should_panic(expected = "fails its own test")]
fn a_wrong_implementation_is_found() {
    prove::<dyn Fn(i32) -> i32>("addition", &|a| a, &[("minus", &|a| a - 1)], |f| {
        equal("f(1)", &[f(1)], &[2])
    });
}

#[test]
fn panicking_mutants_are_killed() {
    let real: &dyn Fn(usize) -> i32 = &|i| [1, 2][i];
    let mutant: &dyn Fn(usize) -> i32 = &|i| [1, 2][i + 1];
    prove("indexing", real, &[("off by one", mutant)], |f| equal("f", &[f(1)], &[2]));
}
