//! `netlab up LAB SITE=NODES…` builds a lab and takes commands a line from standard input until it
//! ends; `netlab clean` removes what crashed runs left.

use netlab::{Direction, Lab, Link, clean};
use std::io::{BufRead, Write};
use std::time::Duration;

const USAGE: &str = "\
usage:
  netlab up LAB SITE=NODES...   for example: netlab up try a=2 b=2 w=1
  netlab clean [--all]          remove what dead runs left (--all: running labs too)

commands of a running lab, one a line; A and B are sites, > one way, - both:
  delay A-B 5ms        time a packet takes, one way
  jitter A-B 1ms       up to so much more
  loss A>B 0.01        share of packets lost
  bandwidth A-B 100    megabits a second, 0: unlimited
  cut A>B              lose everything
  heal A-B             end all cuts of the link
  show                 nodes, addresses, namespaces
  quit                 or the end of the input";

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["up", lab, sites @ ..] if !sites.is_empty() => up(lab, sites),
        ["clean"] => clean_up(false),
        ["clean", "--all"] => clean_up(true),
        _ => Err(USAGE.to_string()),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{words}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn clean_up(all: bool) -> Result<(), String> {
    for namespace in clean(all).map_err(|error| error.to_string())? {
        println!("removed {namespace}");
    }
    Ok(())
}

fn up(name: &str, sites: &[&str]) -> Result<(), String> {
    let mut lab = Lab::new(name).map_err(|error| error.to_string())?;
    for site in sites {
        let (site, nodes) = site.split_once('=').ok_or(USAGE)?;
        let nodes: u8 = nodes
            .parse()
            .map_err(|_| format!("'{nodes}' is no number of nodes"))?;
        lab.site(site).map_err(|error| error.to_string())?;
        for number in 1..=nodes {
            lab.node(site, &format!("{site}{number}"))
                .map_err(|error| error.to_string())?;
        }
    }
    show(&lab);
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => continue,
            ["quit"] => break,
            ["show"] => show(&lab),
            _ => match obey(&lab, &words) {
                Ok(()) => println!("ok"),
                Err(words) => println!("error: {words}"),
            },
        }
        std::io::stdout()
            .flush()
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn show(lab: &Lab) {
    for node in lab.nodes() {
        println!(
            "{} {} {} {}",
            node.site(),
            node.name(),
            node.address(),
            node.namespace()
        );
    }
    println!("ready");
}

fn obey(lab: &Lab, words: &[&str]) -> Result<(), String> {
    let (verb, sites) = match words {
        [verb, sites, ..] => (*verb, *sites),
        _ => return Err(USAGE.to_string()),
    };
    let (link, direction) = find(lab, sites)?;
    match (verb, words.get(2).copied()) {
        ("delay", Some(time)) => link.set_delay(direction, duration(time)?),
        ("jitter", Some(time)) => link.set_jitter(direction, duration(time)?, false),
        ("loss", Some(share)) => {
            let share = share
                .parse()
                .ok()
                .filter(|share| (0.0..=1.0).contains(share));
            link.set_loss(direction, share.ok_or("a share lies between 0 and 1")?);
        }
        ("bandwidth", Some(megabits)) => {
            let megabits: u64 = megabits
                .parse()
                .map_err(|_| "megabits a second are a number")?;
            link.set_bandwidth(direction, (megabits > 0).then_some(megabits * 1_000_000));
        }
        ("cut", None) => link.cut(direction),
        ("heal", None) => link.heal(),
        _ => return Err(USAGE.to_string()),
    }
    Ok(())
}

fn find(lab: &Lab, sites: &str) -> Result<(Link, Direction), String> {
    let (from, to, direction) = match (sites.split_once('>'), sites.split_once('-')) {
        (Some((from, to)), _) => (from, to, Direction::Forth),
        (None, Some((from, to))) => (from, to, Direction::Both),
        (None, None) => return Err(format!("'{sites}' is neither A-B nor A>B")),
    };
    let known = |site: &str| lab.nodes().any(|node| node.site() == site);
    match from != to && known(from) && known(to) {
        true => Ok((lab.link(from, to), direction)),
        false => Err(format!("there is no link between '{from}' and '{to}'")),
    }
}

/// `5ms`, `300us`, `1s`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("'{text}' is no time: 5ms is"))?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("'{text}' needs a unit: us, ms or s")),
    }
}
