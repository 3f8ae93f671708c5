// SPDX-License-Identifier: MIT OR Apache-2.0
//! The environment variables that force a kernel and a form, each read once per process: one
//! process per case.
//! Not here: their effect (`config`), options of the command line (`engine/cli/tests`).
//! Units: none.
//! Threads: one a process.
//! Source: `KERNEL_VARIABLE`, `SHADOW_VARIABLE`.

use std::process::Command;

use p2mtrack::diff::{KERNEL_VARIABLE, Kernel};
use p2mtrack::shadow::{Forms, SHADOW_VARIABLE};

/// The child's part: prints what is chosen, and asserts nothing.
#[test]
fn what_is_chosen() {
    let kernel = Kernel::choose().map_err(|unknown| unknown.to_string());
    let forms = Forms::choose().map_err(|unknown| unknown.to_string());
    println!("\nchosen: {kernel:?} {forms:?}");
}

/// What a process with these variables prints; `None` is an unset variable.
fn chosen(kernel: Option<&str>, form: Option<&str>) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "what_is_chosen", "--nocapture"]);
    for (name, value) in [(KERNEL_VARIABLE, kernel), (SHADOW_VARIABLE, form)] {
        match value {
            Some(value) => child.env(name, value),
            None => child.env_remove(name),
        };
    }
    let output = child.output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix("chosen: "));
    line.unwrap_or_else(|| panic!("nothing was chosen: {text}")).to_owned()
}

#[test]
fn a_variable_forces_a_kernel_and_a_form_and_an_empty_one_forces_nothing() {
    let best = format!("Ok({:?}) Ok(Auto)", Kernel::detect());
    assert_eq!(chosen(None, None), best);
    assert_eq!(chosen(Some(""), Some("")), best);
    assert_eq!(chosen(Some("scalar"), Some("packed")), "Ok(scalar) Ok(Packed)");
    assert_eq!(chosen(Some("wide"), Some("raw")), "Ok(wide) Ok(Raw)");
    let unknown = chosen(Some("avx9"), Some("flat"));
    assert!(unknown.starts_with("Err(\"no diff kernel is called"), "{unknown}");
    assert!(unknown.contains("Err(\"no form of a shadow leaf is called"), "{unknown}");
}
