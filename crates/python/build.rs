//! Lets the extension module find Python's symbols in the interpreter that loads it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Elsewhere that is what a linker does anyway.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos") {
        println!("cargo::rustc-cdylib-link-arg=-undefined");
        println!("cargo::rustc-cdylib-link-arg=dynamic_lookup");
    }
}
