// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a save is, in the words of the stock helper, which scripts look for.
//! Not here: the messages (`message`).
//! Units: pages.
//! Threads: one owner.
//! Source: `xen-migrate.md` 1.2. A step is told when its percentage changes: xl prints no others.

use p2mtrack_migrate::outcome::{Event, Part};

use crate::line::Line;
use crate::message::Level;

/// What was told last.
#[derive(Debug, Default)]
pub struct Progress {
    part: String,
    percent: Option<u64>,
}

impl Progress {
    /// Tells libxl what a save tells.
    pub fn tell(&mut self, line: &Line, event: Event) {
        match event {
            Event::Begins(part) => (self.part, self.percent) = (words(part), None),
            Event::Sent(done, total) if self.is_news(done, total) => {
                line.progress(&self.part, done, total);
            }
            Event::Suspended => line.progress("Domain now suspended", 0, 0),
            Event::TookOver => {
                let words = "log-dirty was on, by a program that died or does not lock: it is \
                             taken over, and that program loses its marks";
                line.log(Level::Warn, words);
            }
            Event::Guard(replaced) => line.log(Level::Warn, &replaced.to_string()),
            Event::Sent(..) | Event::Round(_) => {}
        }
    }

    fn is_news(&mut self, done: u64, total: u64) -> bool {
        let percent = Some(u128::from(done) * 100 / u128::from(total.max(1))).map(|p| p as u64);
        let is_news = total > 0 && self.percent != percent;
        self.percent = percent;
        is_news
    }
}

fn words(part: Part) -> String {
    match part {
        Part::Round(number) => format!("Frames iteration {number}"),
        Part::Whole => "Frames".to_owned(),
        Part::Checkpoint => "Checkpointed save".to_owned(),
        Part::Verify => "Frames verify".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line;
    use std::io::Read;

    #[test]
    fn the_words_are_those_of_the_stock_helper_and_come_once_a_percent() {
        let (line, mut heard, _reply) = line::tests::line();
        let mut progress = Progress::default();
        let mut tell = |event| progress.tell(&line, event);
        tell(Event::Begins(Part::Round(3)));
        for done in [10, 11, 20, 1000] {
            tell(Event::Sent(done, 1000));
        }
        tell(Event::Suspended);
        for part in [Part::Whole, Part::Checkpoint, Part::Verify] {
            tell(Event::Begins(part));
            tell(Event::Sent(7, 7));
            tell(Event::Sent(0, 0));
        }
        drop(line);
        let mut bytes = Vec::new();
        heard.read_to_end(&mut bytes).expect("messages");
        let text = String::from_utf8_lossy(&bytes);
        let count = |words: &str| text.matches(words).count();
        assert_eq!(count("Frames iteration 3\0"), 3);
        for once in ["Domain now suspended\0", "Frames\0", "Checkpointed save\0", "Frames verify\0"]
        {
            assert_eq!(count(once), 1, "{once}");
        }
    }
}
