//! Checkpoint loading.

/// Why a checkpoint is not usable.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint error")]
pub struct CheckpointError;
