//! The compilation target: what makes rustc emit code that the kernel accepts.
//!
//! The kernel's own Rust build is the model (`scripts/generate_rust_target.rs`, `Makefile` and
//! `arch/x86/Makefile` of 6.12), so that the code looks to objtool as the kernel's own would.

use serde_json::json;

use crate::config::KernelConfig;
use crate::toolchain::Version;

/// The target's file name; its stem is the target's name.
pub(crate) const FILE: &str = "x86_64-dynamos.json";

/// The target specification and the flags that go with it, the same for every crate.
pub(crate) struct Target {
    /// Contents of the target specification file.
    pub(crate) spec: String,
    /// Code generation flags.
    pub(crate) flags: Vec<String>,
}

impl Target {
    /// What `config` asks for, in the words this version of rustc understands.
    pub(crate) fn new(config: &KernelConfig, version: Version) -> Self {
        Self { spec: spec(config, version), flags: flags(config, version) }
    }
}

fn spec(config: &KernelConfig, version: Version) -> String {
    // Soft float is an ABI of its own since 1.86, renamed in 1.98.
    let softfloat = if version.at_least(1, 98) { "softfloat" } else { "x86-softfloat" };
    let width = if version.at_least(1, 91) { json!(64) } else { json!("64") };
    let mut spec = json!({
        "arch": "x86_64",
        "llvm-target": "x86_64-linux-gnu",
        "os": "none",
        "data-layout":
            "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128",
        "target-pointer-width": width,
        "features": features(config),
        "code-model": "kernel",
        "relocation-model": "static",
        "disable-redzone": true,
        "panic-strategy": "abort",
        "default-uwtable": false,
        "executables": false,
        "max-atomic-width": 64,
        "linker": "ld",
        "linker-flavor": "gnu",
        "rustc-abi": softfloat,
    });
    if config.is_on("KASAN_GENERIC")
        && let Some(object) = spec.as_object_mut()
    {
        object.insert("supported-sanitizers".to_owned(), json!(["kernel-address"]));
    }
    format!("{spec:#}\n")
}

fn features(config: &KernelConfig) -> String {
    let mut features: Vec<&str> =
        "-mmx,-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2,+soft-float".split(',').collect();
    if config.any_on(&["RETPOLINE", "MITIGATION_RETPOLINE"]) {
        features.extend([
            "+retpoline-external-thunk",
            "+retpoline-indirect-branches",
            "+retpoline-indirect-calls",
        ]);
    }
    if config.any_on(&["SLS", "MITIGATION_SLS"]) {
        features.extend(["+harden-sls-ijmp", "+harden-sls-ret"]);
    }
    features.join(",")
}

fn flags(config: &KernelConfig, version: Version) -> Vec<String> {
    let mut flags: Vec<String> = [
        "-Zunstable-options",
        "-Copt-level=2",
        "-Cdebuginfo=0",
        "-Cpanic=abort",
        "-Cforce-unwind-tables=n",
        "-Ccodegen-units=1",
        "-Csymbol-mangling-version=v0",
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        "-Cno-redzone=y",
        "-Cdebug-assertions=n",
        // An overflow in the code that patches the kernel must stop, not wrap.
        "-Coverflow-checks=y",
        "-Zfunction-sections=n",
        "-Ztune-cpu=generic",
    ]
    .map(str::to_owned)
    .into();
    // Jump tables are indirect jumps: not allowed with retpolines, NOTRACK with IBT.
    let jump_tables = if version.at_least(1, 93) { "-Cjump-tables=n" } else { "-Zno-jump-tables" };
    flags.push(jump_tables.to_owned());
    if config.is_on("X86_KERNEL_IBT") {
        flags.push("-Zcf-protection=branch".to_owned());
    }
    if config.any_on(&["RETHUNK", "MITIGATION_RETHUNK"]) {
        flags.push("-Zfunction-return=thunk-extern".to_owned());
    }
    if config.is_on("CALL_PADDING")
        && let Some(bytes) = config.value("FUNCTION_PADDING_BYTES")
    {
        flags.push(format!("-Zpatchable-function-entry={bytes},{bytes}"));
    }
    flags.extend(kasan(config).into_iter().flatten());
    flags
}

/// As `scripts/Makefile.kasan`, every check a call: it is about what is found, not about speed. Not for the
/// globals, which here are all constant or guarded by the compiler.
fn kasan(config: &KernelConfig) -> Option<impl Iterator<Item = String>> {
    let offset = config.value("KASAN_SHADOW_OFFSET").filter(|_| config.is_on("KASAN_GENERIC"))?;
    let arguments = [
        format!("-asan-mapping-offset={offset}"),
        "-asan-instrumentation-with-call-threshold=0".to_owned(),
        "-asan-stack=1".to_owned(),
        "-asan-globals=0".to_owned(),
    ];
    let sanitizer = ["-Zsanitizer=kernel-address", "-Zsanitizer-recover=kernel-address"];
    let arguments = arguments.map(|argument| format!("-Cllvm-args={argument}"));
    Some(sanitizer.map(str::to_owned).into_iter().chain(arguments))
}
