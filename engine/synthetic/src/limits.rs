// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left out of a schedule: steps past a number, programs by their numbers, plain stores.
//! Not here: which of it can be left out of a failure (`shrink`), how it is left out (`world`,
//! `exec`).
//! Units: steps and programs are counted from 1, in the order in which the guest takes and plans
//! them.
//! Threads: plain values.
//! Source: none; the smallest set of limits that shorten a schedule and leave the rest as it is.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What is left out of a schedule; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Steps after which the guest does nothing; when it is suspended it still ends what is under
    /// way.
    pub steps: Option<u64>,
    /// The only programs that do anything; others take their time and make their claims, but do
    /// nothing.
    pub programs: Option<Numbers>,
    /// Plain stores into data pages are left out.
    pub no_writes: bool,
}

impl Limits {
    /// Whether a program is carried out.
    pub(crate) fn runs(&self, program: u64) -> bool {
        self.programs.as_ref().is_none_or(|numbers| numbers.contains(program))
    }
}

/// A program that the guest began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub number: u64,
    /// The step in which it was begun.
    pub step: u64,
    /// What it does.
    pub behaviour: &'static str,
}

/// A set of numbers, written as `3,7,12-14`, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(Vec<RangeInclusive<u64>>);

impl Numbers {
    /// Whether a number is in the set.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|range| *range.end() < number);
        self.0.get(after).is_some_and(|range| range.contains(&number))
    }

    /// The largest number of the set.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|range| *range.end())
    }
}

impl FromIterator<RangeInclusive<u64>> for Numbers {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u64>>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<u64>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match joined.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

impl FromIterator<u64> for Numbers {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        numbers.into_iter().map(|number| number..=number).collect()
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match (*range.start(), *range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A string that is no list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotNumbers(String);

impl fmt::Display for NotNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no list of numbers such as 3,7,12-14, or none", self.0)
    }
}

impl std::error::Error for NotNumbers {}

impl FromStr for Numbers {
    type Err = NotNumbers;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        if list == "none" {
            return Ok(Self::default());
        }
        let bad = || NotNumbers(list.to_owned());
        let range = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let first: u64 = first.trim().parse().map_err(|_| bad())?;
            let last: u64 = last.trim().parse().map_err(|_| bad())?;
            if first > last { Err(bad()) } else { Ok(first..=last) }
        };
        list.split(',').map(range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_sorted_and_joined() {
        let numbers: Numbers = "12-14, 3,7,13-20,8".parse().expect("a list");
        assert_eq!(numbers.to_string(), "3,7-8,12-20");
        assert_eq!(numbers.to_string().parse(), Ok(numbers.clone()));
        let inside: Vec<u64> = (0..25).filter(|&number| numbers.contains(number)).collect();
        assert_eq!(inside, [3, 7, 8, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
        let all: Numbers = "0-18446744073709551615,5".parse().expect("everything");
        assert!(all.contains(0) && all.contains(u64::MAX));
        assert_eq!((all.last(), numbers.last()), (Some(u64::MAX), Some(20)));
        let none: Numbers = "none".parse().expect("nothing");
        assert!(!none.contains(0) && none.to_string() == "none" && none.last().is_none());
        assert_eq!([5, 2, 3].into_iter().collect::<Numbers>().to_string(), "2-3,5");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in ["", "5-3", "1,,2", "a", "-4", "1-2-3", "99999999999999999999"] {
            assert!(bad.parse::<Numbers>().is_err(), "{bad}");
        }
    }
}
