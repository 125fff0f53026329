//! Why a checkpoint is refused.

use std::path::PathBuf;

use nvfp4::mxfp4::CastError;
use safetensors::Dtype;

/// Why a checkpoint, or a layer of one, is not usable. Messages name the file and the tensor; variants are
/// fine enough to be matched on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    // ---- files -------------------------------------------------------------------------------------------
    /// Reading or opening a file failed.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not a regular file (a directory, a pipe, a device).
    #[error("{}: not a regular file", file.display())]
    NotAFile {
        /// The path.
        file: PathBuf,
    },
    /// The folder holds no checkpoint, or more than one.
    #[error("{}: {why}", dir.display())]
    NotACheckpoint {
        /// The folder.
        dir: PathBuf,
        /// What is missing or ambiguous.
        why: String,
    },
    /// A file, a header or a document is larger than any real one.
    #[error("{}: {what}: {found} exceeds the limit of {limit}", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The size found.
        found: u64,
    },
    /// A file changed, or became shorter, after it was opened.
    #[error("{}: tensor {tensor}: the file changed while it was being read: {why}", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// The tensor that was being read, or `*` if the change was seen afterwards.
        tensor: String,
        /// What was noticed.
        why: String,
    },
    /// Not enough memory for a tensor.
    #[error("{}: tensor {tensor}: cannot allocate {bytes} bytes", file.display())]
    OutOfMemory {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes asked for.
        bytes: u64,
    },

    // ---- JSON --------------------------------------------------------------------------------------------
    /// A document is not JSON, or not of the expected structure.
    #[error("{}: {why}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The parser's reason, with line and column.
        why: String,
    },
    /// A key occurs twice in one JSON object: readers disagree on which one counts.
    #[error("{}: duplicate key {key:?}", file.display())]
    DuplicateKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },

    // ---- safetensors headers -----------------------------------------------------------------------------
    /// The file ends before its header does.
    #[error("{}: the header needs {expected} bytes, the file has {found}", file.display())]
    HeaderTruncated {
        /// The file.
        file: PathBuf,
        /// Bytes that length field and header take.
        expected: u64,
        /// Size of the file.
        found: u64,
    },
    /// The header is not a JSON object of tensor entries.
    #[error("{}: header, at tensor {tensor:?}: {why}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The tensor being read when it went wrong; empty before the first.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// Two tensors of a file have one name.
    #[error("{}: tensor {tensor} occurs twice", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor name is empty, too long, or has characters outside printable ASCII.
    #[error("{}: tensor name {tensor:?}: {why}", file.display())]
    TensorName {
        /// The file.
        file: PathBuf,
        /// The name, cut to 64 characters.
        tensor: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A dtype that safetensors does not define.
    #[error("{}: tensor {tensor}: unknown dtype {found:?}", file.display())]
    UnknownDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dtype string.
        found: String,
    },
    /// More than eight dimensions.
    #[error("{}: tensor {tensor}: rank {found} exceeds 8", file.display())]
    Rank {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Rank found.
        found: usize,
    },
    /// A dimension, or the product of all, is out of range.
    #[error("{}: tensor {tensor}: shape {shape:?} overflows", file.display())]
    ShapeOverflow {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape.
        shape: Vec<u64>,
    },
    /// Shape and dtype need another number of bytes than the offsets span.
    #[error("{}: tensor {tensor}: shape and dtype take {expected}, its offsets span {found} bytes", file.display())]
    SizeMismatch {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What shape and dtype take, such as `96 bytes`, or `7 half bytes`.
        expected: String,
        /// Bytes between the offsets.
        found: u64,
    },
    /// Offsets run backwards.
    #[error("{}: tensor {tensor}: data offsets {begin}..{end} run backwards", file.display())]
    ReversedOffsets {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// First offset.
        begin: u64,
        /// Second offset.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("{}: tensor {tensor} overlaps tensor {other}", file.display())]
    Overlap {
        /// The file.
        file: PathBuf,
        /// The later tensor.
        tensor: String,
        /// The earlier tensor.
        other: String,
    },
    /// Bytes before a tensor belong to no tensor.
    #[error("{}: tensor {tensor}: hole in front of it, expected data offset {expected}, found {found}", file.display())]
    Hole {
        /// The file.
        file: PathBuf,
        /// The tensor behind the hole.
        tensor: String,
        /// Where the tensor should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// The file ends before its tensors do.
    #[error("{}: tensor {tensor}: truncated: its data end at byte {expected}, the file at {found}", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The first tensor that is cut.
        tensor: String,
        /// Offset in the file at which the tensor ends.
        expected: u64,
        /// Size of the file.
        found: u64,
    },
    /// Bytes after the last tensor.
    #[error("{}: trailing bytes: the data end at byte {expected}, the file at {found}", file.display())]
    TrailingBytes {
        /// The file.
        file: PathBuf,
        /// Offset in the file at which the data end.
        expected: u64,
        /// Size of the file.
        found: u64,
    },

    // ---- shards and index --------------------------------------------------------------------------------
    /// A shard name in the index is not a plain `*.safetensors` file name.
    #[error("{}: shard name {shard:?}: {why}", file.display())]
    ShardName {
        /// The index.
        file: PathBuf,
        /// The name.
        shard: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The index lists a shard that does not exist.
    #[error("{}: shard {shard} is listed but missing", file.display())]
    MissingShard {
        /// The index.
        file: PathBuf,
        /// The shard.
        shard: String,
    },
    /// The index puts a tensor into a shard that does not hold it.
    #[error("{}: tensor {tensor} is not in its shard {shard}", file.display())]
    NotInShard {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// A shard holds a tensor that the index lacks, or lists elsewhere.
    #[error("{}: tensor {tensor} is here, but {}", file.display(), match listed {
        Some(shard) => format!("the index lists it in {shard}"),
        None => "the index does not list it".to_owned(),
    })]
    NotInIndex {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that the index names.
        listed: Option<String>,
    },

    // ---- config.json -------------------------------------------------------------------------------------
    /// A needed field is absent.
    #[error("{}: field {field} is missing", file.display())]
    ConfigMissing {
        /// The document.
        file: PathBuf,
        /// The field, or its accepted names.
        field: String,
    },
    /// A field has the wrong JSON type.
    #[error("{}: field {field}: expected {expected}, found {found}", file.display())]
    ConfigType {
        /// The document.
        file: PathBuf,
        /// The field.
        field: String,
        /// The type it should have.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A field has the right type and an impossible value.
    #[error("{}: field {field}: expected {expected}, found {found}", file.display())]
    ConfigRange {
        /// The document.
        file: PathBuf,
        /// The field.
        field: String,
        /// What is possible.
        expected: String,
        /// The value.
        found: String,
    },
    /// The model uses something that this crate does not compute.
    #[error("{}: unsupported: {field} = {found}: {why}", file.display())]
    Unsupported {
        /// The document, or the file of the tensor.
        file: PathBuf,
        /// The field or tensor.
        field: String,
        /// Its value.
        found: String,
        /// Why it is not supported.
        why: &'static str,
    },

    // ---- tensors of a layer ------------------------------------------------------------------------------
    /// The layer does not exist or has no experts.
    #[error("{}: layer {layer} has no experts; layers that have: {available}", dir.display())]
    NoSuchLayer {
        /// The checkpoint.
        dir: PathBuf,
        /// The layer asked for.
        layer: usize,
        /// Layers with experts.
        available: String,
    },
    /// A tensor with this name does not exist.
    #[error("{}: tensor {tensor} is missing{}", dir.display(), if why.is_empty() { String::new() } else { format!(": {why}") })]
    TensorMissing {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// What needs it.
        why: String,
    },
    /// Two tensors mean the same thing.
    #[error("{}: tensor {tensor} and tensor {other} both hold the same weight", file.display())]
    Ambiguous {
        /// The file of the first.
        file: PathBuf,
        /// One tensor.
        tensor: String,
        /// The other.
        other: String,
    },
    /// A tensor that contradicts config.json or the other tensors.
    #[error("{}: tensor {tensor} is unexpected: {why}", file.display())]
    Unexpected {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The contradiction.
        why: String,
    },
    /// A tensor of an expert beyond the number of experts.
    #[error("{}: tensor {tensor}: expert {expert}, but config.json has {experts} experts", file.display())]
    ExpertOutOfRange {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its expert.
        expert: usize,
        /// Number of experts.
        experts: usize,
    },
    /// A needed tensor has another dtype.
    #[error("{}: tensor {tensor}: expected dtype {expected}, found {found:?}", file.display())]
    WrongDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is accepted.
        expected: String,
        /// What was found.
        found: Dtype,
    },
    /// A needed tensor has another shape.
    #[error("{}: tensor {tensor}: expected shape {expected}, found {found:?}", file.display())]
    WrongShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is accepted.
        expected: String,
        /// What was found.
        found: Vec<usize>,
    },
    /// A routed expert is not stored in FP4.
    #[error(
        "{}: tensor {tensor}: a routed expert must be NVFP4 or MXFP4, this one is {found:?}{}",
        file.display(),
        match pattern {
            Some(pattern) => format!(" (the checkpoint excludes it from quantisation: {pattern:?})"),
            None => String::new(),
        }
    )]
    NotQuantized {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: Dtype,
        /// The exclude pattern that covers it, if one does.
        pattern: Option<String>,
    },
    /// The exclude lists say that a routed expert is not quantised, but it is stored in FP4.
    #[error(
        "{}: tensor {tensor}: stored in FP4, but excluded from quantisation by pattern {pattern:?}: \
         the checkpoint contradicts itself",
        file.display()
    )]
    ExcludedExpert {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The pattern.
        pattern: String,
    },

    // ---- values ------------------------------------------------------------------------------------------
    /// A block scale is NaN.
    #[error("{}: tensor {tensor}: scale byte {index} is 0x{found:02X}: NaN", file.display())]
    NanScale {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element.
        index: u64,
        /// The byte.
        found: u8,
    },
    /// A block scale is negative (the MMA unit ignores the sign bit).
    #[error("{}: tensor {tensor}: scale byte {index} is 0x{found:02X}: negative", file.display())]
    NegativeScale {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element.
        index: u64,
        /// The byte.
        found: u8,
    },
    /// A 128 x 128 FP8 scale is not finite and positive.
    #[error("{}: tensor {tensor}: scale {index} is {found}: must be finite and positive", file.display())]
    BlockScale {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element.
        index: u64,
        /// The value.
        found: f32,
    },
    /// A global scale is zero, negative, infinite, NaN or denormal, or its reciprocal is.
    #[error("{}: tensor {tensor}: global scale {found:e}: it{} must be positive, finite and normal", file.display(), if *divisor { " and its reciprocal" } else { "" })]
    GlobalScale {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        found: f32,
        /// Whether it is stored as a divisor.
        divisor: bool,
    },
    /// An activation scale is zero, negative, infinite, NaN or denormal, or its reciprocal is.
    #[error("{}: tensor {tensor}: activation scale {found:e}: it{} must be positive, finite and normal", file.display(), if *divisor { " and its reciprocal" } else { "" })]
    InputScale {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        found: f32,
        /// Whether it is stored as a divisor.
        divisor: bool,
    },
    /// A router weight, a bias or a BF16 or FP8 weight is NaN or infinite.
    #[error("{}: tensor {tensor}: element {index} is {found}", file.display())]
    NonFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element.
        index: u64,
        /// The value.
        found: f32,
    },
    /// An entry of `tid2eid` is not an expert.
    #[error("{}: tensor {tensor}: entry {index} is expert {found}, must be in 0..{experts}", file.display())]
    TableEntry {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element.
        index: u64,
        /// The id.
        found: i64,
        /// Number of experts.
        experts: usize,
    },
    /// An MXFP4 tensor has no lossless NVFP4 form.
    #[error("{}: tensor {tensor}: no lossless NVFP4 form: {source}", file.display())]
    Mxfp4 {
        /// The file.
        file: PathBuf,
        /// The tensor of the scales.
        tensor: String,
        /// Why.
        source: CastError,
    },
}

/// Results of this module.
pub type Result<T, E = CheckpointError> = std::result::Result<T, E>;
