//! Which forms of the tensor cores' instructions an entry has in machine code: what a `tcgen05.mma` or a `wgmma` has
//! become is seen nowhere else.

use crate::CudaBuilderError;
use crate::tools::Tool;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// How often each form occurs in an entry, by name: `HMMA.16816.F32`, `HGMMA.64x128x16.F32`, `UTCOMMA.2CTA.4X`.
pub type Forms = BTreeMap<String, usize>;

/// The forms of every entry of `cubin`, by `cuobjdump` of the workspace at `root`.
pub fn mma_forms(root: &Path, cubin: &Path) -> Result<BTreeMap<String, Forms>, CudaBuilderError> {
    let tool = Tool::Cuobjdump.find(root)?;
    let out = Command::new(&tool)
        .arg("-sass")
        .arg(cubin)
        .output()
        .map_err(CudaBuilderError::io("running", &tool))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(CudaBuilderError::Tool { tool: "cuobjdump", arch: "cubin", stderr });
    }
    Ok(parse(&String::from_utf8_lossy(&out.stdout)))
}

/// Reads cuobjdump's listing.
fn parse(text: &str) -> BTreeMap<String, Forms> {
    let mut entries: BTreeMap<String, Forms> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            current = Some(entries.entry(name.trim().to_owned()).or_default());
        } else if let (Some(forms), Some(form)) = (current.as_mut(), form(line)) {
            *forms.entry(form.to_owned()).or_default() += 1;
        }
    }
    entries
}

/// The mnemonic of a line, if it is a product on the tensor cores.
fn form(line: &str) -> Option<&str> {
    let (_, instruction) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let word = instruction.split_whitespace().find(|word| !word.starts_with('@'))?;
    let mnemonic = word.split(['.', ';']).next()?;
    mnemonic.ends_with("MMA").then_some(word.trim_end_matches(';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_counted_by_entry() {
        let text = "
\t\tFunction : first
\t.headerflags\t@\"EF_CUDA_SM100\"
        /*0000*/                   LDC R1, c[0x0][0x37c] ;                 /* 0x0000df00ff017b82 */
        /*0010*/               @P0 UTCOMMA.2CTA.4X gdesc[UR4], gdesc[UR6], tmem[UR8], tmem[UR10] ; /* 0x00 */
        /*0020*/                   UTCOMMA.2CTA.4X gdesc[UR4], gdesc[UR6], tmem[UR8], tmem[UR10] ; /* 0x00 */
\t\tFunction : second
        /*0000*/                   HMMA.16816.F32 R4, R8, R12, R4 ;        /* 0x00 */
                                                                           /* 0x000fe20000000f00 */
        /*0010*/                   VIMNMX.U32 R4, R8, R12, PT ;            /* 0x00 */
\t\tFunction : third
";
        let entries = parse(text);
        let list = |name: &str| -> Vec<(&str, usize)> {
            entries[name].iter().map(|(form, &count)| (form.as_str(), count)).collect()
        };
        assert_eq!(list("first"), [("UTCOMMA.2CTA.4X", 2)]);
        assert_eq!(list("second"), [("HMMA.16816.F32", 1)]);
        assert!(list("third").is_empty() && entries.len() == 3);
    }
}
