//! The site grammar: `2`, `a=2,b=1`, `*=1`.

use crate::label::shorten;
use crate::{MAX_LABEL, Refusal, check_label};
use lockstep_types::FaultDomain;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Copies of a volume at most.
pub const MAX_COPIES: u32 = 8;
/// Characters of the longest text that is read: every site with a longest name.
const MAX_TEXT: usize = MAX_COPIES as usize * (MAX_LABEL + 4);

/// How many copies, where.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Grammar {
    /// So many, spread evenly over the widest fault domains there are.
    Count(u32),
    /// So many in each named site.
    Sites(BTreeMap<String, u32>),
    /// So many in each data site there is.
    EachSite(u32),
}

/// Why a text is no grammar.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("'{text}' says not where copies go: {why}; examples: '2', 'a=2,b=1', '*=1'")]
pub struct GrammarError {
    /// What was given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Grammar {
    /// Whether the sites exist and the counts fit the fault domain, whatever is free now.
    ///
    /// # Errors
    /// [`Refusal::NoSites`], [`Refusal::UnknownSite`], [`Refusal::TooManyCopies`],
    /// [`Refusal::Contradiction`]; also a grammar built by hand with a count of 0.
    pub fn check(
        &self,
        fault_domain: FaultDomain,
        sites: &BTreeSet<String>,
    ) -> Result<(), Refusal> {
        if sites.is_empty() {
            return Err(Refusal::NoSites);
        }
        if let Self::Sites(wanted) = self
            && let Some(site) = wanted.keys().find(|site| !sites.contains(*site))
        {
            let known = sites.iter().cloned().collect();
            return Err(Refusal::UnknownSite {
                site: site.clone(),
                known,
            });
        }
        let copies = self.copies(sites.len());
        if copies == 0 || copies > u64::from(MAX_COPIES) {
            return Err(Refusal::TooManyCopies { copies });
        }
        match self.largest_site_share() {
            (site, copies) if copies > 1 && fault_domain == FaultDomain::Site => {
                Err(Refusal::Contradiction { site, copies })
            }
            _ => Ok(()),
        }
    }

    /// Copies in all, where there are so many data sites.
    pub fn copies(&self, sites: usize) -> u64 {
        match self {
            Self::Count(n) => u64::from(*n),
            Self::Sites(wanted) => wanted.values().map(|n| u64::from(*n)).sum(),
            Self::EachSite(n) => u64::from(*n) * sites as u64,
        }
    }

    /// Copies wanted in this site; `None` where the grammar leaves it open.
    pub fn wanted_in(&self, site: &str) -> Option<u32> {
        match self {
            Self::Count(_) => None,
            Self::Sites(wanted) => Some(wanted.get(site).copied().unwrap_or(0)),
            Self::EachSite(n) => Some(*n),
        }
    }

    fn largest_site_share(&self) -> (String, u32) {
        match self {
            Self::Count(_) => (String::new(), 0),
            Self::EachSite(n) => ("*".into(), *n),
            Self::Sites(wanted) => {
                let largest = wanted.iter().max_by_key(|(_, n)| **n);
                largest.map_or((String::new(), 0), |(site, n)| (site.clone(), *n))
            }
        }
    }
}

/// Whether copies held in `held` sites are promised to stand in two sites or more: named so, in each
/// of several data sites, or counted and so placed.
pub fn spreads_over(grammar: &Grammar, data_sites: usize, held: usize) -> bool {
    match grammar {
        Grammar::Sites(wanted) => wanted.len() >= 2,
        Grammar::EachSite(_) => data_sites >= 2,
        Grammar::Count(_) => held >= 2,
    }
}

impl fmt::Display for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::EachSite(n) => write!(f, "*={n}"),
            Self::Sites(wanted) => {
                for (at, (site, n)) in wanted.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{site}={n}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Grammar {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let bad = |why: String| GrammarError {
            text: shorten(text),
            why,
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if text.len() > MAX_TEXT {
            return Err(bad(format!("it has more than {MAX_TEXT} characters")));
        }
        if !text.contains('=') {
            return number(text).map(Self::Count).map_err(bad);
        }
        if let Some(count) = text.strip_prefix("*=") {
            return number(count).map(Self::EachSite).map_err(bad);
        }
        let mut wanted = BTreeMap::new();
        for part in text.split(',') {
            let (site, count) = part
                .split_once('=')
                .ok_or_else(|| bad(format!("'{}' is not SITE=COPIES", shorten(part))))?;
            let (site, count) = (site.trim(), count.trim());
            if site == "*" {
                return Err(bad(
                    "'*' stands for every site and goes with no other".into()
                ));
            }
            check_label(site).map_err(|error| bad(format!("site {error}")))?;
            let count = number(count).map_err(bad)?;
            if wanted.insert(site.to_owned(), count).is_some() {
                return Err(bad(format!("site '{site}' is named twice")));
            }
        }
        let sum: u32 = wanted.values().sum();
        if sum > MAX_COPIES {
            return Err(bad(format!("{sum} copies are more than {MAX_COPIES}")));
        }
        Ok(Self::Sites(wanted))
    }
}

/// A number of copies, 1 to [`MAX_COPIES`], digits only.
fn number(text: &str) -> Result<u32, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("'{}' is not a number of copies", shorten(text)));
    }
    match text.parse::<u32>() {
        Ok(0) => Err("0 copies keep nothing".into()),
        Ok(n) if n <= MAX_COPIES => Ok(n),
        _ => Err(format!(
            "{} copies are more than {MAX_COPIES}",
            shorten(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Grammar, String> {
        text.parse::<Grammar>().map_err(|error| error.to_string())
    }

    fn sites(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_three_forms_print_as_they_are_read() {
        for text in ["1", "2", "8", "a=2,b=1", "*=1", "east-1=1,west-1=2"] {
            assert_eq!(parse(text).expect("good").to_string(), text);
        }
        assert_eq!(parse(" b=1 , a=2 ").expect("spaces").to_string(), "a=2,b=1");
    }

    #[test]
    fn every_bad_text_is_refused_with_its_reason() {
        let long = format!("a={}", "1".repeat(300));
        let long_name = format!("{}=1", "n".repeat(300));
        for (text, why) in [
            ("", "empty"),
            ("  ", "empty"),
            ("0", "0 copies"),
            ("9", "more than 8"),
            ("-1", "not a number"),
            ("+1", "not a number"),
            ("two", "not a number"),
            ("99999999999999999999", "more than 8"),
            ("a=0", "0 copies"),
            ("a=9", "more than 8"),
            ("a=5,b=5", "more than 8"),
            ("a=1,a=1", "twice"),
            ("a=1,*=1", "every site"),
            ("*=1,a=1", "not a number"),
            ("a=1,", "not SITE=COPIES"),
            ("a=1,b", "not SITE=COPIES"),
            ("=1", "empty"),
            ("a==1", "not a number"),
            ("../etc=1", "no name"),
            ("a/b=1", "no name"),
            (&long, "more than 8"),
            (&long_name, "no name"),
            (&"a=1,".repeat(300), "characters"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.chars().count() < 400, "{error}");
        }
    }

    #[test]
    fn a_grammar_is_checked_against_the_sites_there_are() {
        let two = sites(&["a", "b"]);
        let check = |text: &str, level| parse(text).expect("parses").check(level, &two);
        assert_eq!(check("a=2,b=1", FaultDomain::Node), Ok(()));
        assert_eq!(
            check("a=1,c=1", FaultDomain::Node),
            Err(Refusal::UnknownSite {
                site: "c".into(),
                known: vec!["a".into(), "b".into()]
            })
        );
        assert_eq!(
            check("a=2,b=1", FaultDomain::Site),
            Err(Refusal::Contradiction {
                site: "a".into(),
                copies: 2
            })
        );
        assert_eq!(
            check("*=5", FaultDomain::Node),
            Err(Refusal::TooManyCopies { copies: 10 })
        );
        assert_eq!(
            Grammar::Count(0).check(FaultDomain::Node, &two),
            Err(Refusal::TooManyCopies { copies: 0 })
        );
        assert_eq!(
            Grammar::Count(2).check(FaultDomain::Node, &sites(&[])),
            Err(Refusal::NoSites)
        );
    }
}
