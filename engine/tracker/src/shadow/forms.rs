// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which forms the shadow may use: all of them, or one forced for a test or a measurement.
//! Not here: the choice for one leaf (`shadow::encode`).
//! Units: none.
//! Threads: plain values.
//! Source: the names are public: option `--shadow`, variable [`SHADOW_VARIABLE`].

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The environment variable that forces a form where no option does.
pub const SHADOW_VARIABLE: &str = "P2MTRACK_SHADOW";

/// The forms that a leaf may have. A hole is a hole under each of them, and a leaf that no allowed
/// form can hold is raw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Forms {
    /// The smallest form.
    #[default]
    Auto,
    /// Segments and patches in a block, even for a single segment; packed if there are too many.
    Segments,
    /// Packed.
    Packed,
    /// Every word as it was read.
    Raw,
}

impl Forms {
    /// All of them, the one with the smallest forms first.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Segments, Self::Packed, Self::Raw];

    /// The name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Segments => "segments",
            Self::Packed => "packed",
            Self::Raw => "raw",
        }
    }

    /// What [`SHADOW_VARIABLE`] forces, or else `Auto`. The variable is read once per process.
    ///
    /// # Errors
    /// The variable names no form.
    pub fn choose() -> Result<Self, UnknownForm> {
        static CHOSEN: OnceLock<Result<Forms, UnknownForm>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| match std::env::var(SHADOW_VARIABLE) {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(Self::Auto),
        });
        chosen.clone()
    }

    pub(super) fn allow_affine(self) -> bool {
        self == Self::Auto
    }

    pub(super) fn allow_runs(self) -> bool {
        matches!(self, Self::Auto | Self::Segments)
    }

    pub(super) fn allow_packed(self) -> bool {
        self != Self::Raw
    }
}

impl fmt::Display for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name of an unknown form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownForm(pub String);

impl fmt::Display for UnknownForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Forms::ALL.map(Forms::name).join(", ");
        write!(f, "no form of a shadow leaf is called {:?} (known: {known})", self.0)
    }
}

impl std::error::Error for UnknownForm {}

impl FromStr for Forms {
    type Err = UnknownForm;

    fn from_str(name: &str) -> Result<Self, UnknownForm> {
        let known = Self::ALL.into_iter().find(|forms| forms.name() == name);
        known.ok_or_else(|| UnknownForm(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_found_by_name() {
        for forms in Forms::ALL {
            assert_eq!(forms.to_string().parse(), Ok(forms));
        }
        let unknown = "flat".parse::<Forms>().expect_err("no such form").to_string();
        let known = "(known: auto, segments, packed, raw)";
        assert_eq!(unknown, format!("no form of a shadow leaf is called \"flat\" {known}"));
    }
}
