//! Libraries that tests build for Sluice to load.
//!
//! Owns: how a source in C, C++ or Rust is compiled. Refuses to know: what is in it. Keeps: a warning of the compiler is an error.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Sluice, tools};

/// The folder of an example of `sluice-abi`.
pub fn example(name: &str) -> PathBuf {
    of_abi().join("examples").join(name)
}

fn of_abi() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sluice-abi")
}

/// Builds the example of `sluice-sdk` with that name, with the cargo that builds the tests; returns the library.
///
/// # Panics
/// It cannot be built.
pub fn rust_example(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--offline", "-p", "sluice-sdk", "--example", name]);
    tools::must(&mut command);
    let folder = Sluice::binary().parent().map(|folder| folder.join("examples"));
    folder.expect("the binary is in a folder").join(format!("lib{name}.so"))
}

/// Compiles a source to `libNAME.so` in `folder`; `None` if there is no compiler.
///
/// # Panics
/// The compiler complains.
pub fn compile(source: &Path, folder: &Path) -> Option<PathBuf> {
    compile_with(source, folder, &[])
}

/// As [`compile`], with these arguments behind the source.
///
/// # Panics
/// The compiler complains.
pub fn compile_with(source: &Path, folder: &Path, more: &[&str]) -> Option<PathBuf> {
    let is_c = source.extension().is_some_and(|of| of == "c");
    let (compiler, standard) = if is_c { ("cc", "-std=c11") } else { ("c++", "-std=c++17") };
    if !tools::have(&[compiler]) {
        return None;
    }
    let name = source.file_stem().expect("a source has a name").to_string_lossy();
    let library = folder.join(format!("lib{name}.so"));
    let mut command = tools::command(compiler);
    command.args([standard, "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", "-pthread"]);
    command.arg("-I").arg(of_abi().join("include")).arg("-o").arg(&library).arg(source);
    command.args(more);
    tools::must(&mut command);
    Some(library)
}

/// As [`compile`], of a text in C.
///
/// # Panics
/// The text cannot be written, or the compiler complains.
pub fn compile_text(name: &str, text: &str, folder: &Path) -> Option<PathBuf> {
    let source = folder.join(format!("{name}.c"));
    std::fs::write(&source, text).expect("the source is written");
    compile(&source, folder)
}

/// The library of AddressSanitizer, as the compiler of C has it; `None` if it has none.
pub fn address_sanitizer() -> Option<PathBuf> {
    if !tools::have(&["cc"]) {
        return None;
    }
    let printed = tools::must(tools::command("cc").arg("-print-file-name=libasan.so"));
    // A compiler that does not know the file prints its bare name.
    let path = PathBuf::from(printed.trim());
    tools::have_files(&[&path.to_string_lossy()]).then_some(path)
}
