// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of every command that runs the engine: how leaves are compared and remembered.
//! Not here: the kernels and the forms (`p2mtrack`), other options (`args`).
//! Units: names.
//! Threads: plain values.
//! Source: own; names of options are an interface and are not renamed.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use p2mtrack::config::Config;
use p2mtrack::diff::{KERNEL_VARIABLE, Kernel};
use p2mtrack::shadow::{Forms, SHADOW_VARIABLE};

/// How leaves are compared and remembered
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// The kernel that compares leaves [default: the best one for this machine]
    #[arg(long, value_name = "NAME", env = KERNEL_VARIABLE, value_parser = kernels())]
    pub(crate) kernel: Option<Kernel>,
    /// The form in which the shadow holds leaves [default: the smallest one for each leaf]
    #[arg(long, value_name = "FORM", env = SHADOW_VARIABLE, value_parser = forms())]
    pub(crate) shadow: Option<Forms>,
}

impl CompareArgs {
    /// An engine's configuration with these choices.
    pub(crate) fn config(&self) -> Config {
        Config { kernel: self.kernel, shadow: self.shadow, ..Config::default() }
    }

    /// The options that repeat these choices, each after a space.
    pub(crate) fn options(&self) -> String {
        let kernel = self.kernel.map(|kernel| format!(" --kernel {kernel}"));
        let shadow = self.shadow.map(|forms| format!(" --shadow {forms}"));
        [kernel, shadow].into_iter().flatten().collect()
    }
}

fn kernels() -> impl TypedValueParser<Value = Kernel> {
    PossibleValuesParser::new(Kernel::NAMES).try_map(|name| name.parse::<Kernel>())
}

fn forms() -> impl TypedValueParser<Value = Forms> {
    PossibleValuesParser::new(Forms::ALL.map(Forms::name)).try_map(|name| name.parse::<Forms>())
}
