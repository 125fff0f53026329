//! Reader of `tests/data/golden`: arrays that independent packages produced. The format is described there.
//!
//! Everything here panics with the array's name on misuse: a test has no use for a softer answer.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// All golden arrays, checked against the hashes of their index.
pub struct Golden {
    bytes: Vec<u8>,
    index: BTreeMap<String, Entry>,
}

struct Entry {
    dtype: String,
    shape: Vec<usize>,
    offset: usize,
    len: usize,
}

/// One array: little-endian elements in row-major order.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [usize],
    bytes: &'a [u8],
}

impl Golden {
    /// The golden arrays of this repository, read and verified once per process. `MEGAMOE_GOLDEN_DIR` names
    /// another folder, for a test binary that was carried away from its sources.
    pub fn load() -> &'static Golden {
        static GOLDEN: OnceLock<Golden> = OnceLock::new();
        GOLDEN.get_or_init(|| {
            let dir = std::env::var_os("MEGAMOE_GOLDEN_DIR")
                .map(PathBuf::from)
                .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/golden")));
            let read = |file: &str| {
                let path = dir.join(file);
                std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            };
            let index = String::from_utf8(read("golden.idx")).expect("golden.idx is UTF-8");
            Golden::parse(&index, read("golden.bin"))
        })
    }

    fn parse(text: &str, bytes: Vec<u8>) -> Golden {
        let mut index = BTreeMap::new();
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            let &[name, dtype, shape, offset, len, sha] = fields.as_slice() else {
                panic!("golden.idx: expected six fields: {line}")
            };
            let number =
                |s: &str| s.parse::<usize>().unwrap_or_else(|_| panic!("golden.idx: {s:?} in: {line}"));
            let entry = Entry {
                dtype: dtype.into(),
                shape: shape.split('x').map(number).collect(),
                offset: number(offset),
                len: number(len),
            };
            let elements: usize = entry.shape.iter().product();
            assert_eq!(entry.len, elements * size_of(dtype), "{name}: {dtype} {shape}");
            let data = bytes
                .get(entry.offset..entry.offset + entry.len)
                .unwrap_or_else(|| panic!("{name}: past the end of golden.bin ({} bytes)", bytes.len()));
            let digest: String = Sha256::digest(data)[..8].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(digest, sha, "{name}: sha256 of its bytes differs from the index");
            assert!(index.insert(name.to_string(), entry).is_none(), "{name}: listed twice");
        }
        assert!(!index.is_empty(), "golden.idx lists nothing");
        Golden { bytes, index }
    }

    /// The array `name`, e.g. `codec/x_edge`.
    pub fn get(&self, name: &str) -> Array<'_> {
        self.find(name).unwrap_or_else(|| panic!("no golden array {name}"))
    }

    /// The array `name` if there is one.
    pub fn find(&self, name: &str) -> Option<Array<'_>> {
        let (name, e) = self.index.get_key_value(name)?;
        Some(Array { name, dtype: &e.dtype, shape: &e.shape, bytes: &self.bytes[e.offset..][..e.len] })
    }

    /// Every name that starts with `prefix`, sorted.
    pub fn names<'a>(&'a self, prefix: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let prefix = prefix.to_string();
        self.index.keys().map(String::as_str).filter(move |n| n.starts_with(&prefix))
    }

    /// What stands before `suffix` in every name of the form `prefix + middle + suffix`, sorted: the cases of
    /// a group, e.g. `cases("matmul/", ".acc_int64")`.
    pub fn cases<'a>(&'a self, prefix: &'a str, suffix: &'a str) -> Vec<&'a str> {
        let cases: Vec<&str> =
            self.names(prefix).filter_map(|n| n[prefix.len()..].strip_suffix(suffix)).collect();
        assert!(!cases.is_empty(), "no golden array {prefix}*{suffix}");
        cases
    }
}

fn size_of(dtype: &str) -> usize {
    match dtype {
        "uint8" => 1,
        "uint16" => 2,
        "uint32" | "int32" | "float32" => 4,
        "int64" | "float64" => 8,
        other => panic!("golden.idx: unknown dtype {other}"),
    }
}

impl<'a> Array<'a> {
    /// Its name in the index.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its dtype in the index (`uint8`, `uint16`, `uint32`, `int32`, `int64`, `float32`, `float64`).
    pub fn dtype(&self) -> &'a str {
        self.dtype
    }

    /// Its shape; a scalar is `[1]`.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Its shape as exactly `N` dimensions.
    pub fn dims<const N: usize>(&self) -> [usize; N] {
        self.shape
            .try_into()
            .unwrap_or_else(|_| panic!("{}: {:?} is not {N}-dimensional", self.name, self.shape))
    }

    /// Its elements if its shape is `shape`.
    pub fn shaped(self, shape: &[usize]) -> Array<'a> {
        assert_eq!(self.shape, shape, "{}: shape", self.name);
        self
    }

    fn elements<const W: usize, T>(&self, dtype: &str, from: fn([u8; W]) -> T) -> Vec<T> {
        assert_eq!(self.dtype, dtype, "{}: dtype", self.name);
        self.bytes.chunks_exact(W).map(|c| from(c.try_into().expect("W bytes"))).collect()
    }

    /// `uint8` elements.
    pub fn u8(&self) -> &'a [u8] {
        assert_eq!(self.dtype, "uint8", "{}: dtype", self.name);
        self.bytes
    }

    /// `uint16` elements (bfloat16 bits, for example).
    pub fn u16(&self) -> Vec<u16> {
        self.elements("uint16", u16::from_le_bytes)
    }

    /// `uint32` elements (f32 bits, for example).
    pub fn u32(&self) -> Vec<u32> {
        self.elements("uint32", u32::from_le_bytes)
    }

    /// `int32` elements.
    pub fn i32(&self) -> Vec<i32> {
        self.elements("int32", i32::from_le_bytes)
    }

    /// `int64` elements.
    pub fn i64(&self) -> Vec<i64> {
        self.elements("int64", i64::from_le_bytes)
    }

    /// `float32` elements.
    pub fn f32(&self) -> Vec<f32> {
        self.elements("float32", f32::from_le_bytes)
    }

    /// `float64` elements.
    pub fn f64(&self) -> Vec<f64> {
        self.elements("float64", f64::from_le_bytes)
    }

    /// The one element of a `float32` scalar.
    pub fn scalar_f32(&self) -> f32 {
        self.shaped(&[1]).f32()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "# name\ng/a\tuint8\t1x2\t0\t2\tSHA\n";

    fn index(sha: &str) -> String {
        INDEX.replace("SHA", sha)
    }

    #[test]
    fn everything_is_readable() {
        let g = Golden::load();
        assert_eq!(g.names("").count(), 1212);
        for name in g.names("") {
            let a = g.get(name);
            let elements: usize = a.shape().iter().product();
            let got = match a.dtype() {
                "uint8" => a.u8().len(),
                "uint16" => a.u16().len(),
                "uint32" => a.u32().len(),
                "int32" => a.i32().len(),
                "int64" => a.i64().len(),
                "float32" => a.f32().len(),
                _ => a.f64().len(),
            };
            assert_eq!(got, elements, "{name}");
        }
        assert_eq!(g.cases("matmul/", ".acc_int64").len(), 12);
        assert_eq!(g.get("codec/decode_e2m1").f32()[5], 3.0);
        assert!(g.find("codec/nothing").is_none());
    }

    #[test]
    fn a_good_array() {
        // sha256 of 01 02 starts with a12871fee210fb86.
        let g = Golden::parse(&index("a12871fee210fb86"), vec![1, 2]);
        assert_eq!(g.get("g/a").u8(), [1, 2]);
        assert_eq!(g.get("g/a").dims::<2>(), [1, 2]);
    }

    #[test]
    #[should_panic(expected = "sha256")]
    fn a_changed_byte_is_found() {
        Golden::parse(&index("a12871fee210fb86"), vec![1, 3]);
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn a_truncated_file_is_found() {
        Golden::parse(&index("a12871fee210fb86"), vec![1]);
    }

    #[test]
    #[should_panic(expected = "dtype")]
    fn a_wrong_dtype_is_refused() {
        Golden::parse(&index("a12871fee210fb86"), vec![1, 2]).get("g/a").f32();
    }
}
