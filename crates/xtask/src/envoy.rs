//! The descriptors of Envoy's messages.
//!
//! Owns: which files they come from, and which of them are kept. Refuses to know: what a message means. Keeps: nothing
//! that is compiled here is part of a build; the versions are pinned, so that the result is the same everywhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::shell::{command, output, root, run, target};

/// Where the descriptors are kept.
const DESCRIPTORS: &str = "crates/sluice-envoy/envoy.desc";

/// The packages that contain Envoy's definitions and their compiler. The first is never built: its sources are 16 MB.
const PACKAGES: &str =
    "[dependencies]\nenvoy-types = \"=0.7.7\"\nprotoc-bin-vendored = \"=3.3.0\"\n";

/// The folders of definitions that a file of Envoy can name messages of, below the folder of their package.
const KEPT: [(&str, &str); 8] = [
    ("data-plane-api", "envoy/config"),
    ("data-plane-api", "envoy/extensions"),
    ("data-plane-api", "envoy/type"),
    ("data-plane-api", "envoy/service/discovery"),
    ("data-plane-api", "envoy/service/runtime"),
    ("data-plane-api", "envoy/service/secret"),
    ("xds", "xds"),
    ("xds", "udpa"),
];

/// The folders that imports are resolved in.
const IMPORTS: [&str; 8] = [
    "cel-spec/proto",
    "client_model",
    "data-plane-api",
    "googleapis",
    "opentelemetry-proto",
    "protoc-gen-validate",
    "ratelimit",
    "xds",
];

/// Compiles Envoy's definitions to `crates/sluice-envoy/envoy.desc`: without comments, with the rules that their
/// fields are annotated with.
///
/// # Errors
/// A package cannot be fetched, or the compiler fails.
pub fn protos() -> anyhow::Result<()> {
    let folder = target().join("envoy-protos");
    fs::create_dir_all(folder.join("src"))?;
    let manifest = folder.join("Cargo.toml");
    let package = "[package]\nname = \"envoy-protos\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(&manifest, format!("{package}{PACKAGES}"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    let manifest = manifest.display().to_string();
    run(&mut command("cargo", &["fetch", "--manifest-path", &manifest]))?;
    let args = ["metadata", "--format-version", "1", "--manifest-path", &manifest];
    let metadata = output(&mut command("cargo", &args))?;
    let protos = package_folder(&metadata, "envoy-types-0.7.7")?.join("proto");
    let compiler = package_folder(&metadata, "protoc-bin-vendored-linux-x86_64-3.3.0")?;
    let mut protoc = command(&compiler.join("bin/protoc").display().to_string(), &[]);
    protoc.args(IMPORTS.iter().map(|import| format!("-I{}", protos.join(import).display())));
    protoc.arg(format!("-I{}", compiler.join("include").display()));
    protoc.args(["--include_imports", "-o"]).arg(root().join(DESCRIPTORS));
    for (package, kept) in KEPT {
        let base = protos.join(package);
        let mut files = Vec::new();
        proto_files(&base.join(kept), &mut files)?;
        files.sort();
        for file in files {
            protoc.arg(file.strip_prefix(&base)?);
        }
    }
    output(&mut protoc).map(drop)
}

/// The folder of a package in the output of `cargo metadata`.
fn package_folder(metadata: &str, name: &str) -> anyhow::Result<PathBuf> {
    let end = format!("/{name}/Cargo.toml\"");
    let Some(at) = metadata.find(&end) else { bail!("cargo metadata does not name {name}") };
    let start = metadata[..at].rfind('"').map_or(0, |quote| quote + 1);
    Ok(PathBuf::from(&metadata[start..at]).join(name))
}

fn proto_files(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
