// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes that a guest may make at any time, made for it, and undone at the end: entries of its p2m
//! and m2p, its roots.
//! Not here: how the engine reacts.
//! Units: frames of 4 KiB; words of 8 bytes.
//! Threads: one.
//! Source: own; `dom0/flavour.c` makes the hypercalls and maps the frames.

use std::error::Error;
use std::process::Command;

use p2mtrack::frame::{Mfn, Pfn};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Pokes in one domain, undone in the opposite order.
pub struct Pokes {
    domid: u16,
    undo: Vec<Vec<String>>,
}

fn flavour(words: &[String]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let output = Command::new("flavour").args(words).output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("flavour {}: {message}", words.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

impl Pokes {
    /// No pokes yet.
    pub const fn new(domid: u16) -> Self {
        Self { domid, undo: Vec::new() }
    }

    /// Sets the m2p of a frame of `owner` to `pfn`; it was `before`.
    pub fn m2p(&mut self, owner: u16, mfn: Mfn, pfn: u64, before: Pfn) -> Outcome {
        let words = |pfn: u64| {
            vec![owner.to_string(), "m2p".into(), format!("{:#x}", mfn.0), format!("{pfn:#x}")]
        };
        flavour(&words(pfn))?;
        self.undo.push(words(before.0));
        Ok(())
    }

    /// Writes a word of a frame of the domain.
    pub fn word(&mut self, mfn: Mfn, index: usize, word: u64) -> Outcome {
        let place =
            vec![self.domid.to_string(), "word".into(), format!("{:#x}", mfn.0), index.to_string()];
        self.write(place, word)
    }

    /// Writes a word of its shared_info.
    pub fn shared_info(&mut self, offset: u64, word: u64) -> Outcome {
        self.write(vec![self.domid.to_string(), "poke".into(), format!("{offset:#x}")], word)
    }

    fn write(&mut self, mut place: Vec<String>, word: u64) -> Outcome {
        place.push(format!("{word:#x}"));
        let before = flavour(&place)?;
        place.pop();
        place.push(before);
        self.undo.push(place);
        Ok(())
    }

    /// Undoes all of them.
    pub fn undo(&mut self) -> Outcome {
        while let Some(words) = self.undo.pop() {
            flavour(&words)?;
        }
        Ok(())
    }
}

impl Drop for Pokes {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            eprintln!("pokes could not be undone: {error}");
        }
    }
}
