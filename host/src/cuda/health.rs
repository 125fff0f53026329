//! Whether the context still works, as far as one loaded thing has seen.

use std::sync::{Mutex, PoisonError};

use crate::{Error, Result};

/// Driver errors after which nothing can run in the context any more.
const STICKY: [u32; 9] = [700, 702, 709, 713, 714, 715, 716, 717, 719];

/// The error that broke the context, once there was one.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<String>>);

impl Health {
    /// [`Error::Poisoned`] after an error that broke the context.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(first) => Err(Error::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Passes `result` on, and keeps an error that broke the context.
    pub(super) fn remember<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error @ Error::Driver { code, .. }) = &result
            && STICKY.contains(code)
        {
            let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| error.to_string());
        }
        result
    }
}
