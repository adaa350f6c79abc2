//! Guests in WebAssembly that compilers build from `tests/guests/`.
//!
//! Owns: how a guest in Rust, C++ or AssemblyScript is built. Refuses to know: what it does. Keeps: a warning of the compiler of C++
//! is an error; the packages of each are those that its own files pin.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools;

/// The target of guests in Rust.
const TARGET: &str = "wasm32-wasip1";

/// What the compiler of C++ links guests with.
const FOR_CPP: [&str; 4] = [
    "/usr/include/wasm32-wasi/c++/v1/string",
    "/usr/lib/wasm32-wasi/libc++abi.a",
    "/usr/lib/wasm32-wasi/libc.a",
    "/usr/lib/llvm-19/lib/clang/19/lib/wasi",
];

/// Builds the guest `gate` by the SDK for a language: `rust`, `cpp` or `assemblyscript`; `None` if its compiler is missing. What
/// is built on the way goes to `folder`.
///
/// # Panics
/// The compiler complains, or nobody knows the language.
pub fn built(language: &str, folder: &Path) -> Option<Vec<u8>> {
    let module = match language {
        "rust" => rust(),
        "cpp" => cpp(folder),
        "assemblyscript" => assemblyscript(folder),
        _ => panic!("no guest is written in {language}"),
    };
    module.map(|path| std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")))
}

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests").join(language)
}

/// In the build directory, where later runs find what is compiled.
fn rust() -> Option<PathBuf> {
    let sysroot = tools::must(Command::new("rustc").args(["--print", "sysroot"]));
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    if !tools::have_files(&[&library.to_string_lossy()]) {
        return None;
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let target = target.expect("a test is in a build directory").join("guests");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(sources("rust")).args(["build", "--quiet", "--locked", "--release"]);
    command.args(["--target", TARGET, "--target-dir"]).arg(&target);
    // What the tests are built with is for another target.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    tools::must(&mut command);
    Some(target.join(TARGET).join("release/gate.wasm"))
}

fn cpp(folder: &Path) -> Option<PathBuf> {
    if !tools::have(&["clang++-19", "wasm-ld-19"]) || !tools::have_files(&FOR_CPP) {
        return None;
    }
    let module = folder.join("cpp.wasm");
    let mut command = tools::command("clang++-19");
    command.args(["--target=wasm32-wasi", "-std=c++20", "-stdlib=libc++", "-fno-exceptions"]);
    command.args(["-mexec-model=reactor", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-o"]);
    command.arg(&module).arg(sources("cpp").join("gate.cpp"));
    tools::must(&mut command);
    Some(module)
}

fn assemblyscript(folder: &Path) -> Option<PathBuf> {
    let modules = tools::node_modules(&["assemblyscript", "@solo-io/proxy-runtime"])?;
    // The compiler wants its packages and sources below the folder that it runs in.
    let base = folder.join("assemblyscript");
    std::fs::create_dir_all(&base).expect("the folder can be written");
    let packages = base.join("node_modules");
    if !packages.exists() {
        std::os::unix::fs::symlink(&modules, packages).expect("the folder can be written");
    }
    let source = sources("assemblyscript").join("gate.ts");
    std::fs::copy(source, base.join("gate.ts")).expect("the source is there");
    let module = folder.join("assemblyscript.wasm");
    let mut command = tools::command("node");
    command.current_dir(&base).arg(modules.join("assemblyscript/bin/asc")).arg("gate.ts");
    command.args(["--optimize", "--use", "abort=abort_proc_exit", "-b"]).arg(&module);
    tools::must(&mut command);
    Some(module)
}
