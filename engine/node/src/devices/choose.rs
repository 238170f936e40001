//! Which front-end a block device has: the best that this host offers, of those that the configuration allows.

use serde::{Deserialize, Serialize};

/// A front-end that gives a block device, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontEnd {
    /// ublk: requests by commands of io_uring.
    Ublk,
    /// The kernel's NBD client, over a socketpair.
    KernelNbd,
    /// A loop device on a file served over FUSE.
    Loop,
}

/// All, best first.
pub const ALL: [FrontEnd; 3] = [FrontEnd::Ublk, FrontEnd::KernelNbd, FrontEnd::Loop];

impl FrontEnd {
    /// As the configuration and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ublk => "ublk",
            Self::KernelNbd => "kernel-nbd",
            Self::Loop => "loop",
        }
    }

    /// Why this host or process cannot have it; none if it can. What nobody asked for by its name must be able to all
    /// that a volume is.
    pub fn unavailable(self, asked_for: bool) -> Option<String> {
        match self {
            Self::Ublk => lockstep_ublk::unavailable().or_else(|| {
                let grows = asked_for || lockstep_ublk::can_grow();
                (!grows).then(|| {
                    "this kernel's ublk cannot resize a device in use (6.16 and later can)".into()
                })
            }),
            Self::KernelNbd => lockstep_kernel_nbd::unavailable(),
            Self::Loop => lockstep_fuse::unavailable(),
        }
    }
}

/// What was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// This one.
    pub front_end: FrontEnd,
    /// The better ones, each with why not.
    pub passed_over: Vec<String>,
}

/// Chooses: `wanted`, or else the first of `allowed` that can be had.
///
/// # Errors
/// For people: why nothing can be had.
pub fn choose(
    wanted: Option<FrontEnd>,
    allowed: &[FrontEnd],
    unavailable: impl Fn(FrontEnd, bool) -> Option<String>,
) -> Result<Choice, String> {
    let mut passed_over = Vec::new();
    for front_end in allowed {
        if wanted.is_some_and(|wanted| wanted != *front_end) {
            continue;
        }
        // One that is the only one allowed is asked for, too.
        let asked_for = wanted.is_some() || allowed.len() == 1;
        match unavailable(*front_end, asked_for) {
            None => {
                return Ok(Choice {
                    front_end: *front_end,
                    passed_over,
                });
            }
            Some(why) => passed_over.push(format!("{}: {why}", front_end.name())),
        }
    }
    if let Some(wanted) = wanted.filter(|wanted| !allowed.contains(wanted)) {
        passed_over.push(format!(
            "{}: this node's configuration leaves it out of devices.front_ends",
            wanted.name()
        ));
    }
    if passed_over.is_empty() {
        passed_over.push("devices.front_ends in its configuration is empty".into());
    }
    Err(format!(
        "this node offers no such block device: {}; take the NBD socket (--front-end nbd)",
        passed_over.join("; ")
    ))
}

/// The better ones of `allowed` than `taken`, each with why not.
pub fn passed_over(taken: FrontEnd, allowed: &[FrontEnd]) -> Vec<String> {
    let better = allowed.iter().take_while(|better| **better != taken);
    better
        .filter_map(|it| Some(format!("{}: {}", it.name(), it.unavailable(false)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(missing: &[FrontEnd]) -> impl Fn(FrontEnd, bool) -> Option<String> {
        move |front_end, _| missing.contains(&front_end).then(|| "not here".into())
    }

    #[test]
    fn the_best_that_is_there_is_taken_and_the_better_ones_are_named() {
        let choice = choose(None, &ALL, without(&[])).expect("all are there");
        assert_eq!(choice.front_end, ALL[0]);
        assert!(choice.passed_over.is_empty());
        let choice = choose(None, &ALL, without(&ALL[..1])).expect("the next is there");
        assert_eq!(choice.front_end, ALL[1]);
        assert_eq!(choice.passed_over.len(), 1);
        assert!(choice.passed_over[0].ends_with(": not here"));
    }

    #[test]
    fn the_configuration_says_what_and_in_which_order() {
        let turned = [FrontEnd::Loop, FrontEnd::KernelNbd];
        let choice = choose(None, &turned, without(&[])).expect("both are there");
        assert_eq!(choice.front_end, FrontEnd::Loop);
        let said = choose(Some(FrontEnd::KernelNbd), &[FrontEnd::Loop], without(&[]));
        assert!(said.expect_err("left out").contains("devices.front_ends"));
        let said = choose(None, &[], without(&[])).expect_err("none is allowed");
        assert!(said.contains("is empty"), "{said}");
    }

    #[test]
    fn what_cannot_do_everything_is_taken_only_if_it_is_asked_for() {
        let half = |front_end, asked_for: bool| {
            (front_end == FrontEnd::Ublk && !asked_for).then(|| "cannot resize".into())
        };
        let choice = choose(None, &ALL, half).expect("another is there");
        assert_eq!(choice.front_end, FrontEnd::KernelNbd);
        assert_eq!(choice.passed_over, ["ublk: cannot resize"]);
        let choice = choose(Some(FrontEnd::Ublk), &ALL, half).expect("asked for");
        assert_eq!(choice.front_end, FrontEnd::Ublk);
        let choice = choose(None, &[FrontEnd::Ublk], half).expect("forced");
        assert_eq!(choice.front_end, FrontEnd::Ublk);
    }

    #[test]
    fn what_is_asked_for_is_not_replaced_by_another() {
        let wanted = Some(FrontEnd::KernelNbd);
        let choice = choose(wanted, &ALL, without(&[FrontEnd::Loop])).expect("it is there");
        assert_eq!(choice.front_end, FrontEnd::KernelNbd);
        let said = choose(wanted, &ALL, without(&[FrontEnd::KernelNbd])).expect_err("not there");
        assert!(
            said.contains("kernel-nbd: not here") && !said.contains("loop"),
            "{said}"
        );
        let said = choose(None, &ALL, without(&ALL)).expect_err("nothing is there");
        assert!(ALL.iter().all(|it| said.contains(it.name())), "{said}");
    }
}
