//! What cases make once and use again: inputs, and what must come of them. Mutants run the same case again and again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

/// Things by the problem that they were made for.
pub struct Kept<T>(Mutex<BTreeMap<String, Arc<T>>>);

impl<T> Kept<T> {
    /// None.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// That of `problem`, made by `make` if it is the first time; errors are not kept.
    pub fn get<E>(&self, problem: &impl Debug, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{problem:?}");
        if let Some(found) = kept.get(&key) {
            return Ok(Arc::clone(found));
        }
        Ok(Arc::clone(kept.entry(key).or_insert(Arc::new(make()?))))
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_for_each_problem() {
        let kept = Kept::new();
        assert_eq!(kept.get(&1, || Err("no")), Err("no"));
        let first = kept.get(&1, || Ok::<_, ()>(10)).unwrap();
        let again = kept.get(&1, || Ok::<_, ()>(11)).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(*kept.get(&2, || Ok::<_, ()>(12)).unwrap(), 12);
    }
}
